"""Label maps of other grids, legends and catalogues, brought onto an image's grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as move

from cromss.data.labelling.catalog import footprint, tile_finder
from cromss.data.labelling.warped import warp_labels
from cromss.errors import ConfigError, DamagedFileError, GridError, LabelError, MissingDataError
from cromss.geo.legends import LEGENDS, get_legend
from cromss.geo.raster import Grid
from cromss.geo.remap import REMAPS, read_remap, remap, remap_table
from small_scenes import grid, write_labels
from stac_api import serving

CODES = np.array(sorted(code for code, target in LEGENDS["worldcover"].codes.items() if target != 255), np.uint8)


def _degrees(side=200, west=12.86, north=47.97, step=1e-4):
    """A WorldCover-like grid around the image of `small_scenes.grid`."""
    transform = Affine(step, 0, west, 0, -step, north)
    return Grid(height=side, width=side, transform=transform, crs=CRS.from_epsg(4326))


def _codes(where, seed=0):
    values = np.random.default_rng(seed).choice(CODES, (where.height // 4 + 1, where.width // 4 + 1))
    return values.repeat(4, axis=0).repeat(4, axis=1)[: where.height, : where.width]


@pytest.fixture
def tile(tmp_path):
    where = _degrees()
    write_labels(tmp_path / "wc.tif", _codes(where), where, nodata=0)
    return tmp_path / "wc.tif"


def _nearest(image, where, values):
    """The slow twin: the value of the pixel that holds each centre of the image; 0 outside."""
    result = np.zeros(image.shape, np.int64)
    for row, column in np.ndindex(image.shape):
        a, _, c, _, e, f = image.transform[:6]
        (lon,), (lat,) = move(image.crs, where.crs, [c + a * (column + 0.5)], [f + e * (row + 0.5)])
        across, down = (lon - where.transform.c) / where.transform.a, (lat - where.transform.f) / where.transform.e
        if 0 <= across < where.width and 0 <= down < where.height:
            result[row, column] = values[int(down), int(across)]
    return result


def test_each_pixel_takes_the_class_under_its_centre_and_no_class_is_invented(tile):
    image, where = grid(60), _degrees()
    found, given = warp_labels([tile], image, get_legend("worldcover"))
    codes = _nearest(image, where, _codes(where))
    expected = np.array([LEGENDS["worldcover"].codes[int(code)] for code in codes.ravel()]).reshape(image.shape)
    assert (expected != 255).all()
    assert (found == expected).mean() > 0.999  # a centre on an edge may go either way
    assert given == {str(tile): 3600}


def test_outside_the_map_there_is_no_label_and_a_second_tile_fills_in(tile, tmp_path):
    image = grid(60, transform=Affine(10, 0, 339900, 0, -10, 5314800))
    here, given = warp_labels([tile], image, get_legend("worldcover"))
    assert 0 < (here != 255).sum() == sum(given.values()) < 3600
    other = _degrees(400, west=12.84)
    write_labels(tmp_path / "other.tif", np.full(other.shape, 80, np.uint8), other, nodata=0)
    both, given = warp_labels([tile, tmp_path / "other.tif"], image, get_legend("worldcover"))
    assert (both[here != 255] == here[here != 255]).all()
    assert (both[here == 255] == LEGENDS["worldcover"].codes[80]).all()
    assert sum(given.values()) == 3600


def test_a_map_without_a_no_data_value_still_ends_at_its_edge(tmp_path):
    where = _degrees(100, west=12.8640, north=47.965)
    write_labels(tmp_path / "a.tif", np.zeros(where.shape, np.uint8), where, nodata=None)
    found, _ = warp_labels([tmp_path / "a.tif"], grid(120), get_legend("dynamic_world"))
    assert set(np.unique(found)) == {0, 255}  # 0 is water, not what lies outside


@pytest.mark.parametrize(
    ("values", "options", "kind", "words"),
    [
        (np.full((100, 100), 33, np.uint8), {}, LabelError, "33"),
        (np.full((100, 100), 0.5, np.float32), {"nodata": None}, LabelError, "one band of class codes"),
        (np.full((2, 100, 100), 10, np.uint8), {}, LabelError, "one band of class codes"),
    ],
)
def test_a_map_that_is_no_label_map_is_refused(values, options, kind, words, tmp_path):
    write_labels(tmp_path / "a.tif", values, _degrees(100, west=12.86, north=47.965), **{"nodata": 0, **options})
    with pytest.raises(kind, match=words):
        warp_labels([tmp_path / "a.tif"], grid(20), get_legend("worldcover"))


def test_a_missing_crs_is_refused_on_either_side(tile, tmp_path):
    with pytest.raises(GridError, match="without a CRS"):
        warp_labels([tile], grid(4, crs=None), get_legend("worldcover"))
    where = grid(4, crs=None)
    write_labels(tmp_path / "a.tif", np.full((4, 4), 10, np.uint8), where, nodata=0)
    with pytest.raises(GridError, match="its CRS"):
        warp_labels([tmp_path / "a.tif"], grid(4), get_legend("worldcover"))


@pytest.mark.parametrize("pair", REMAPS)
def test_every_class_of_a_source_has_its_place_in_the_target(pair):
    source, target = LEGENDS[pair[0]], LEGENDS[pair[1]]
    table = remap_table(source, target)
    ids = remap(np.arange(source.num_classes, dtype=np.uint8), table)
    assert (remap_table(source, target)[source.num_classes :] == 255).all()
    for name, number in zip(source.names, ids, strict=True):
        assert ("-" if number == 255 else target.names[number]) == REMAPS[pair][name]
    if target.name == "dynamic_world":
        assert (ids != 255).all()


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    water, world = get_legend("water"), get_legend("dynamic_world")
    with pytest.raises(ConfigError, match="no table"):
        remap_table(water, world)
    assert (remap_table(water, water)[:2] == [0, 1]).all()
    path = tmp_path / "remap.yaml"
    path.write_text(yaml.safe_dump({"water": "water", "not_water": "-"}))
    assert remap_table(water, world, read_remap(path))[:3].tolist() == [255, 0, 255]
    for wrong in (
        {"water": "water"},
        {"water": "sea", "not_water": "-"},
        {"water": "water", "not_water": "-", "x": "-"},
    ):
        with pytest.raises(ConfigError, match="does not fit"):
            remap_table(water, world, wrong)
    path.write_text("water\n")
    with pytest.raises(ConfigError, match="holds"):
        read_remap(path)


def _item(name, href, box, date, asset="map", collection="wc"):
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": list(box), "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"datetime": f"{date}T00:00:00Z"},
        "links": [], "assets": {asset: {"href": str(href)}},
    }  # fmt: skip


def _static(folder, items):
    """A catalogue on disk: catalog.json and an item file each."""
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    content = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d",
        "links": [{"rel": "root", "href": "./catalog.json"}, *links],
    }  # fmt: skip
    (folder / "catalog.json").write_text(json.dumps(content))
    for item in items:
        (folder / f"{item['id']}.json").write_text(json.dumps(item))
    return str(folder / "catalog.json")


@pytest.fixture
def items():
    west, south, east, north = footprint(grid(16))
    here = (west - 0.1, south - 0.1, east + 0.1, north + 0.1)
    away = (west + 5, south, east + 5, north)
    return [
        _item("old", "./old.tif", here, "2020-01-01"),
        _item("new", "./new.tif", here, "2021-01-01"),
        _item("away", "./away.tif", away, "2021-01-01"),
        _item("foreign", "./foreign.tif", here, "2021-06-01", collection="other"),
    ]


def test_a_catalogue_on_disk_gives_the_tiles_that_touch_newest_first(items, tmp_path):
    pytest.importorskip("pystac_client", reason="needs the extra `stac`")
    where = _static(tmp_path, items)

    def names(**settings):
        given = {"collection": "wc", "asset": "map", "start": None, "end": None, **settings}
        return [path.rpartition("/")[2] for path in tile_finder(where, **given)(grid(16))]

    assert names() == ["new.tif", "old.tif"]
    assert names(collection=None) == ["foreign.tif", "new.tif", "old.tif"]
    assert names(end="2020-12-31") == ["old.tif"]
    assert names(start="2020-06-01") == ["new.tif"]
    paths = tile_finder(where, "wc", "map", None, None)(grid(16))
    assert paths[0] == str(tmp_path / "new.tif")  # not relative to wherever the command runs
    with pytest.raises(MissingDataError, match="no such asset"):
        names(asset="data")
    with pytest.raises(MissingDataError, match="no items of collection"):
        names(collection="cw")
    with pytest.raises(ConfigError, match="not a date"):
        names(start="last year")


@pytest.mark.parametrize("content", ['{"type": "Catalog"', '{"type": "Feature"}', "[]", '{"id": 3}'])
def test_what_is_no_catalogue_is_refused(content, tmp_path):
    pytest.importorskip("pystac_client", reason="needs the extra `stac`")
    (tmp_path / "catalog.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"STAC catalogue|does not parse"):
        tile_finder(str(tmp_path / "catalog.json"), None, "map", None, None)
    with pytest.raises(MissingDataError, match="absent"):
        tile_finder(str(tmp_path / "none.json"), None, "map", None, None)


@pytest.fixture
def api(items):
    with serving(items) as server:
        yield server


def test_an_api_is_asked_for_the_box_and_the_days_of_an_image(api):
    pytest.importorskip("pystac_client", reason="needs the extra `stac`")
    where = f"http://127.0.0.1:{api.server_port}/"
    with pytest.raises(ConfigError, match="name of a collection"):
        tile_finder(where, None, "map", None, None)
    find = tile_finder(where, "wc", "map", "2020-01-01", "2021-12-31")
    assert [path.rpartition("/")[2] for path in find(grid(16))] == ["new.tif", "old.tif"]
    assert api.asked[0]["collections"] == ["wc"]
    np.testing.assert_allclose(api.asked[0]["bbox"], footprint(grid(16)))
    assert api.asked[0]["datetime"].startswith("2020-01-01T00:00:00Z/2021-12-31T23:59:59Z")
    api.broken = True
    with pytest.raises(DamagedFileError, match="STAC catalogue"):
        find(grid(16))
