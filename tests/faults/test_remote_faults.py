"""What goes wrong between here and a remote store: passing faults are survived, others are said, none is trained on."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cromss.cli import main
from cromss.data.store import Store, remote_source, verify_store
from cromss.errors import ConfigError, CromssError, DamagedFileError, MissingDataError, StoreError
from records import make_record, write_store
from remote_server import FileServer, serving

RECORDS = [make_record(number) for number in range(4)]

pytest.importorskip("aiohttp", reason="reading over HTTP needs the extra `remote`")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote_source, "PAUSE", 0.01)
    monkeypatch.setattr(remote_source, "PATIENCE", 0.7)
    write_store(tmp_path / "root" / "s", RECORDS, shard_places=2)
    with serving(tmp_path / "root") as one:
        yield one


@pytest.fixture
def store(server: FileServer, tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=10**9) as one:
        yield one


@pytest.mark.parametrize("faults", [["cut"], ["busy"] * 3, ["wrong"], ["cut", "busy", "cut"], ["wrong", "cut", "busy"]])
def test_a_fault_that_passes_changes_nothing(store: Store, server: FileServer, faults: list[str]) -> None:
    server.plan.extend(faults)
    assert np.array_equal(store.read(3, 1)["s2"], RECORDS[3].images["s2"][1])
    assert not server.plan, "a fault was not met"


@pytest.mark.slow
def test_a_slow_answer_is_given_up_and_asked_for_again(
    store: Store, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan.append("delay")
    assert np.array_equal(store.read(2, 0)["s2"], RECORDS[2].images["s2"][0])


def test_a_connection_that_stays_broken_is_an_error_with_the_address(store: Store, server: FileServer) -> None:
    server.plan.extend(["cut"] * 60)
    with pytest.raises(StoreError, match=r"4 tries[\s\S]*00001\.safetensors"):
        store.read(3, 1)


def test_a_server_that_is_gone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_source, "PAUSE", 0.01)
    with serving(tmp_path) as server:
        address = server.address
    with pytest.raises(StoreError, match="did not answer"):
        Store.open(f"{address}/s", cache=tmp_path / "c")


def test_a_store_closed_while_requests_are_tried_again_leaves_no_session_open(
    store: Store, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two requests one fails for good at once; the other still waits for its second try when the store is closed."""
    import aiohttp

    waiting, closed = threading.Event(), threading.Event()

    def pause(_: float) -> None:
        waiting.set()
        assert closed.wait(10)

    monkeypatch.setattr(remote_source, "time", SimpleNamespace(sleep=pause))
    (server.root / "s" / "shards" / "00000.safetensors").unlink()
    server.plan.extend(["busy"] * 2)  # falls to the other shard: a file that is absent uses none up
    with pytest.raises(MissingDataError, match="00000"):
        store.prefetch([(0, 0), (3, 1)])
    assert waiting.wait(10)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("cromss fetch")]
    store.close()
    closed.set()
    for thread in threads:
        thread.join(10)
    sessions = [one for one in gc.get_objects() if type(one) is aiohttp.ClientSession]
    assert sessions, "the session that was closed is gone: this test sees nothing"
    assert all(one.closed for one in sessions)


def test_a_wrong_array_in_the_cache_is_fetched_again(store: Store, server: FileServer, tmp_path: Path) -> None:
    store.read(0, 0)
    for path in (tmp_path / "c").glob("*/*-*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
    asked = server.shard_requests()
    assert np.array_equal(store.read(0, 0)["s2"], RECORDS[0].images["s2"][0])
    again = server.shard_requests()
    assert again > asked
    store.read(0, 0)
    assert server.shard_requests() == again, "the right bytes were not kept"


def test_bytes_that_stay_wrong_are_refused_by_name_and_not_kept(
    store: Store, server: FileServer, tmp_path: Path
) -> None:
    server.plan.extend(["wrong"] * 60)
    with pytest.raises(DamagedFileError, match=r"not what was written[\s\S]*place3/2020-02 in http"):
        store.read(3, 1)
    server.plan.clear()
    assert np.array_equal(store.read(3, 1)["s2"], RECORDS[3].images["s2"][1])


def test_a_file_that_was_replaced_is_said_to_have_changed(store: Store, server: FileServer) -> None:
    store.read(2, 0)
    shard = server.root / "s" / "shards" / "00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(StoreError, match=r"has changed[\s\S]*00001"):
        store.read(3, 1)
    shard.write_bytes(content + b"more")
    with pytest.raises(StoreError, match=rf"has changed[\s\S]*{len(content) + 4} bytes"):
        store.read(3, 0)
    shard.unlink()
    with pytest.raises(MissingDataError, match="00001"):
        store.read(3, 0)


def test_a_server_without_range_requests_is_refused_when_opening(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(StoreError, match=r"parts of a file[\s\S]*206"):
        Store.open(f"{server.address}/s", cache=tmp_path / "c")


def test_addresses_that_hold_no_store_are_errors(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no finished store"):
        Store.open(f"{server.address}/nothing", cache=tmp_path / "c")
    (server.root / "s" / "store.json").write_text("<html>welcome</html>")
    with pytest.raises(DamagedFileError, match="JSON"):
        Store.open(f"{server.address}/s", cache=tmp_path / "c")
    for wrong in ("https://user:secret@host/s", "https://host/s?key=1", "https://"):
        with pytest.raises(ConfigError) as caught:
            Store.open(wrong, cache=tmp_path / "c")
        assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="protocol"):
        Store.open("gopher://host/s", cache=tmp_path / "c")


def test_a_damaged_index_is_refused_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    index = server.root / "s" / "index.parquet"
    content = index.read_bytes()
    index.write_bytes(content[:-1] + b"?")
    with pytest.raises(DamagedFileError, match="index"):
        Store.open(f"{server.address}/s", cache=tmp_path / "c")
    index.write_bytes(content)
    Store.open(f"{server.address}/s", cache=tmp_path / "c").close()


def test_verify_says_where_to_run_it(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", f"{server.address}/s"]) == 2
    assert "on the machine that holds its files" in capsys.readouterr().err
    with pytest.raises(CromssError):
        verify_store(f"{server.address}/s")
