"""The cache on disk: bounded whoever writes, least recently used first, and never half an entry."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cromss.data.store.disk_cache import DEFAULT_LIMIT, DiskCache, default_limit
from cromss.errors import ConfigError, StoreError


def entry(cache: DiskCache, name: str, size: int) -> bytes | None:
    part = np.empty(size, np.uint8)
    return part.tobytes() if cache.fill("g", name, part) else None


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("g/*"))


def test_an_entry_is_given_back_and_only_at_its_own_length(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 1000)
    cache.put("g", "a", b"12345")
    assert entry(cache, "a", 5) == b"12345"
    assert entry(cache, "a", 4) is None
    assert entry(cache, "b", 5) is None
    assert cache.usage() == 5
    cache.put("g", "a", b"123")  # in its place, not beside it
    assert cache.usage() == 3
    cache.drop("g", "a")
    assert cache.usage() == 0
    assert entry(cache, "a", 3) is None


def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 1000)
    for number in range(9):
        cache.put("g", str(number), bytes(100))
        os.utime(tmp_path / "c" / "g" / str(number), (number, number))
    assert entry(cache, "0", 100) is not None  # used now
    cache.put("g", "new", bytes(200))
    assert {path.name for path in (tmp_path / "c" / "g").iterdir()} == {"0", "new", "3", "4", "5", "6", "7", "8"}
    assert cache.usage() == held(tmp_path / "c") == 900


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 100)
    cache.put("g", "a", bytes(101))
    assert entry(cache, "a", 101) is None
    assert cache.usage() == 0


def test_a_temporary_file_stays_until_it_is_stale(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 100)
    cache.put("g", "a", bytes(10))
    left, young = (tmp_path / "c" / "g" / f".{name}.tmp-1-x" for name in ("b", "c"))
    left.write_bytes(bytes(50))
    young.write_bytes(bytes(5))
    os.utime(left, (time.time() - 7200,) * 2)
    cache.put("g", "d", bytes(91))  # does not fit beside "a"
    assert not left.exists()
    assert young.exists()
    assert entry(cache, "d", 91) is not None


def _write(folder: Path, start: int) -> None:
    cache = DiskCache(folder, 20_000)
    for number in range(200):
        cache.put("g", str((start + number) % 250), bytes([number % 256]) * 1000)
        part = np.empty(1000, np.uint8)
        if cache.fill("g", str(number), part):
            assert (part == part[0]).all(), "half of one entry, half of another"


@pytest.mark.slow
def test_four_processes_share_a_cache_and_never_pass_its_limit(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 20_000)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path / "c", 60 * n)) for n in range(4)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        with cache._locked():
            most = max(most, sum(path.stat().st_size for path in (tmp_path / "c").glob("g/[0-9]*")))
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0 < most <= 20_000
    assert 0 < held(tmp_path / "c") <= 20_000


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cache[\s\S]*CROMSS_CACHE_DIR"):
        DiskCache(tmp_path / "file" / "c", 100)


def test_the_size_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROMSS_CACHE_GB", raising=False)
    assert default_limit() == DEFAULT_LIMIT
    monkeypatch.setenv("CROMSS_CACHE_GB", "0.5")
    assert default_limit() == 500_000_000
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("CROMSS_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match="CROMSS_CACHE_GB"):
            default_limit()
