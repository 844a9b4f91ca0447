"""Images without labels get those of the spectral rules on their way into a store, as the command writes them."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.config import LabelsConfig
from cromss.data.labelling.run import label
from cromss.data.prepare import prepare
from cromss.data.store import Store
from cromss.errors import ConfigError, DataError
from small_scenes import S2_BANDS, grid, s2_values, settings, write, write_s2, write_scene

ALONE = {"labels": None, "label_rules": True}


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate("abc"):
        write_scene(tmp_path / "in", name, number)
        values = s2_values(np.random.default_rng(number))
        write_s2(
            tmp_path / "in" / "s2" / f"{name}.tif", values, tags={"LEVEL": "L1C", "DATE": f"2021-0{number + 1}-10"}
        )
    return tmp_path / "in"


def _contents(path):
    with Store.open(path) as store:
        return {store.id(place): store.read(place, 0) for place in range(len(store))}


@pytest.mark.parametrize("legend", ["dynamic_world", "dfc2020"])
@pytest.mark.parametrize("s2_bands", ["13", "9", "B4,B3"])
def test_a_store_holds_what_the_written_labels_would_have_given(s2_bands, legend, root, tmp_path):
    label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "made"), legend=legend))
    written = f"{tmp_path}/made/labels/{{id}}.tif"
    prepare(settings(root, tmp_path / "files", labels=written, legend=legend, s2_bands=s2_bands))
    report = prepare(settings(root, tmp_path / "rules", **ALONE, legend=legend, s2_bands=s2_bands))
    expected, found = _contents(tmp_path / "files"), _contents(tmp_path / "rules")
    assert expected.keys() == found.keys()
    for place, arrays in expected.items():
        assert arrays.keys() == found[place].keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, found[place][name], err_msg=f"{place} {name}")
    assert report["changed"]["s2 images labelled by spectral rules"] == 3
    assert len(np.unique(np.stack([arrays["labels"] for arrays in found.values()]))) > 1


def test_patches_are_labelled_as_their_scene_is(root, tmp_path):
    prepare(settings(root, tmp_path / "whole", **ALONE))
    prepare(settings(root, tmp_path / "cut", **ALONE, tile=8))
    with Store.open(tmp_path / "whole") as whole, Store.open(tmp_path / "cut") as cut:
        assert len(cut) > len(whole)
        corner = cut.ids.index(next(name for name in cut.ids if name.startswith(whole.id(0))))
        np.testing.assert_array_equal(cut.read_labels(corner)[0], whole.read_labels(0)[0, :8, :8])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": "labels/{id}.tif"}, "a has labels"),
        ({"s2": None}, "look at Sentinel-2"),
        ({"annotators": {"x": "labels/{id}.tif", "y": "more/{id}.tif"}}, "annotators do not go together"),
        ({"cloud_mask": "labels/{id}.tif", "cloud_values": "1", "mask_clouds": True}, "mask_clouds do not go together"),
        ({"split": "split/{id}.tif"}, "rasters of splits"),
        ({"legend": "worldcover"}, "no table"),
    ],
)
def test_what_does_not_go_with_rules_is_refused_and_no_store_appears(changes, words, root, tmp_path):
    for name in "abc":
        write(root / "split" / f"{name}.tif", np.ones((16, 16), np.uint8), grid(), nodata=0)
    with pytest.raises(ConfigError, match=words):
        prepare(settings(root, tmp_path / "out", **ALONE | changes))
    assert not (tmp_path / "out" / "store.json").exists()


def test_an_l1c_image_without_a_day_is_refused_by_name_and_one_of_l2a_needs_none(root, tmp_path):
    write_s2(root / "s2" / "b.tif", s2_values(np.random.default_rng(1)), tags={"LEVEL": "L1C"})
    with pytest.raises(DataError, match="how high the sun stood") as caught:
        prepare(settings(root, tmp_path / "out", **ALONE))
    assert "in: b/" in str(caught.value)
    for number, name in enumerate("abc"):
        values = s2_values(np.random.default_rng(number))[[S2_BANDS.index(b) for b in S2_BANDS if b != "B10"]]
        names = [band for band in S2_BANDS if band != "B10"]
        write_s2(root / "s2" / f"{name}.tif", values, band_names=names, tags={"LEVEL": "L2A"})
    assert prepare(settings(root, tmp_path / "l2a", **ALONE, s2_bands="12"))["places"] == 3
