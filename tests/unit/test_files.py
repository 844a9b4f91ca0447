"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cromss.errors import BusyError, DamagedFileError, MissingDataError
from cromss.files import commit, commit_folder, lock, read_json, remove_stale, sha256, write_json


def _write_half(committing, name):
    with committing as temporary:
        (temporary / name if name else temporary).write_text("half")
        raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file_and_no_neighbour(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        _write_half(commit(path), "")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="full"):
        _write_half(commit_folder(tmp_path / "run"), "x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        events.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def replace(self, target):
        events.append(("rename", str(target)))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_json(tmp_path / "a.json", {"x": 1})
    kinds = [kind for kind, _ in events]
    assert kinds == ["fsync", "rename", "fsync"]
    assert events[0][1].startswith(str(tmp_path / ".a.json"))
    assert events[2][1] == str(tmp_path)


def test_what_a_killed_process_left_is_removed_and_named(tmp_path):
    (tmp_path / ".run.tmp-1-abc").mkdir()
    (tmp_path / ".run.tmp-1-abc" / "part").write_text("x")
    (tmp_path / ".a.json.tmp-2-def").write_text("x")
    (tmp_path / "kept").write_text("x")
    assert remove_stale(tmp_path) == [".a.json.tmp-2-def", ".run.tmp-1-abc"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_json_that_does_not_parse_is_an_error_with_the_path(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(DamagedFileError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(MissingDataError, match=r"b\.json"):
        read_json(tmp_path / "b.json")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_is_held_by_one_and_given_up_at_the_end(tmp_path):
    with lock(tmp_path / ".lock"), pytest.raises(BusyError, match="another process"), lock(tmp_path / ".lock"):
        pass
    with lock(tmp_path / ".lock"):
        pass
