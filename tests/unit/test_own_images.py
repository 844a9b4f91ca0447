"""Sensors, labels of all kinds and masks of a catalogue or a cube make the store that they make as GeoTIFFs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("zarr", reason="needs the extra `zarr`")
pytest.importorskip("pystac", reason="needs the extra `stac`")
pytest.importorskip("pystac_client", reason="needs the extra `stac`")

from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.data.store.layout import soft_layer
from cromss.errors import BandError, ConfigError
from cromss.geo.legends import LEGENDS
from cube_scenes import CubeWriter
from small_scenes import DEM_SECTION, S2_BANDS, dem_values, grid, s2_values, settings, write, write_dem, write_s2
from stac_scenes import catalogue, item

NAMES = LEGENDS["dynamic_world"].names
DAYS = ("2021-06-01", "2021-09-01")
COMMON = {"s1": None, "labels": None, "cloud_values": "scl", "mask_clouds": True, "tile": 16}
HERE = {"dem": {key: value for key, value in DEM_SECTION["dem"].items() if key != "files"}}
FILES = {
    "s2": "s2/{id}/{season}.tif",
    "sensors": DEM_SECTION,
    "probabilities": "soft/{id}/{season}.tif",
    "cloud_mask": "scl/{id}/{season}.tif",
}
CUBE = {
    "path": "land.zarr",
    "s2": {"variable": "s2"},
    "dem": {"variables": {"height": "elevation", "slope": "slope"}},
    "probabilities": {"variable": "soft"},
    "clouds": {"variable": "scl"},
}
STAC = {
    "catalog": "catalogue/catalog.json",
    "season": "date",
    "place": "place",
    "s2": {"collection": "s2", "asset": "image"},
    "dem": {"collection": "dem", "asset": "image", "season": None},
    "probabilities": {"collection": "soft", "assets": {f"p_{name}": name for name in NAMES}},
    "clouds": {"collection": "scl", "asset": "image"},
}
ANNOTATORS = {"dw": "dw/{id}/{season}.tif", "osm": "osm/{id}.tif"}
IN_CUBE = {"dw": {"variable": "dw"}, "osm": {"variable": "osm", "path": "osm.zarr"}}
IN_STAC = {
    "dw": {"collection": "dw", "asset": "image"},
    "osm": {"collection": "osm", "asset": "image", "season": None},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One place of two days with heights, soft labels and a mask: in folders, in a cube, in a catalogue."""
    root, random, where = tmp_path_factory.mktemp("own"), np.random.default_rng(0), grid(32)
    s2 = np.stack([s2_values(random, 32) for _ in DAYS])
    soft = np.moveaxis(random.dirichlet(np.full(9, 0.3), (2, 32, 32)), -1, 1).astype(np.float32)
    soft[1, :, :3, :5] = 0  # no label
    scl = random.choice([4, 5, 9], (2, 32, 32)).astype(np.uint8)
    dw, osm = (random.choice([0, 1, 6, 255], (days, 32, 32)).astype(np.uint8) for days in (2, 1))
    osm[0, :16, :16] = 255  # of the first patch of 16 px
    dem = dem_values(random, 32)
    write_dem(root / "dem" / "land.tif", dem)
    write(root / "osm" / "land.tif", osm, where, nodata=255)
    items = {
        "s2": [],
        "soft": [],
        "scl": [],
        "dw": [],
        "osm": [item("o", {"image": root / "osm" / "land.tif"}, {"place": "land"})],
        "dem": [item("d", {"image": root / "dem" / "land.tif"}, {"place": "land"})],
    }
    for season, day in enumerate(DAYS):
        write_s2(root / "s2" / "land" / f"{day}.tif", s2[season])
        write(root / "soft" / "land" / f"{day}.tif", soft[season], where)
        write(root / "scl" / "land" / f"{day}.tif", scl[season], where, nodata=0)
        write(root / "dw" / "land" / f"{day}.tif", dw[season], where, nodata=255)
        for number, name in enumerate(NAMES):
            write(root / "classes" / day / f"{name}.tif", soft[season, number], where)
        assets = {f"p_{name}": root / "classes" / day / f"{name}.tif" for name in NAMES}
        items["soft"].append(item(f"soft-{day}", assets, {"place": "land"}, day))
        for role in ("s2", "scl", "dw"):
            image = {"image": root / role / "land" / f"{day}.tif"}
            items[role].append(item(f"{role}-{day}", image, {"place": "land"}, day))
    catalogue(root / "catalogue", items)
    cube = CubeWriter(root / "land.zarr", where, days=DAYS, chunk=16)
    cube.add_bands(S2_BANDS)
    cube.add("s2", s2, ("time", "band", "y", "x"), fill=0, attributes={"level": "L1C"})
    cube.add_bands(NAMES[::-1], "class")
    cube.add("soft", soft[:, ::-1], ("time", "class", "y", "x"), fill=0)
    cube.add("scl", scl, ("time", "y", "x"), fill=0)
    cube.add("dw", dw, ("time", "y", "x"), fill=255)
    CubeWriter(root / "osm.zarr", where, chunk=16).add("osm", osm[0], ("y", "x"), fill=255)
    for name, values in zip(("height", "slope"), dem, strict=True):
        cube.add(name, values, ("y", "x"), fill=-9999.0)
    return root


def soft_labels_of(store, place):
    """The layers of labels of a place that have probabilities beside them."""
    return [layer for layer in store.labels_of(place) if soft_layer(layer) in store.soft_layers]


def stored(path):
    """All that a store holds of each place, and its fingerprint of sensors."""
    with Store.open(path) as store:
        return [
            (
                store.seasons(place),
                [store.read(place, season) for season in range(store.num_seasons(place))],
                {layer: store.read_labels(place, layer) for layer in store.labels_of(place)},
                {layer: store.read_labels(place, soft_layer(layer)) for layer in soft_labels_of(store, place)},
                store.annotators,
                store.grid(place),
                store.definitions["dem"],
            )
            for place in range(len(store))
        ]


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("folders") / "store"
    report = prepare(settings(root, out, **COMMON, **FILES))
    return stored(out), report


@pytest.mark.parametrize(("layout", "section"), [("cube", CUBE), ("stac", STAC)])
def test_sensors_soft_labels_and_masks_of_a_list_give_the_store_that_files_give(
    layout, section, root, expected, tmp_path
):
    report = prepare(settings(root, tmp_path / "out", layout=layout, **{layout: section}, sensors=HERE, **COMMON))
    found = stored(tmp_path / "out")
    assert len(found) == len(expected[0]) == 4
    np.testing.assert_equal(found, expected[0])
    assert report["clouds"] == expected[1]["clouds"]
    assert report["changed"] == expected[1]["changed"]
    assert report["changed"]["pixels of labels set to 255 under cloud"] > 0


@pytest.fixture(scope="module")
def of_annotators(root, tmp_path_factory):
    """The store and the report of two annotators whose maps are found by patterns."""
    out = tmp_path_factory.mktemp("annotators") / "store"
    report = prepare(settings(root, out, **COMMON, **{**FILES, "probabilities": None}, annotators=ANNOTATORS))
    return stored(out), report


@pytest.mark.parametrize("named", [("dw", "osm"), ("osm", "dw"), ("dw",)])
@pytest.mark.parametrize(("layout", "section", "maps"), [("cube", CUBE, IN_CUBE), ("stac", STAC, IN_STAC)])
def test_annotators_of_a_list_give_the_store_that_patterns_give_in_the_order_of_the_section(
    layout, section, maps, named, root, of_annotators, tmp_path
):
    """Those that the section leaves out are found by patterns, and come after it."""
    section = {**section, "probabilities": None, "annotators": {name: maps[name] for name in named}}
    others = {name: pattern for name, pattern in ANNOTATORS.items() if name not in named}
    options = {"layout": layout, layout: section, "annotators": others, "sensors": HERE, **COMMON}
    report = prepare(settings(root, tmp_path / "out", **options))
    found, (expected, expected_report) = stored(tmp_path / "out"), of_annotators
    if named[0] == "osm":
        files = {**FILES, "probabilities": None, "annotators": {name: ANNOTATORS[name] for name in named}}
        expected_report = prepare(settings(root, tmp_path / "turned", **COMMON, **files))
        expected = stored(tmp_path / "turned")
    assert len(found) == len(expected) == 4
    np.testing.assert_equal(found, expected)
    for part in ("annotators", "agreement", "changed", "clouds", "splits"):
        assert report[part] == expected_report[part]
    assert report["annotators"]["osm"]["places_without"] == 1
    assert report["agreement"][0]["pixels"] > 0


SOFT = "soft/{id}/{season}.tif"


@pytest.mark.parametrize(
    ("maps", "soft", "others", "other_soft"),
    [
        (("dw", "osm"), ("dw",), (), ()),
        (("osm",), ("rules",), ("dw",), ()),
        (("osm",), (), (), ("rules",)),
        ((), ("rules",), ("dw", "osm"), ()),
    ],
)
@pytest.mark.parametrize(("layout", "section", "listed"), [("cube", CUBE, IN_CUBE), ("stac", STAC, IN_STAC)])
def test_probabilities_of_annotators_may_come_from_a_list_or_from_files_and_give_one_store(
    layout, section, listed, maps, soft, others, other_soft, root, tmp_path
):
    """maps, soft: who has them in the section; others, other_soft: who has them in files. rules has no maps."""
    lines = {name: listed[name] for name in maps}
    if maps and {"rules"} & {*soft, *other_soft}:
        lines["rules"] = None
    further = {name: ANNOTATORS[name] for name in others}
    if not maps:
        further["rules"] = None
    given = {**section, "annotators": lines, "probabilities": dict.fromkeys(soft, section["probabilities"]) or None}
    options = {"layout": layout, layout: given, "sensors": HERE, **COMMON, "annotators": further}
    report = prepare(settings(root, tmp_path / "a", **options, probabilities=dict.fromkeys(other_soft, SOFT) or None))
    patterns = {name: ANNOTATORS.get(name) for name in (*lines, *further)}
    files = {**FILES, "annotators": patterns, "probabilities": dict.fromkeys((*soft, *other_soft), SOFT)}
    expected = prepare(settings(root, tmp_path / "b", **COMMON, **files))
    found = stored(tmp_path / "a")
    assert [len(levels) for _, _, _, levels, *_ in found] == [1] * 4
    np.testing.assert_equal(found, stored(tmp_path / "b"))
    for part in ("annotators", "agreement", "changed", "clouds", "splits"):
        assert report[part] == expected[part]


def test_of_annotators_in_a_catalogue_one_must_be_there_and_items_without_images_are_orphans(root, tmp_path):
    write_s2(tmp_path / "s2" / "b.tif", s2_values(np.random.default_rng(1), 32))
    files = {
        "a": root / "s2" / "land" / f"{DAYS[0]}.tif",
        "b": tmp_path / "s2" / "b.tif",
        "c": tmp_path / "s2" / "b.tif",
    }
    members = {"s2": [item(name, {"image": path}) for name, path in files.items()]}
    osm = {"image": root / "osm" / "land.tif"}
    members |= {"dw": [item("a", osm)], "osm": [item("a", osm), item("b", osm), item("z", osm)]}
    catalogue(tmp_path / "cat", members)
    section = {"catalog": str(tmp_path / "cat" / "catalog.json"), "s2": STAC["s2"]}
    section["annotators"] = {"dw": IN_STAC["dw"], "osm": IN_STAC["osm"]}
    report = prepare(settings(root, tmp_path / "out", layout="stac", stac=section, s1=None))
    with Store.open(tmp_path / "out") as store:
        assert store.ids == ["a", "b"]
        assert [store.labels_of(place) for place in range(2)] == [("labels", "labels.osm"), ("labels.osm",)]
    assert [(o["id"], o["missing"]) for o in report["orphans"]] == [("c", ("labels", "labels.osm")), ("z", ("s2",))]
    assert [report["annotators"][name]["places_without"] for name in ("dw", "osm")] == [1, 0]


def test_maps_of_a_catalogue_may_lie_in_files_and_those_of_annotators_stay_apart(root, tmp_path):
    for name, value in (("one", 3), ("two", 4)):
        write(tmp_path / "maps" / name / "land.tif", np.full((32, 32), value, np.uint8), grid(32), nodata=255)
    section = {key: STAC[key] for key in ("catalog", "season", "place", "s2")}
    annotators = {name: str(tmp_path / "maps" / name / "{id}.tif") for name in ("one", "two")}
    masks = {"cloud_mask": FILES["cloud_mask"], "cloud_values": "scl"}
    config = settings(root, tmp_path / "out", layout="stac", stac=section, s1=None, annotators=annotators, **masks)
    report = prepare(config)
    with Store.open(tmp_path / "out") as store:
        assert set(np.unique(store.read_labels(0))) == {3}
        assert set(np.unique(store.read_labels(0, "labels.two"))) == {4}
    assert report["clouds"]["by"] == {"mask": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sensors": DEM_SECTION}, "or where the section of the layout says"),
        ({"sensors": {}}, "unknown|no such|dem"),
        ({"cloud_values": None, "mask_clouds": False}, "which values of the mask"),
        ({"probabilities": FILES["probabilities"]}, "from a pattern or from the section"),
        ({"annotators": {"one": "a/{id}.tif", "two": "b/{id}.tif"}}, "by the name of theirs"),
    ],
)
def test_what_is_named_twice_or_half_is_refused(changes, words, root, tmp_path):
    given = {"layout": "stac", "stac": STAC, "sensors": HERE, **COMMON, **changes}
    with pytest.raises(ConfigError, match=words):
        prepare(settings(root, tmp_path / "out", **given))


@pytest.mark.parametrize(
    ("changes", "section", "words"),
    [
        ({"annotators": {"osm": "osm/{id}.tif"}}, {}, "both, for osm"),
        ({"labels": "osm/{id}.tif"}, {}, "in the place of labels"),
        ({"probabilities": FILES["probabilities"]}, {}, "by the name of theirs"),
        ({}, {"probabilities": STAC["probabilities"]}, "by the name of theirs"),
        ({"probabilities": {"dw": "a/{id}.tif"}}, {"probabilities": {"dw": STAC["probabilities"]}}, "both, for dw"),
        ({}, {"probabilities": {"rules": STAC["probabilities"]}}, "got: rules"),
        ({}, {"annotators": {"dw": None, "osm": IN_STAC["osm"]}}, "neither maps nor probabilities"),
        ({}, {"labels": IN_STAC["dw"]}, "in the place of labels"),
        ({}, {"annotators": {"d/w": IN_STAC["dw"]}}, "name that cannot be used"),
    ],
)
def test_annotators_of_a_section_that_are_named_twice_or_wrongly_are_refused(changes, section, words, root, tmp_path):
    section = {**STAC, "probabilities": None, "annotators": IN_STAC, **section}
    with pytest.raises(ConfigError, match=words):
        prepare(settings(root, tmp_path / "out", layout="stac", stac=section, sensors=HERE, **{**COMMON, **changes}))


def test_bands_named_like_some_classes_and_not_others_are_refused(root, tmp_path):
    names = [*NAMES[:-1], "something"]
    write(tmp_path / "soft" / "land.tif", np.full((9, 32, 32), 1 / 9, np.float32), grid(32), band_names=names)
    soft = str(tmp_path / "soft" / "{id}.tif")
    with pytest.raises(BandError, match="not the classes of the legend"):
        prepare(settings(root, tmp_path / "out", s1=None, labels=None, s2=FILES["s2"], probabilities=soft))
