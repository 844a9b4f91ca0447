"""SSL4EO-S12 v1.1 as tar shards: members read where they lie, paired by name, and no offset taken off."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_s12_v11 import Ssl4eoS12V11
from cromss.data.sources.tar_shard import TarShard
from cromss.data.store import Store
from cromss.data.survey.clouds import parse_cloud_values
from cromss.errors import DamagedFileError, DataError, MissingDataError, RangeError
from cromss.geo.bands import SENSORS
from published_archives import cloud_mask, sample_arrays, tar_member, write_tar, write_v11_tar
from small_scenes import settings

zarr = pytest.importorskip("zarr", reason="needs the package zarr: pip install 'cromss[zarr]'")

ALL = {sensor: SENSORS[sensor].bands for sensor in ("s1", "s2")}
SHARD = "ssl4eos12_shard_000001.tar"
PATTERN = re.compile(r"(?P<id>\w+)\.zarr\.zip")
NUMBERS = {"train": (216839, 80717), "val": (173, 179869)}


def name(split, number):
    return f"ssl4eos12_{split}_seasonal_data_{number:07d}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("tar")
    write_v11_tar(root / "data", root / "scratch")
    return root / "data"


@pytest.fixture
def copy(archive, tmp_path):
    """The validation shards alone, to be changed."""
    shutil.copytree(archive / "val", tmp_path / "data" / "val")
    return tmp_path / "data"


def records(root, tally=None, **options):
    source = Ssl4eoS12V11(root, bands=options.pop("bands", ALL), **options)
    return {scene.id: record for scene in source.scenes for record in source.records(scene, tally)}


def replace(root, folder, product, **changes):
    """The shard of two validation samples, the first with other arrays."""
    scratch = root.parent / folder
    contents = [tar_member(product, 173, scratch, **changes), tar_member(product, 179869, scratch, 1)]
    names = [f"{name('val', number)}.zarr.zip" for number in (1, 2)]
    write_tar(root / "val" / folder / SHARD, dict(zip(names, contents, strict=True)))


def test_values_are_those_of_the_members_as_they_are(archive):
    tally = Tally()
    found = records(archive, tally)
    assert list(found) == [name(split, number) for split in ("train", "val") for number in (1, 2)]
    for split, numbers in NUMBERS.items():
        for column, number in enumerate(numbers):
            record = found[name(split, column + 1)]
            assert (record.images["s2"] == sample_arrays("L1C", number)["bands"]).all()
            assert (record.images["s1"] == sample_arrays("GRD", number)["bands"].astype(np.float32)).all()
            assert record.valid.all()
    assert record.images["s2"].dtype == np.uint16
    assert not tally.changed


def test_samples_carry_their_split_number_grid_and_days(archive):
    second = name("train", 2)
    found = records(archive, train_split=lambda place: "test" if place == second else "train")
    assert [record.split for record in found.values()] == ["train", "test", "validation", "validation"]
    record = found[second]
    assert record.grid.crs.to_epsg() == 32633
    assert record.grid.transform[:6] == (10, 0, 345800, 0, -10, 5314800)
    assert record.notes == {
        "sample": "0080717",
        "s1_date": "2020-03-01,2020-06-04,2020-09-07,2020-12-06",
        "s2_date": "2020-03-01,2020-06-04,2020-09-07,2020-12-06",
    }


def test_masks_of_clouds_are_read_where_it_is_said_what_they_mean(archive):
    assert all(record.clouds is None for record in records(archive).values())
    for record in records(archive, clouds=parse_cloud_values("1,2")).values():
        assert (record.clouds == (cloud_mask(int(record.notes["sample"])) > 0)).all()
        assert record.clouds.any()


def test_bands_are_taken_by_name(archive):
    (first, *_) = records(archive, bands={"s2": ("B12", "B4")}).values()
    whole = sample_arrays("L1C", 216839)["bands"]
    assert (first.images["s2"][:, 0] == whole[:, 12]).all()
    assert (first.images["s2"][:, 1] == whole[:, 3]).all()


@pytest.mark.slow
def test_the_layout_finds_the_edition_and_puts_it_into_a_store_with_its_splits(archive, tmp_path):
    report = prepare(settings(archive, tmp_path / "out", layout="ssl4eo_s12_v1_1", s2_bands="9"))
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 2, "validation": 2}
    with Store.open(tmp_path / "out") as store:
        assert store.read(0, 0)["s2"].shape == (9, 264, 264)


@pytest.mark.slow
def test_the_other_product_has_a_folder_of_its_own(tmp_path):
    write_v11_tar(tmp_path / "data", tmp_path / "scratch", product="L2A")
    shutil.rmtree(tmp_path / "data" / "train")
    report = prepare(settings(tmp_path / "data", tmp_path / "out", layout="ssl4eo_s12_v1_1", s2_bands="12"))
    assert report["splits"]["validation"]["places"] == 2


def test_samples_are_paired_by_name_in_any_order_and_what_has_no_partner_is_an_orphan(copy):
    whole = TarShard(copy / "val" / "S1GRD" / SHARD, pattern=PATTERN, largest=2**26)
    first, second = (whole.read(name("val", number)) for number in (1, 2))
    write_tar(
        copy / "val" / "S1GRD" / SHARD,
        {f"{name('val', 7)}.zarr.zip": first, f"{name('val', 2)}.zarr.zip": second},
    )
    write_tar(copy / "val" / "S1GRD" / "ssl4eos12_shard_000002.tar", {f"{name('val', 8)}.zarr.zip": first})
    source = Ssl4eoS12V11(copy, bands=ALL)
    assert [scene.id for scene in source.scenes] == [name("val", 2)]
    assert {(orphan.id, orphan.missing) for orphan in source.orphans} == {
        (name("val", 1), ("s1",)), (name("val", 7), ("s2",)), (name("val", 8), ("s2",)),
    }  # fmt: skip
    (record,) = source.records(source.scenes[0])
    assert record.notes["sample"] == "0179869"


def test_two_places_under_one_name_are_refused(copy):
    replace(copy, "S1GRD", "GRD", sample=np.array("0000174"))
    with pytest.raises(DamagedFileError, match="different places"):
        records(copy)


def test_no_data_is_zero_in_every_band_and_nan_for_s1(copy):
    s2, s1 = (sample_arrays(product, 173)["bands"] for product in ("L1C", "GRD"))
    s2[0, :, :3], s2[0, 0, 12] = 0, 0
    s1[0, 1, 5:9] = np.nan
    replace(copy, "S2L1C", "L1C", bands=s2)
    replace(copy, "S1GRD", "GRD", bands=s1)
    record = records(copy)[name("val", 1)]
    assert not record.valid[0, :3].any()
    assert not record.valid[0, 5:9].any()
    assert record.valid[0, 3:5].all()
    assert record.valid[0, 9:].all()  # one band 0 is a value
    assert record.valid[1:].all()


def test_a_sample_without_one_value_below_the_offset_is_refused(copy):
    s2 = sample_arrays("L1C", 173)["bands"] + np.int16(1000)
    s2[:, :, :5] = 0  # no data tells nothing
    replace(copy, "S2L1C", "L1C", bands=s2)
    with pytest.raises(RangeError, match="offset of 1000") as caught:
        records(copy)
    assert name("val", 1) in str(caught.value.where)
    s2[3, 10, 200, 200] = 999
    replace(copy, "S2L1C", "L1C", bands=s2)
    assert len(records(copy)) == 2


def test_both_editions_in_one_root_are_refused(copy):
    (copy / "train" / "S1GRD").mkdir(parents=True)
    (copy / "train" / "S1GRD" / "ssl4eos12_train_seasonal_data_000001.zarr.zip").write_bytes(b"")
    with pytest.raises(DataError, match="both editions") as caught:
        Ssl4eoS12V11(copy, bands=ALL)
    assert caught.value.got == "1 shards *.zarr.zip, 2 shards *.tar"


def test_a_root_without_shards_names_both_editions(tmp_path):
    with pytest.raises(MissingDataError, match=r"seasonal_data_000001\.zarr\.zip") as caught:
        Ssl4eoS12V11(tmp_path, bands=ALL)
    assert "ssl4eos12_shard_000001.tar" in str(caught.value)


def test_scenes_are_found_from_headers_alone(copy):
    for folder in ("S1GRD", "S2L1C"):
        write_tar(copy / "val" / folder / SHARD, {f"{name('val', 3)}.zarr.zip": b"not a zip"})
    source = Ssl4eoS12V11(copy, bands=ALL)
    assert [scene.id for scene in source.scenes] == [name("val", 3)]
    with pytest.raises(DamagedFileError, match="archive"):
        list(source.records(source.scenes[0]))
