"""Polygons onto grids: by pixel centre, in any format and CRS, overlaps by rule; tags by the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes as outlines
from rasterio.warp import transform as move

from cromss.data.labelling.polygons import burn_polygons, read_polygons
from cromss.data.labelling.tags import DYNAMIC_WORLD_TAGS, OSM13_TAGS, classify_tags, tag_table
from cromss.errors import ArgumentError, ConfigError, DamagedFileError, GridError, MissingDataError
from cromss.geo.legends import get_legend
from cromss.geo.raster import Grid, read_raster
from small_scenes import grid

pyogrio = pytest.importorskip("pyogrio", reason="needs the extra `polygons`")
shapely = pytest.importorskip("shapely", reason="needs the extra `polygons`")


def _centres(where: Grid) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: where.height, : where.width] + 0.5
    a, b, c, d, e, f = where.transform[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f


def _write(path, shapes, crs="EPSG:32633", driver=None, **columns):
    names = list(columns)
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(shape) for shape in shapes], object),
        field_data=[np.array(columns[name], object) for name in names],
        fields=names,
        geometry_type="Unknown" if driver != "ESRI Shapefile" else "Polygon",
        crs=crs,
        driver=driver,
    )
    return path


def _star(x, y, size, points, rng):
    """A ragged polygon around a point."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radius = rng.uniform(0.3, 1, points) * size
    return shapely.Polygon(np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)]))


@pytest.fixture
def where():
    return grid(40)


@pytest.fixture
def stars(where):
    rng = np.random.default_rng(3)
    left, top = where.transform.c, where.transform.f
    return [_star(left + rng.uniform(0, 400), top - rng.uniform(0, 400), 120, 9, rng) for _ in range(12)]


def test_a_pixel_belongs_to_the_smallest_polygon_that_holds_its_centre(where, stars):
    classes = [index % 5 for index in range(len(stars))]
    burnt, contested = burn_polygons(stars, classes, where)
    x, y = _centres(where)
    inside = np.array([shapely.contains_xy(star, x, y) for star in stars])
    expected, expected_contested = np.full(where.shape, 255), 0
    for row, column in np.ndindex(where.shape):
        holders = [index for index in range(len(stars)) if inside[index, row, column]]
        if holders:
            expected[row, column] = classes[min(holders, key=lambda index: stars[index].area)]
        expected_contested += len({classes[index] for index in holders}) > 1
    assert (burnt == expected).all()
    assert contested == expected_contested > 0


def test_where_classes_overlap_ignore_gives_no_label(where, stars):
    classes = [index % 5 for index in range(len(stars))]
    smallest, contested = burn_polygons(stars, classes, where)
    ignored, again = burn_polygons(stars, classes, where, overlap="ignore")
    assert contested == again == int((smallest != ignored).sum())
    assert (ignored[smallest != ignored] == 255).all()
    with pytest.raises(ArgumentError, match="cannot be burnt"):
        burn_polygons(stars, classes, where, overlap="largest")


def test_overlapping_polygons_of_one_class_keep_it(where):
    a = shapely.box(*_inner(where, 0, 0, 20, 20))
    b = shapely.box(*_inner(where, 10, 10, 30, 30))
    burnt, contested = burn_polygons([a, b], [4, 4], where, overlap="ignore")
    assert contested == 0
    assert (burnt == 4).sum() == 20 * 20 * 2 - 10 * 10


def _inner(where, left, top, right, bottom):
    """The box of some pixels."""
    x, y = where.transform.c, where.transform.f
    return x + 10 * left, y - 10 * bottom, x + 10 * right, y - 10 * top


@pytest.mark.parametrize(("suffix", "driver"), [("gpkg", "GPKG"), ("shp", "ESRI Shapefile"), ("geojson", "GeoJSON")])
def test_every_format_gives_the_same_labels(suffix, driver, where, stars, tmp_path):
    crs = "EPSG:4326" if driver == "GeoJSON" else "EPSG:32633"
    shapes = [_to(star, 32633, 4326) for star in stars] if driver == "GeoJSON" else stars
    path = _write(tmp_path / f"a.{suffix}", shapes, crs, driver, fclass=["forest"] * len(stars))
    polygons = read_polygons(path, where, OSM13_TAGS)
    assert set(polygons.columns["fclass"]) == {"forest"}
    burnt, _ = burn_polygons(polygons.shapes, [2] * len(polygons), where)
    expected, _ = burn_polygons(stars, [2] * len(stars), where)
    assert (burnt != expected).sum() <= (2 if driver == "GeoJSON" else 0)  # centres within 1e-7 degrees of a border


def _to(shape, source, target):
    def points(xy):
        return np.column_stack(move(CRS.from_epsg(source), CRS.from_epsg(target), xy[:, 0], xy[:, 1]))

    return shapely.transform(shape, points)


def test_borders_bend_with_the_crs_and_pixels_are_judged_by_their_true_place(tmp_path):
    """A box of degrees around a scene of 100 km: its borders are curves in metres, 100 m off their chords."""
    where = Grid(height=250, width=250, transform=Affine(400, 0, 600000, 0, -400, 6700000), crs=CRS.from_epsg(32633))
    box = shapely.box(16.9, 59.8, 18.4, 60.3)
    path = _write(tmp_path / "a.gpkg", [box], "EPSG:4326", natural=["water"])
    burnt, _ = burn_polygons(read_polygons(path, where, OSM13_TAGS).shapes, [8], where)
    x, y = _centres(where)
    lon, lat = move(where.crs, CRS.from_epsg(4326), x.ravel(), y.ravel())
    inside = shapely.contains_xy(box, lon, lat).reshape(where.shape)
    assert inside.any()
    assert not inside.all()
    assert (burnt == 8)[inside].all()
    assert not (burnt == 8)[~inside].any()


def test_a_polygon_of_the_whole_world_covers_a_scene(where, tmp_path):
    path = _write(tmp_path / "a.gpkg", [shapely.box(-180, -90, 180, 90)], "EPSG:4326", natural=["water"])
    polygons = read_polygons(path, where, OSM13_TAGS)
    assert (burn_polygons(polygons.shapes, [8], where)[0] == 8).all()


def test_the_smaller_of_two_that_reach_far_out_still_wins(where, tmp_path):
    path = _write(
        tmp_path / "a.gpkg", [shapely.box(5, 40, 20, 55), shapely.box(-10, 30, 40, 60)], "EPSG:4326",
        natural=["wood", "water"],
    )  # fmt: skip
    polygons = read_polygons(path, where, OSM13_TAGS)
    names, _ = classify_tags(polygons.columns, len(polygons), OSM13_TAGS)
    classes = [["forest", "water"].index(name) for name in names]
    burnt, _ = burn_polygons(polygons.shapes, classes, where, sizes=polygons.sizes)
    assert (burnt == 0).all()


@pytest.mark.slow
def test_real_land_use_survives_the_way_to_polygons_and_back(sentinel_mini, tmp_path):
    raster = read_raster(sentinel_mini / "downstream" / "osm_landuse" / "labels.tif")
    labels = raster.values_BHW[0]
    found = list(outlines(labels, mask=labels != 255, transform=raster.grid.transform))
    path = _write(
        tmp_path / "a.gpkg", [shapely.geometry.shape(outline) for outline, _ in found], raster.grid.crs.to_wkt(),
        fclass=[str(int(value)) for _, value in found],
    )  # fmt: skip
    polygons = read_polygons(path, raster.grid, ["fclass"])
    burnt, contested = burn_polygons(polygons.shapes, [int(v) for v in polygons.columns["fclass"]], raster.grid)
    assert contested == 0
    assert (burnt == labels).all()


def _varint(number):
    parts = bytearray()
    while True:
        parts.append(number & 127 | (128 if number > 127 else 0))
        number >>= 7
        if not number:
            return bytes(parts)


def _field(number, content):
    """A field of a protocol buffer: a whole number, or bytes with their length."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _zigzag(number):
    return number << 1 if number >= 0 else -number * 2 - 1


def _osm_xml(path, nodes, tags):
    """One closed way around `nodes`, (lon, lat), as OpenStreetMap's XML."""
    places = "".join(f'<node id="{i}" version="1" lat="{lat}" lon="{lon}"/>' for i, (lon, lat) in enumerate(nodes, 1))
    refs = "".join(f'<nd ref="{i}"/>' for i in (*range(1, len(nodes) + 1), 1))
    said = "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags.items())
    path.write_text(f'<?xml version="1.0"?><osm version="0.6">{places}<way id="9" version="1">{refs}{said}</way></osm>')


def _osm_pbf(path, nodes, tags):
    """The same in the binary format, written by hand: a header block and one block of nodes and a way."""
    words = ["", *(word for pair in tags.items() for word in pair)]
    table = b"".join(_field(1, word.encode()) for word in words)
    places = b"".join(
        _field(1, _field(1, _zigzag(i)) + _field(8, _zigzag(round(lat * 1e7))) + _field(9, _zigzag(round(lon * 1e7))))
        for i, (lon, lat) in enumerate(nodes, 1)
    )
    steps = [1, *[1] * (len(nodes) - 1), 1 - len(nodes)]  # differences of the ids 1, 2, ..., n, 1
    keys, values = range(1, len(words), 2), range(2, len(words), 2)
    way = _field(1, 9) + _field(2, bytes(keys)) + _field(3, bytes(values))
    way += _field(8, b"".join(_varint(_zigzag(step)) for step in steps))
    block = _field(1, table) + _field(2, places) + _field(2, _field(3, way))
    header = _field(4, b"OsmSchema-V0.6")
    content = b""
    for kind, data in ((b"OSMHeader", header), (b"OSMData", block)):
        blob = _field(1, data)
        head = _field(1, kind) + _field(3, len(blob))
        content += len(head).to_bytes(4, "big") + head + blob
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "write"), [("a.osm", _osm_xml), ("a.osm.pbf", _osm_pbf)])
def test_an_openstreetmap_extract_is_read_with_its_own_keys(name, write, where, tmp_path):
    x, y = where.transform.c, where.transform.f
    corners = [x - 50, x + 200, x + 200, x - 50], [y + 50, y + 50, y - 450, y - 450]
    nodes = list(zip(*move(where.crs, CRS.from_epsg(4326), *corners), strict=True))
    write(tmp_path / name, nodes, {"natural": "wetland", "wetland": "tidalflat"})
    polygons = read_polygons(tmp_path / name, where, OSM13_TAGS)
    assert classify_tags(polygons.columns, len(polygons), OSM13_TAGS)[0] == ["coastal"]  # the finer key comes first
    burnt, _ = burn_polygons(polygons.shapes, [12], where)
    assert (burnt[:, :20] == 12).all()
    assert (burnt[:, 20:] == 255).all()


def test_lines_and_points_are_counted_and_polygons_elsewhere_left_out(where, tmp_path):
    x, y = where.transform.c, where.transform.f
    shapes = [
        shapely.Point(x + 50, y - 50),
        shapely.LineString([(x, y), (x + 100, y - 100)]),
        shapely.box(*_inner(where, 0, 0, 5, 5)),
        shapely.box(x + 90000, y, x + 90100, y + 100),
    ]
    path = _write(tmp_path / "a.gpkg", shapes, landuse=["forest"] * 4)
    polygons = read_polygons(path, where, OSM13_TAGS)
    assert len(polygons) == 1
    assert polygons.not_areas == 2


def test_a_hole_stays_open_and_a_bow_tie_is_no_traceback(where, tmp_path):
    holed = shapely.box(*_inner(where, 0, 0, 20, 20)).difference(shapely.box(*_inner(where, 5, 5, 15, 15)))
    x, y = where.transform.c, where.transform.f
    tie = shapely.Polygon([(x + 200, y - 200), (x + 400, y - 400), (x + 400, y - 200), (x + 200, y - 400)])
    path = _write(tmp_path / "a.gpkg", [holed, tie], landuse=["forest", "meadow"])
    burnt, _ = burn_polygons(read_polygons(path, where, OSM13_TAGS).shapes, [2, 6], where)
    assert (burnt[5:15, 5:15] == 255).all()
    assert (burnt == 2).sum() == 300
    assert (burnt == 6).any()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda p: p / "none.gpkg", MissingDataError, "absent"),
        (lambda p: _text(p / "a.gpkg", "no geopackage"), DamagedFileError, "can not be read"),
        (lambda p: _text(p / "a.geojson", '{"type": "Feat'), DamagedFileError, "can not be read"),
        (
            lambda p: _text(p / "a.geojson", json.dumps({"type": "FeatureCollection", "features": []})),
            MissingDataError,
            "no feature",
        ),
        (lambda p: _write(p / "a.gpkg", [shapely.box(0, 0, 1, 1)], None, "GPKG", fclass=["x"]), GridError, "CRS"),
        (lambda p: _write(p / "a.gpkg", [shapely.box(0, 0, 1, 1)], use=["x"]), ConfigError, "none of the columns"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")  # that is what one of the files is about
def test_a_bad_file_of_polygons_is_refused(make, kind, words, where, tmp_path):
    with pytest.raises(kind, match=words) as caught:
        read_polygons(make(tmp_path), where, OSM13_TAGS)
    assert caught.value.do


def _text(path, content):
    path.write_text(content)
    return path


def test_layers_are_named_when_there_are_several(where, tmp_path):
    path = _write(tmp_path / "a.gpkg", [shapely.box(*_inner(where, 0, 0, 5, 5))], fclass=["forest"])
    with_second = shapely.to_wkb(shapely.box(*_inner(where, 0, 0, 9, 9)))
    pyogrio.raw.write(
        path, geometry=np.array([with_second], object), field_data=[np.array(["water"], object)], fields=["fclass"],
        geometry_type="Polygon", crs="EPSG:32633", driver="GPKG", layer="second", append=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="several layers"):
        read_polygons(path, where, OSM13_TAGS)
    with pytest.raises(ConfigError, match="no such layer"):
        read_polygons(path, where, OSM13_TAGS, layer="third")
    assert read_polygons(path, where, OSM13_TAGS, layer="second").columns["fclass"] == ["water"]


def test_an_image_without_a_crs_is_refused(where, tmp_path):
    path = _write(tmp_path / "a.gpkg", [shapely.box(0, 0, 1, 1)], fclass=["x"])
    with pytest.raises(GridError, match="without a CRS"):
        read_polygons(path, grid(4, crs=None), OSM13_TAGS)


def test_every_tag_leads_to_a_class_of_its_legend():
    for legend, table in (("osm13", OSM13_TAGS), ("dynamic_world", DYNAMIC_WORLD_TAGS)):
        names = set(get_legend(legend).names)
        assert {name for values in table.values() for name in values.values()} <= names
    assert {name for values in OSM13_TAGS.values() for name in values.values()} == set(get_legend("osm13").names)
    seen = tag_table(get_legend("dynamic_world"))
    assert seen["natural"]["glacier"] == "snow_and_ice"
    assert seen["landuse"]["residential"] == "built"
    assert {name for values in seen.values() for name in values.values()} == set(get_legend("dynamic_world").names)


def test_untold_tags_are_counted_by_what_they_say():
    columns = {"landuse": ["military", "forest", None], "natural": [None, None, None]}
    names, untold = classify_tags(columns, 3, OSM13_TAGS)
    assert names == [None, "forest", None]
    assert untold == {"landuse=military": 1, "no tag of the table": 1}


def test_whole_numbers_are_values_alike_in_a_column_of_floats_as_one_with_gaps_is(where, tmp_path):
    left, bottom, right, top = where.bounds
    halves = [shapely.box(left, bottom, right, (bottom + top) / 2), shapely.box(left, (bottom + top) / 2, right, top)]
    (tmp_path / "tags.yaml").write_text("kind: {1: water, 2.0: trees}\n")
    table = tag_table(get_legend("dynamic_world"), tmp_path / "tags.yaml")
    path = tmp_path / "a.gpkg"
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(shape) for shape in [*halves, halves[0]]], object),
        field_data=[np.array([1.0, 2.0, np.nan])],
        fields=["kind"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    found = read_polygons(path, where, table)
    names, untold = classify_tags(found.columns, len(found), table)
    assert names == ["water", "trees", None]
    assert untold == {"no tag of the table": 1}


def test_a_table_of_ones_own_is_checked_against_the_legend(tmp_path):
    legend = get_legend("water")
    path = tmp_path / "tags.yaml"
    path.write_text(yaml.safe_dump({"kind": {"lake": "water", "1": "not_water"}}))
    assert tag_table(legend, path) == {"kind": {"lake": "water", "1": "not_water"}}
    path.write_text(yaml.safe_dump({"kind": {"lake": "sea"}}))
    with pytest.raises(ConfigError, match="not in the legend"):
        tag_table(legend, path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="column"):
        tag_table(legend, path)
    with pytest.raises(ConfigError, match="no table"):
        tag_table(legend)
