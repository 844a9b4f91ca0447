"""A STAC catalogue that is broken, or does not hold what the section says, is refused by name; nothing is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

pystac = pytest.importorskip("pystac", reason="needs the extra `stac`")
pytest.importorskip("pystac_client", reason="needs the extra `stac`")

from cromss.data.prepare import prepare  # noqa: E402
from cromss.errors import CromssError  # noqa: E402
from small_scenes import s2_values, settings, write_s2, write_scene  # noqa: E402
from stac_scenes import catalogue, item  # noqa: E402

S2 = {"collection": "s2", "asset": "image"}


@pytest.fixture
def root(tmp_path):
    write_scene(tmp_path, "a", seed=1)
    catalogue(tmp_path / "cat", {"s2": [item("a", {"image": tmp_path / "s2" / "a.tif"})]})
    return tmp_path


def refused(root, section, **changes):
    section = {"catalog": "cat/catalog.json", "s2": S2, **section}
    with pytest.raises(CromssError) as caught:
        prepare(settings(root, root / "out", layout="stac", stac=section, **changes))
    assert not (root / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"catalog": "none.json"}, "catalogue is absent"),
        ({"catalog": "s2/a.tif"}, "s2/a.tif"),
        ({"catalog": "http://127.0.0.1:9/catalog.json"}, "can not be read"),
        ({"catalogue": "x"}, "did you mean 'catalog'"),
        ({"s2": {"collection": "s3", "asset": "image"}}, "no items of collection s3"),
        ({"s2": {"collection": "s2", "asset": "picture"}}, "no item of s2 can be used"),
        ({"s2": {"collection": "s2"}}, "one way to their bands"),
        ({"s2": {"collection": "s2", "asset": "image", "assets": {"image": "B2"}}}, "one way to their bands"),
        ({"s2": {"collection": "s2", "assets": {"image": "B2"}}}, "holds several"),
        ({"s2": {"collection": "s2", "assets": {"blue": "B2", "green": "B2"}}}, "blue: B2, green: B2"),
        ({"s2": {"collection": "s2", "assets": {"blue": "B22"}}}, "got: blue: B22"),
        ({"s2": {**S2, "unit": "power"}}, "only s1 has a unit"),
        ({"s2": None}, "needs a catalog and images"),
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"bbox": [100, 0, 101, 1]}, "no item of s2 can be used"),
        ({"start": "june"}, "not a date"),
        ({"place": "grid:code"}, "lacks the property"),
        ({"s1": {"collection": "s2", "asset": "image"}}, "Sentinel-1"),
        ({"labels": {"collection": "s2", "asset": "image"}}, "must have one band"),
        ({"annotator": {"dw": {"collection": "s2"}}}, "did you mean 'annotators'"),
        ({"annotators": "dw/{id}.tif"}, "by the setting annotators"),
        ({"annotators": {"dw": "dw/{id}.tif"}}, "outside of the section"),
        ({"annotators": {"dw": None}}, "neither maps nor probabilities"),
        ({"annotators": {"dw": None}, "probabilities": "soft/{id}.tif"}, "by the setting probabilities"),
        ({"annotators": {"dw": None}, "probabilities": {"dw": {"band": "x"}}}, "in: stac: probabilities: dw"),
        ({"annotators": {"collection": "dw", "asset": "map"}}, "in: stac: annotators: collection"),
        ({"annotators": {"dw": {"collection": "s2", "variable": "map"}}}, "in: stac: annotators: dw"),
        ({"annotators": {"dw": {"collection": "s2", "assets": {"image": "map"}}}}, "expected: asset: NAME"),
        ({"annotators": {"dw": {"collection": "s2", "asset": "image"}}}, "must have one band"),
        ({"annotators": {"dw": {"collection": "dw", "asset": "image"}}}, "no items of collection dw"),
    ],
)
def test_a_section_that_leads_nowhere_is_refused(root, section, words):
    assert words in refused(root, section)


def test_a_section_without_its_layout_is_refused(root):
    with pytest.raises(CromssError, match="no use for the setting stac"):
        prepare(settings(root, root / "out", stac={"catalog": "cat/catalog.json", "s2": S2}))


def test_a_catalogue_whose_files_are_gone_or_damaged_is_refused(root):
    path = root / "s2" / "a.tif"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "a.tif" in refused(root, {})
    path.unlink()
    assert "a raster is absent" in refused(root, {})
    (root / "cat" / "s2" / "collection.json").write_text("{")
    assert "can not be read" in refused(root, {})


@pytest.mark.parametrize(
    ("asset", "properties", "words"),
    [
        ({"raster:bands": [{"scale": 0.001}]}, {}, "another unit"),
        (
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}, {"scale": 0.0001, "offset": 0}]},
            {},
            "different offsets",
        ),
        ({}, {"s2:processing_baseline": "05.00"}, "darker than their offset"),
    ],
)
def test_items_that_contradict_themselves_or_their_pixels_are_refused(root, asset, properties, words):
    made = pystac.Asset(str(root / "s2" / "a.tif"), extra_fields=asset)
    catalogue(root / "cat", {"s2": [item("a", {"image": made}, properties)]})
    write_s2(root / "s2" / "a.tif", s2_values(np.random.default_rng(0)) // 5)
    assert words in refused(root, {})


def test_files_that_say_another_offset_than_their_item_are_refused(root):
    write_s2(root / "s2" / "a.tif", s2_values(np.random.default_rng(0)), tags={"LEVEL": "L1C", "BOA_ADD_OFFSET": "0"})
    catalogue(root / "cat", {"s2": [item("a", {"image": root / "s2" / "a.tif"}, {"s2:processing_baseline": "05.00"})]})
    assert "different offsets" in refused(root, {})


def test_items_without_their_label_map_are_orphans(root):
    write_s2(root / "s2" / "b.tif", s2_values(np.random.default_rng(0)))
    items = [item(name, {"image": root / "s2" / f"{name}.tif"}) for name in "ab"]
    catalogue(root / "cat", {"s2": items})
    prepare(settings(root, root / "out", layout="stac", stac={"catalog": "cat/catalog.json", "s2": S2}))
    report = json.loads((root / "out" / "prepare-report.json").read_text())
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [("b", ["labels"])]


@pytest.mark.parametrize(("scale", "offset", "words"), [(0.001, 0, "can not be used"), (0.0001, -0.1, "darker")])
def test_the_scale_in_the_header_of_an_asset_is_not_passed_over(root, scale, offset, words):
    import rasterio

    write_s2(root / "s2" / "a.tif", s2_values(np.random.default_rng(0)) // 5)
    with rasterio.open(root / "s2" / "a.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * 13, (offset,) * 13
    assert words in refused(root, {})


def test_days_may_stand_in_yaml_without_quotes(root, capsys):
    from cromss.cli import main

    path = root / "prepare.yaml"
    path.write_text(
        f"layout: stac\nroot: {root}\nshift_samples: 0\nstac:\n  catalog: cat/catalog.json\n"
        "  start: 2021-06-01\n  end: 2021-06-30\n  bbox: [-180, -90, 180, 90]\n  s2: {collection: s2, asset: image}\n"
    )
    assert main(["prepare", "--config", str(path), "--out", str(root / "out")]) == 0, capsys.readouterr().err
