"""Tar shards of SSL4EO-S12 v1.1 that are cut, garbled, hostile or of another layout: each is refused with a reason."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from cromss.data.sources.ssl4eo_s12_v11 import Ssl4eoS12V11
from cromss.data.sources.tar_shard import TarShard
from cromss.errors import BandError, CromssError, DamagedFileError, GridError, MissingDataError, RangeError
from published_archives import tar_member, write_tar

pytest.importorskip("zarr", reason="needs the package zarr: pip install 'cromss[zarr]'")

MEMBER = "ssl4eos12_val_seasonal_data_0000001.zarr.zip"
PATTERN = re.compile(r"(?P<id>\w+)\.zarr\.zip")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """One sample of Sentinel-1, as a member."""
    return tar_member("GRD", 173, tmp_path_factory.mktemp("scratch"))


def read(root, name=MEMBER, content=b"", split="val"):
    """What a shard with one member holds."""
    write_tar(root / split / "S1GRD" / "ssl4eos12_shard_000001.tar", {name: content})
    source = Ssl4eoS12V11(root, bands={"s1": ("VV", "VH")})
    return [record for scene in source.scenes for record in source.records(scene)]


def changed(content, change):
    """The same member after `change` of a dict of its files."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    return buffer.getvalue()


def stated(array, **facts):
    """A change of what the metadata of an array say."""

    def change(files):
        files[f"{array}/.zarray"] = json.dumps({**json.loads(files[f"{array}/.zarray"]), **facts}).encode()

    return change


def number(array, values):
    """A change of the values of a small array, stored as they are."""

    def change(files):
        (key,) = (key for key in files if re.fullmatch(rf"{array}/[\d.]+", key))
        files[key] = np.asarray(values).tobytes()
        stated(array, compressor=None)(files)

    return change


def test_the_sample_that_the_faults_start_from_is_whole(tmp_path, contents):
    (record,) = read(tmp_path, content=contents)
    assert record.images["s1"].shape == (4, 2, 264, 264)


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"m{n}.zarr.zip": bytes(700) for n in range(3)})
    whole = path.read_bytes()
    last = 3 * (512 * 3 + 1024)  # a PAX header, its records, a header, and two blocks, a member
    assert not any(whole[last:])
    for length in (*range(0, last, 100), last - 1, last):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            TarShard(path, pattern=PATTERN, largest=1000)
    path.write_bytes(whole[: last + 512])  # the first block of the end mark says the end
    assert len(TarShard(path, pattern=PATTERN, largest=1000).ids) == 3


def test_every_flipped_byte_of_a_header_is_found_or_changes_nothing(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"m0.zarr.zip": bytes(700)})
    whole = path.read_bytes()
    for at in (*range(512), *range(1024, 1536)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        try:
            shard = TarShard(path, pattern=PATTERN, largest=1000)
        except DamagedFileError:
            continue
        assert 148 <= at % 512 < 156  # a digit of the checksum that is not read
        assert shard.read("m0") == bytes(700)


def test_a_compressed_tar_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"m0.zarr.zip": bytes(700)})
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DamagedFileError, match="not compressed"):
        TarShard(path, pattern=PATTERN, largest=1000)


def test_a_tar_that_is_absent_or_has_become_shorter_is_refused(tmp_path):
    with pytest.raises(MissingDataError):
        TarShard(tmp_path / "a.tar", pattern=PATTERN, largest=1000)
    path = write_tar(tmp_path / "a.tar", {"m0.zarr.zip": bytes(700)})
    shard = TarShard(path, pattern=PATTERN, largest=1000)
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(DamagedFileError, match="changed since"):
        shard.read("m0")


@pytest.mark.parametrize(
    "name",
    [
        "/" + MEMBER, "../" + MEMBER, "a/" + MEMBER, "./" + MEMBER, MEMBER + "\n", MEMBER[:-4] + ".tar",
        "ssl4eos12_val_../../x.zarr.zip", "ssl4eos12_val_" + "9" * 200 + ".zarr.zip", "majortom_val_0000001.zarr.zip",
    ],
)  # fmt: skip
def test_members_of_other_names_are_refused(tmp_path, name):
    with pytest.raises(DamagedFileError, match="does not belong"):
        read(tmp_path, name)


def test_a_member_of_the_other_split_is_refused(tmp_path, contents):
    with pytest.raises(DamagedFileError, match="another split"):
        read(tmp_path, content=contents, split="train")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    header = tarfile.TarInfo("m0.zarr.zip")
    header.type, header.linkname = kind, "elsewhere"
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(header)
    with pytest.raises(DamagedFileError):
        TarShard(tmp_path / "a.tar", pattern=PATTERN, largest=1000)


@pytest.mark.parametrize("size", [0, 1001, 2**40])
def test_a_member_that_is_empty_or_too_large_is_refused_before_it_is_read(tmp_path, size):
    header = tarfile.TarInfo("m0.zarr.zip")
    header.size = size
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(RangeError, match="empty or too large"):
        TarShard(tmp_path / "a.tar", pattern=PATTERN, largest=1000)


def test_headers_that_claim_less_than_nothing_or_never_end_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE):
        header = tarfile.TarInfo("m0.zarr.zip")
        header.type, header.size = kind, -512
        path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(DamagedFileError, match="-512 bytes"):
            TarShard(path, pattern=PATTERN, largest=1000)
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512
    path.write_bytes((header.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000)
    with pytest.raises(DamagedFileError, match="can not be read"):
        TarShard(path, pattern=PATTERN, largest=1000)


def test_two_members_of_one_name_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for _ in range(2):
            header = tarfile.TarInfo("m0.zarr.zip")
            header.size = 10
            file.addfile(header, io.BytesIO(bytes(10)))
    with pytest.raises(DamagedFileError, match="twice"):
        TarShard(tmp_path / "a.tar", pattern=PATTERN, largest=1000)


def test_a_sample_in_two_shards_and_a_shard_of_another_name_are_refused(tmp_path):
    folder = tmp_path / "val" / "S1GRD"
    for shard in (1, 2):
        write_tar(folder / f"ssl4eos12_shard_00000{shard}.tar", {MEMBER: b"x"})
    with pytest.raises(DamagedFileError, match="two shards"):
        Ssl4eoS12V11(tmp_path, bands={"s1": ("VV",)})
    (folder / "ssl4eos12_shard_000002.tar").rename(folder / "majortom_shard_000002.tar")
    with pytest.raises(DamagedFileError, match="not named as the layout says"):
        Ssl4eoS12V11(tmp_path, bands={"s1": ("VV",)})


def drop(key):
    return lambda files: files.pop(key)


def half(key):
    return lambda files: files.update({key: files[key][: len(files[key]) // 2]})


def huge_blosc(key):
    return lambda files: files.update({key: files[key][:4] + struct.pack("<I", 2**31 - 1) + files[key][8:]})


DIFFERENT = {
    "no bands": (drop("bands/.zarray"), MissingDataError, "no array bands"),
    "no centre": (drop("center_lat/.zarray"), MissingDataError, "no array center_lat"),
    "no products": (drop("file_id/.zarray"), MissingDataError, "no array file_id"),
    "shape": (stated("bands", shape=[4, 2, 264, 263]), GridError, "another shape"),
    "times": (stated("bands", shape=[1, 2, 264, 264], chunks=[1, 2, 264, 264]), GridError, "another shape"),
    "float64": (stated("bands", dtype="<f8"), GridError, "another shape or type"),
    "integers": (stated("bands", dtype="<i2"), GridError, "another shape or type"),
    "big end first": (stated("bands", dtype=">f2"), GridError, "another shape or type"),
    "a type that is none": (stated("bands", dtype="<f3"), DamagedFileError, "strange metadata"),
    "pickled": (stated("sample", dtype="|O", filters=[{"id": "pickle"}]), DamagedFileError, "not allowed"),
    "a codec unknown": (stated("x", compressor={"id": "own"}), DamagedFileError, "not allowed"),
    "no chunk": (drop("bands/0.0.0.0"), DamagedFileError, "lacks chunks"),
    "half a chunk": (half("bands/0.0.0.0"), DamagedFileError, "another length"),
    "an empty chunk": (lambda files: files.update({"x/0": b""}), DamagedFileError, "another length"),
    "half a plain chunk": (number("crs", np.int32(32633)), DamagedFileError, "can not be read"),
    "a chunk that explodes": (huge_blosc("bands/0.0.0.0"), DamagedFileError, "another length"),
    "chunks beyond the array": (stated("x", chunks=[2**30]), RangeError, "too large"),
    "text beyond measure": (stated("sample", dtype="<U100000000"), RangeError, "too large"),
    "metadata that are none": (lambda files: files.update({"x/.zarray": b"{"}), DamagedFileError, "does not parse"),
    "no mapping": (lambda files: files.update({"x/.zarray": b"[]"}), DamagedFileError, "no mapping"),
    "another number": (number("sample", np.array("173  ..")), DamagedFileError, "7 digits"),
    "other bands": (number("band", np.array(["hh", "hv"])), BandError, "other bands"),
    "pixel numbers for coordinates": (number("x", np.arange(264.0)), GridError, "10 m"),
    "coordinates that are none": (number("y", np.full(264, np.nan)), GridError, "10 m"),
    "centre elsewhere": (number("center_lon", -70.0), GridError, "centre"),
    "centre that is none": (number("center_lat", np.nan), GridError, "centre"),
    "centre beyond the poles": (number("center_lat", 91.0), GridError, "centre"),
    "no UTM": (number("crs", np.int64(3857)), GridError, "zone of UTM"),
    "shape of a number": (stated("x", shape=264), DamagedFileError, "strange metadata"),
    "shape of parts": (stated("x", shape=[264.0]), DamagedFileError, "strange metadata"),
    "a codec without a name": (stated("x", compressor={}), DamagedFileError, "strange metadata"),
    "a codec that does not fit": (stated("x", compressor={"id": "lzma"}), DamagedFileError, "can not be read"),
    "characters that there are not": (
        number("band", np.full((2, 2), 2**32 - 1, "<u4")),
        DamagedFileError,
        "characters",
    ),
    "CRS unknown": (number("crs", np.int64(2**40)), GridError, "zone of UTM"),
    "time before all satellites": (number("time", np.full(4, -(2**63), np.int64)), DamagedFileError, "another order"),
    "no unit of time": (lambda files: files.update({"time/.zattrs": b"{}"}), DamagedFileError, "unknown unit"),
}


@pytest.mark.parametrize("fault", DIFFERENT)
def test_a_member_that_differs_from_the_layout_is_refused_by_name(tmp_path, contents, fault):
    change, error, text = DIFFERENT[fault]
    with pytest.raises(error, match=text) as caught:
        read(tmp_path, content=changed(contents, change))
    assert MEMBER in str(caught.value.where)


def test_a_member_that_is_cut_is_refused(tmp_path, contents):
    with pytest.raises(DamagedFileError, match="archive"):
        read(tmp_path, content=contents[:-100])


@pytest.mark.slow
def test_every_flipped_byte_of_a_member_is_found_or_changes_nothing(tmp_path, contents):
    (whole,) = read(tmp_path, content=contents)
    draw = np.random.default_rng(0)
    refused = 0
    for at in draw.integers(len(contents), size=300):
        damaged = bytearray(contents)
        damaged[at] ^= 0x04
        try:
            (record,) = read(tmp_path, content=bytes(damaged))
        except CromssError:
            refused += 1
        else:
            assert (record.images["s1"] == whole.images["s1"]).all()
            assert record.valid.all()
            assert (record.grid, record.notes) == (whole.grid, whole.notes)
    assert refused > 100  # the rest hit names, dates and attributes that are not used
