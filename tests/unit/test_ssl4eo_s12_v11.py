"""SSL4EO-S12 v1.1: shards of samples, the offset taken off, published splits, and nothing read that is not whole."""

from __future__ import annotations

import importlib
import json
import shutil
import zipfile

import numpy as np
import pytest

from cromss.data.prepare import prepare
from cromss.data.sources.source import Tally
from cromss.data.sources.ssl4eo_s12_v11 import Ssl4eoS12V11
from cromss.data.sources.zarr_shard import ZarrShard, decode_times
from cromss.data.store import Store
from cromss.data.survey.clouds import parse_cloud_values
from cromss.errors import BandError, ConfigError, DamagedFileError, GridError, MissingDataError, RangeError
from cromss.geo.bands import SENSORS
from published_archives import cloud_mask, write_shard, write_v11, zip_folder
from small_scenes import settings

zarr = pytest.importorskip("zarr", reason="needs the package zarr: pip install 'cromss[zarr]'")

ALL = {sensor: SENSORS[sensor].bands for sensor in ("s1", "s2")}
LATER = ("20200604", "20200907", "20201211", "20210311")  # each 95 days after the days that the generator gives
TRAIN, VAL = "ssl4eos12_train_seasonal_data_000001.zarr.zip", "ssl4eos12_val_seasonal_data_000001.zarr.zip"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("v11")
    write_v11(root / "data", root / "scratch")
    return root / "data"


@pytest.fixture
def copy(archive, tmp_path):
    """The validation shards alone, to be damaged."""
    shutil.copytree(archive / "val", tmp_path / "data" / "val")
    return tmp_path / "data"


def records(root, tally=None, **options):
    source = Ssl4eoS12V11(root, bands=options.pop("bands", ALL), **options)
    return {scene.id: record for scene in source.scenes for record in source.records(scene, tally)}


def raw(path, name="bands"):
    shard = ZarrShard(path)
    values = shard.read(name)
    shard.close()
    return values


def test_values_are_those_of_the_shards_less_the_offset(archive):
    tally = Tally()
    found = records(archive, tally)
    assert list(found) == ["0060573", "0080717", "0000173", "0179869"]  # shard by shard
    s2, s1 = (raw(archive / "train" / folder / TRAIN) for folder in ("S2L1C", "S1GRD"))
    for row, place in enumerate(["0080717", "0060573"]):
        assert (found[place].images["s2"] == s2[row] - 1000).all()
        assert (found[place].images["s1"] == s1[row].astype(np.float32)).all()
        assert found[place].valid.all()
    assert tally.changed == {"s2 band images less the publisher's offset of 1000 DN": 4 * 4 * 13}


def test_samples_carry_their_split_grid_and_days(archive):
    found = records(archive, train_split=lambda place: "test" if place == "0060573" else "train")
    assert {place: record.split for place, record in found.items()} == {
        "0080717": "train", "0060573": "test", "0000173": "validation", "0179869": "validation",
    }  # fmt: skip
    record = found["0060573"]
    assert record.grid.crs.to_epsg() == 32633
    assert record.grid.transform[:6] == (10, 0, 345800, 0, -10, 5314800)
    assert record.notes["s2_date"] == "2020-03-01,2020-06-04,2020-09-07,2020-12-06"


def test_masks_of_clouds_are_read_where_it_is_said_what_they_mean(archive):
    assert all(record.clouds is None for record in records(archive).values())
    for place, record in records(archive, clouds=parse_cloud_values("1,2")).items():
        assert (record.clouds == (cloud_mask(int(place)) > 0)).all()
    found = records(archive, clouds=parse_cloud_values("1"))
    assert {place: bool((record.clouds[2, :, :132] == 1).all()) for place, record in found.items()} == {
        place: int(place) % 2 == 0 for place in found
    }


def test_a_mask_of_clouds_that_is_absent_or_of_another_size_is_refused_only_where_it_is_asked_for(copy, tmp_path):
    path, places = copy / "val" / "S2L1C" / VAL, ["0000173", "0179869"]
    write_shard(path, "L1C", places, tmp_path / "a", cloud_mask=np.ones((2, 4, 66, 66), np.uint8))
    assert len(records(copy)) == 2
    with pytest.raises(GridError, match="array cloud_mask has another shape"):
        records(copy, clouds=parse_cloud_values("1"))
    rewrite(path, lambda members: [members.pop(name) for name in list(members) if name.startswith("cloud_mask/")])
    assert len(records(copy)) == 2
    with pytest.raises(MissingDataError, match="no array cloud_mask"):
        records(copy, clouds=parse_cloud_values("1"))


@pytest.mark.slow
def test_the_report_gives_the_share_of_cloud_by_the_masks_of_the_shards(archive, tmp_path):
    options = {"layout": "ssl4eo_s12_v1_1", "s2_bands": "9", "cloud_values": "1,2"}
    report = prepare(settings(archive, tmp_path / "out", **options))
    assert report["clouds"]["by"] == {"mask": 4}
    assert report["clouds"]["splits"]["validation"]["cloud_share"] == 0.75 / 4
    with pytest.raises(ConfigError, match="those of Sentinel-2"):
        prepare(settings(archive, tmp_path / "other", **{**options, "s2": None}))
    with pytest.raises(ConfigError, match="no use for the setting mask_clouds"):
        prepare(settings(archive, tmp_path / "other", **options, mask_clouds=True))


def test_bands_are_taken_by_name(archive):
    (first, *_) = records(archive, bands={"s2": ("B12", "B4")}).values()
    (whole, *_) = records(archive, bands={"s2": ALL["s2"]}).values()
    assert (first.images["s2"][:, 0] == whole.images["s2"][:, 12]).all()
    assert (first.images["s2"][:, 1] == whole.images["s2"][:, 3]).all()
    with pytest.raises(BandError, match="B10"):
        records(archive, bands={"s2": ALL["s2"]}, product="L2A")


@pytest.mark.slow
def test_the_layout_goes_into_a_store_with_its_splits(archive, tmp_path):
    report = prepare(settings(archive, tmp_path / "out", layout="ssl4eo_s12_v1_1", s2_bands="9"))
    assert {split: count["places"] for split, count in report["splits"].items()} == {"train": 2, "validation": 2}
    with Store.open(tmp_path / "out") as store:
        assert store.read(0, 0)["s2"].shape == (9, 264, 264)


def test_samples_of_one_sensor_alone_are_orphans(archive, tmp_path):
    shutil.copytree(archive / "val", tmp_path / "data" / "val")
    (tmp_path / "data" / "val" / "S1GRD" / VAL).unlink()
    write_shard(tmp_path / "data" / "val" / "S1GRD" / VAL, "GRD", ["0000173", "0000999"], tmp_path / "scratch")
    source = Ssl4eoS12V11(tmp_path / "data", bands=ALL)
    assert [scene.id for scene in source.scenes] == ["0000173"]
    assert [(orphan.id, orphan.missing) for orphan in source.orphans] == [("0000999", ("s2",)), ("0179869", ("s1",))]


def test_no_data_is_zero_or_the_bare_offset_in_every_band_and_nan_for_s1(copy, tmp_path):
    s2, s1 = (raw(copy / "val" / folder / VAL) for folder in ("S2L1C", "S1GRD"))
    s2[0, 0, :, :3], s2[0, 0, :, 3:5], s2[0, 0, 10, 5:] = 0, 1000, 1000
    s1[0, 0, 1, 5:9] = np.nan
    for folder, product, values in (("S2L1C", "L1C", s2), ("S1GRD", "GRD", s1)):
        write_shard(copy / "val" / folder / VAL, product, ["0000173", "0179869"], tmp_path / folder, bands=values)
    record = records(copy)["0000173"]
    assert not record.valid[0, :9].any()
    assert record.valid[0, 9:].all()
    assert record.valid[1:].all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("no_offset", RangeError, "below the offset"),
        ("size", GridError, "264"),
        ("bands", BandError, "other bands"),
        ("centre", GridError, "centre"),
        ("spacing", GridError, "10 m"),
        ("ids", DamagedFileError, "7 digits"),
        ("grids", GridError, "shifted"),
        ("order", DamagedFileError, "another order"),
        ("product", DamagedFileError, "another order"),
        ("season", DamagedFileError, "different seasons"),
        ("coordinates", GridError, "array x_ has another shape"),
        ("code", GridError, "array crs has another shape or type"),
    ],
)
def test_shards_that_differ_from_the_layout_are_refused(copy, tmp_path, change, error, text):
    path = copy / "val" / "S2L1C" / VAL
    changes = {
        "no_offset": lambda: {"bands": raw(path) - np.int16(1000)},
        "size": lambda: {"bands": raw(path)[..., :256]},
        "bands": lambda: {"band": np.array([f"band{n}" for n in range(13)])},
        "centre": lambda: {"center_lon": np.full(2, -70.0)},
        "spacing": lambda: {"x_": raw(path, "x_") * 2},
        "ids": lambda: {"sample": np.array(["a", "b"])},
        "grids": lambda: {"x_": raw(path, "x_") + 10},
        "order": lambda: {"file_id": raw(path, "file_id")[:, [0, 3, 1, 2]]},
        "product": lambda: {"file_id": np.full((2, 4), "S2A")},
        "season": lambda: {
            "time_": raw(path, "time_") + 95 * 86400,
            "file_id": np.array([[f"{day}T100000_{day}T100000_T33UWP" for day in LATER]] * 2),
        },
        "coordinates": lambda: {"x_": raw(path, "x_")[:1]},
        "code": lambda: {"crs": raw(path, "crs").astype(np.float64)},
    }[change]()
    write_shard(path, "L1C", ["0000173", "0179869"], tmp_path / "scratch", **changes)
    with pytest.raises(error, match=text) as caught:
        records(copy)
    assert VAL in str(caught.value.where)


def rewrite(path, change):
    """The same shard with one member left out or replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_chunk_that_says_another_length_is_refused_before_it_is_unpacked(copy):
    path = copy / "val" / "S1GRD" / VAL
    for at in (4, 12):  # the lengths unpacked and packed, in the header of Blosc

        def change(members, at=at):
            chunk = bytearray(members["bands/0.2.0.0.0"])
            chunk[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
            members["bands/0.2.0.0.0"] = bytes(chunk)

        whole = path.read_bytes()
        rewrite(path, change)
        with pytest.raises(DamagedFileError, match="another length than it says"):
            records(copy, bands={"s1": ALL["s1"]})
        path.write_bytes(whole)


def test_a_missing_chunk_is_refused_and_never_read_as_fill_values(copy):
    path = copy / "val" / "S2L1C" / VAL
    rewrite(path, lambda members: members.pop("bands/0.2.0.0.0"))
    with pytest.raises(DamagedFileError, match="lacks chunks"):
        records(copy)


@pytest.mark.parametrize(
    "part",
    [
        {"compressor": {"id": "pickle"}},
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
        {"chunks": [0, 1]},
        {"dtype": "<i3"},
    ],
)
def test_metadata_that_names_another_codec_is_refused(copy, part):
    def change(members):
        content = json.loads(members["sample/.zarray"])
        members["sample/.zarray"] = json.dumps({**content, **part}).encode()

    rewrite(copy / "val" / "S2L1C" / VAL, change)
    with pytest.raises(DamagedFileError, match=r"not allowed|strange metadata"):
        Ssl4eoS12V11(copy, bands=ALL)


@pytest.mark.slow
def test_every_flipped_byte_of_the_images_is_found(copy):
    path = copy / "val" / "S2L1C" / VAL
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.startswith("bands/0.")]
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(20):
        info = infos[draw.integers(len(infos))]
        place = info.header_offset + 30 + len(info.filename) + int(draw.integers(info.compress_size))
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            records(copy)


def test_roots_of_another_layout_are_refused(tmp_path, copy):
    with pytest.raises(MissingDataError, match="no shards"):
        Ssl4eoS12V11(tmp_path / "nowhere", bands=ALL)
    (copy / "val" / "S2L1C" / VAL).write_bytes(b"not a zip")
    with pytest.raises(DamagedFileError, match="archive"):
        Ssl4eoS12V11(copy, bands=ALL)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("a")
    zip_folder(tmp_path / "x", copy / "val" / "S2L1C" / VAL)
    with pytest.raises(MissingDataError, match="no array sample"):
        Ssl4eoS12V11(copy, bands=ALL)


def test_without_the_package_the_layout_says_what_to_install(archive, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"cromss\[zarr\]"):
        Ssl4eoS12V11(archive, bands=ALL)


def test_times_are_read_in_the_units_of_the_convention(tmp_path):
    two = np.array([0, 86400 * 2])
    assert decode_times(two, {"units": "seconds since 2020-02-28 23:00:00"}, tmp_path) == ["2020-02-28", "2020-03-01"]
    assert decode_times(two // 86400, {"units": "days since 1970-01-01"}, tmp_path) == ["1970-01-01", "1970-01-03"]
    assert decode_times(np.array(["2020-11-16T02:30:01"], "datetime64[ns]"), {}, tmp_path) == ["2020-11-16"]
    for values, units in ((two * 2**40, "days since 2020-01-01"), (two * np.nan, "days since 2020-13-01")):
        with pytest.raises(DamagedFileError, match="can not be read"):
            decode_times(values, {"units": units}, tmp_path)
    with pytest.raises(DamagedFileError, match="fortnights"):
        decode_times(two, {"units": "fortnights since 2020-01-01"}, tmp_path)
