"""Archives that would escape, explode or collide are refused, and leave nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from cromss.data.download.unpack import MARKER, unpack
from cromss.data.download.zip_directory import count_zip_entries
from cromss.errors import ArchiveError, CromssError, DamagedFileError

NOISE = os.urandom(4096)


def tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member, io.BytesIO(b"\0" * member.size))
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                file.addfile(header, io.BytesIO(member[1]))
    return path


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zip_link(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (mode | 0o777) << 16
    return entry


def million_entries(path: Path) -> Path:
    """Only the directory of a zip with a million entries: it must be refused by that alone."""
    names = b"".join(
        b"PK\1\2" + bytes(24) + struct.pack("<HHH", 7, 0, 0) + bytes(12) + b"%07d" % number for number in range(10**6)
    )
    end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**6, 10**6, len(names), 0)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(names), 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(names + end64 + locator + end)
    return path


CRAFTED = {
    "dots.tar.gz": lambda path: tar(path, ("good", NOISE), ("a/../../escaped", NOISE)),
    "dots.zip": lambda path: zipped(path, ("good", NOISE), ("../escaped", NOISE)),
    "absolute.tar.gz": lambda path: tar(path, ("good", NOISE), (str(path.parent.parent / "escaped"), NOISE)),
    "absolute.zip": lambda path: zipped(path, ("good", NOISE), (str(path.parent.parent / "escaped"), NOISE)),
    "drive.zip": lambda path: zipped(path, ("good", NOISE), ("C:/escaped", NOISE)),
    "backslash.zip": lambda path: zipped(path, ("good", NOISE), ("..\\escaped", NOISE)),
    "symlink.tar": lambda path: tar(
        path, special("out", tarfile.SYMTYPE, ".."), ("out/escaped", NOISE), mode="w"
    ),
    "symlink.zip": lambda path: zipped(
        path, (zip_link("out", stat.S_IFLNK), b".."), ("out/escaped", NOISE)
    ),
    "hardlink.tar": lambda path: tar(
        path, special("out", tarfile.LNKTYPE, "/etc/passwd"), ("good", NOISE), mode="w"
    ),
    "device.tar": lambda path: tar(path, special("null", tarfile.CHRTYPE), ("good", NOISE), mode="w"),
    "fifo.tar": lambda path: tar(path, special("pipe", tarfile.FIFOTYPE), ("good", NOISE), mode="w"),
    "device.zip": lambda path: zipped(path, (zip_link("null", stat.S_IFCHR), b""), ("good", NOISE)),
    "case.tar.gz": lambda path: tar(path, ("a/Label.tif", NOISE), ("a/label.tif", NOISE)),
    "case.zip": lambda path: zipped(path, ("A/x", NOISE), ("a/y", NOISE)),
    "accent.zip": lambda path: zipped(path, ("caf\u00e9", NOISE), ("cafe\u0301", NOISE)),
    "bomb.tar.gz": lambda path: tar(path, ("zeros", bytes(30_000_000))),
    "bomb.zip": lambda path: zipped(path, ("zeros", bytes(30_000_000))),
    "million.zip": million_entries,
    "duplicate.tar.gz": lambda path: tar(path, ("a", NOISE), ("a", NOISE[::-1])),
    "file_and_folder.tar.gz": lambda path: tar(path, ("a", NOISE), ("a/b", NOISE)),
    "marker.tar.gz": lambda path: tar(path, (MARKER, NOISE)),
    "long.tar.gz": lambda path: tar(path, ("x" * 300, NOISE)),
    "control.tar.gz": lambda path: tar(path, ("a\nb", NOISE)),
    "empty.tar": lambda path: tar(path, special("a", tarfile.DIRTYPE), mode="w"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("million") else n for n in CRAFTED]
)
def test_a_crafted_archive_is_refused_and_leaves_nothing(name, tmp_path):
    (tmp_path / "in").mkdir()
    path = CRAFTED[name](tmp_path / "in" / name)
    begin = time.process_time()
    with pytest.raises(ArchiveError) as caught:
        unpack([path], tmp_path / "in" / "out", archive=name)
    assert time.process_time() - begin < 10
    assert caught.value.got is not None
    assert caught.value.expected is not None
    assert str(caught.value.where) == str(path)
    assert [entry.name for entry in (tmp_path / "in").iterdir()] == [name]
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_duplicate_names_of_a_zip_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "a.zip", ("a", NOISE), ("a", NOISE[::-1]))
    with pytest.raises(ArchiveError, match="there twice"):
        unpack([path], tmp_path / "out", archive="a.zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.slow
def test_a_million_files_of_a_tar_are_refused_at_the_limit(tmp_path):
    header = tarfile.TarInfo("0000000").tobuf()
    blocks = io.BytesIO()
    with gzip.GzipFile(fileobj=blocks, mode="wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(header * 10_000)
    (tmp_path / "a.tar.gz").write_bytes(blocks.getvalue())
    with pytest.raises(ArchiveError):
        unpack([tmp_path / "a.tar.gz"], tmp_path / "out", archive="a.tar.gz")
    several = [(f"{number}", b"x") for number in range(11)]
    with pytest.raises(ArchiveError, match="too many files"):
        unpack([tar(tmp_path / "b.tar", *several, mode="w")], tmp_path / "out", archive="b.tar", max_files=10)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tar.gz", "b.tar"}


@pytest.mark.slow
def test_a_million_entries_are_counted_without_being_held(tmp_path):
    path = million_entries(tmp_path / "a.zip")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert count_zip_entries(path, 10**6) == 10**6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_an_archive_inside_an_archive_stays_a_file(tmp_path):
    inner = zipped(tmp_path / "inner.zip", ("zeros", bytes(30_000_000))).read_bytes()
    path = zipped(tmp_path / "a.zip", ("inner.zip", inner))
    unpack([path], tmp_path / "out", archive="a.zip", max_ratio=2000)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"inner.zip", MARKER}
    assert (tmp_path / "out" / "inner.zip").read_bytes() == inner


def test_the_published_number_of_bytes_is_a_limit_of_its_own(tmp_path):
    path = tar(tmp_path / "a.tar.gz", ("a", NOISE))
    with pytest.raises(ArchiveError, match="4095 bytes"):
        unpack([path], tmp_path / "out", archive="a.tar.gz", max_bytes=4095)
    assert unpack([path], tmp_path / "out", archive="a.tar.gz", max_bytes=4096)["bytes"] == 4096


def test_a_name_extension_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        file.write(header.tobuf())
        file.write(bytes(2**26))
    (tmp_path / "a.tar.gz").write_bytes(stream.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFileError, match="name or extension of 4294967296 bytes"):
        unpack([tmp_path / "a.tar.gz"], tmp_path / "out", archive="a.tar.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_good_archives_come_out_byte_for_byte(name, tmp_path):
    contents = {f"s1/{number:02d}/label.tif": os.urandom(1000 + number) for number in range(20)}
    contents["empty"] = b""
    pairs = contents.items()
    made = {"a.zip": lambda path: zipped(path, *pairs), "a.tar": lambda path: tar(path, *pairs, mode="w")}
    path = made.get(name, lambda path: tar(path, *pairs))(tmp_path / name)
    counts = unpack([path], tmp_path / "out", archive=name, about={"archive": name})
    assert counts == {"files": 21, "bytes": sum(map(len, contents.values()))}
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found.pop(MARKER).startswith(b"{")
    assert found == contents


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_cut_anywhere_is_refused(name, tmp_path):
    contents = [(f"{number}", os.urandom(700)) for number in range(5)]
    made = {"a.zip": lambda path: zipped(path, *contents), "a.tar": lambda path: tar(path, *contents, mode="w")}
    path = made.get(name, lambda path: tar(path, *contents))(tmp_path / name)
    whole = path.read_bytes()
    end = 5 * 1536 if name == "a.tar" else len(whole)  # a plain tar ends with many blocks of zeros; one is the end mark
    cuts = sorted({0, 1, 511, 512, 513, 1024, 1536, 3072, end - 1, end, *range(0, end, 97)} - ({end} - {5 * 1536}))
    for cut in (cut for cut in cuts if cut <= end and cut < len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError):
            unpack([path], tmp_path / "out", archive=name)
        assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_flipped_byte_never_passes(name, tmp_path):
    contents = [(f"{number}", os.urandom(700)) for number in range(3)]
    path = (zipped if name == "a.zip" else tar)(tmp_path / name, *contents)
    whole, wrong = path.read_bytes(), 0
    wanted = {title: hashlib.sha256(content).hexdigest() for title, content in contents}
    for position in range(0, len(whole), 41):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        target = tmp_path / f"out-{position}"
        try:
            unpack([path], target, archive=name)
        except CromssError:
            assert not target.exists()
            continue
        found = {entry.name: entry.read_bytes() for entry in target.iterdir() if entry.name != MARKER}
        wrong += {title: hashlib.sha256(content).hexdigest() for title, content in found.items()} != wanted
    assert wrong == 0


def test_parts_are_read_as_one_archive(tmp_path):
    whole = tar(tmp_path / "a.tar.gz", *((f"{number}", os.urandom(5000)) for number in range(9))).read_bytes()
    parts = []
    for number, start in enumerate(range(0, len(whole), 7001)):
        parts.append(tmp_path / f"a.tar.gz.part{number}")
        parts[-1].write_bytes(whole[start : start + 7001])
    assert len(parts) > 5
    assert unpack(parts, tmp_path / "out", archive="a.tar.gz")["files"] == 9
    with pytest.raises(CromssError):
        unpack([parts[0], *parts[2:]], tmp_path / "out2", archive="a.tar.gz")


@pytest.mark.slow
def test_a_kill_leaves_no_folder_and_the_next_run_clears_up(tmp_path):
    contents = [(f"{number}", os.urandom(200)) for number in range(5_000)]
    path = tar(tmp_path / "a.tar", *contents, mode="w")
    code = (
        "import pathlib, sys; from cromss.data.download.unpack import unpack; "
        "unpack([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), archive='a.tar')"
    )
    with subprocess.Popen([sys.executable, "-c", code, path, tmp_path / "out"]) as child:
        while not list(tmp_path.glob(".out.tmp-*/100")):
            assert child.poll() is None
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.tmp-*"))) == 1
    assert unpack([path], tmp_path / "out", archive="a.tar")["files"] == 5_000
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tar", "out"}
