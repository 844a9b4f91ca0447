"""A store behind an address gives what the same store in a folder gives, and fetches each array once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cromss.config import PretrainConfig
from cromss.data.dataset import PatchDataset
from cromss.data.loader import make_loader
from cromss.data.sampling import BatchOrder
from cromss.data.store import Store
from cromss.errors import StoreError
from cromss.geo.bands import published_normalization
from cromss.training.pretrain_setup import Setup
from records import make_record, write_store
from remote_server import FileServer, serving

RECORDS = [make_record(n, seasons=3, truth=n % 2 == 0, holes=n == 1) for n in range(7)]
SCALES = {name: published_normalization(name, "all") for name in ("s1", "s2")}

pytest.importorskip("aiohttp", reason="reading over HTTP needs the extra `remote`")


@pytest.fixture(scope="module", params=["native", "int16", "uint8"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "s", RECORDS, shard_places=3, edition=request.param)


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with serving(folder.parent) as one:
        yield one


def same(left: Store, right: Store) -> None:
    for place in range(len(left)):
        for season in range(left.num_seasons(place)):
            one, two = left.read(place, season), right.read(place, season)
            assert one.keys() == two.keys()
            assert all(np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f") for name in one)
        assert np.array_equal(left.read_labels(place), right.read_labels(place))


def test_a_remote_store_gives_the_same_as_a_local_one_and_fetches_nothing_twice(
    folder: Path, server: FileServer, tmp_path: Path
) -> None:
    with (
        Store.open(folder) as local,
        Store.open(f"{server.address}/s/", cache=tmp_path / "c", cache_bytes=10**9) as remote,
    ):
        assert remote.fingerprint == local.fingerprint
        assert remote.grid(0) == local.grid(0)
        same(local, remote)
        asked = server.shard_requests()
        assert len(set(server.requests)) == len(server.requests), "the same bytes were fetched twice"
        same(local, remote)
        assert server.shard_requests() == asked
    with Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=10**9):
        assert sum("index" in path for path, _ in server.requests) == 1
        assert sum("store.json" in path for path, _ in server.requests) == 2


@pytest.mark.slow
def test_a_full_cache_fetches_again_and_keeps_to_its_limit(folder: Path, server: FileServer, tmp_path: Path) -> None:
    limit = 40_000
    with (
        Store.open(folder) as local,
        Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=limit) as remote,
    ):
        same(local, remote)
        asked = server.shard_requests()
        same(local, remote)
        assert server.shard_requests() > asked
    assert sum(path.stat().st_size for path in (tmp_path / "c").glob("*/*")) <= limit


def test_prefetching_a_batch_is_few_requests_and_none_later(server: FileServer, tmp_path: Path) -> None:
    with Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=10**9) as store:
        dataset = PatchDataset(store, SCALES, crop=12, prior="ts", training=True)
        keys = [(0, place, -1) for place in range(7)]
        dataset.prefetch(keys)
        asked = server.shard_requests()
        for key in keys:
            dataset[key]
        assert server.shard_requests() == asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_batches_are_the_same_from_afar_for_any_workers(
    folder: Path, server: FileServer, tmp_path: Path, workers: int, method: str | None
) -> None:
    def batches(store: Store, workers: int) -> list[dict[str, object]]:
        dataset = PatchDataset(store, SCALES, crop=12, prior="ts", seed=2, training=True)
        order = BatchOrder(7, 3, seed=1, total_steps=6)
        return list(make_loader(dataset, order, workers, start_method=method if workers else None))

    with (
        Store.open(folder) as local,
        Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=10**9) as remote,
    ):
        remote.read(0, 0)  # so that a fork inherits connections
        expected, got = batches(local, 0), batches(remote, workers)
        remote.read(6, 2)  # and the parent's are as they were
    assert [batch["id"] for batch in got] == [batch["id"] for batch in expected]
    for one, two in zip(expected, got, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one if name != "id")


def test_a_pickled_store_keeps_its_cache(server: FileServer, tmp_path: Path) -> None:
    with Store.open(f"{server.address}/s", cache=tmp_path / "c", cache_bytes=10**6) as store:
        store.read(0, 0)
        asked = server.shard_requests()
        other = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own
        other.read(0, 0)
        assert server.shard_requests() == asked + 1  # the byte that opening asks for
        other.close()


def test_a_run_is_set_up_from_an_address(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROMSS_CACHE_DIR", str(tmp_path / "c"))
    config = PretrainConfig(
        data=f"{server.address}/s", out=str(tmp_path / "run"), crop=12, batch_size=2, validation_share=0.2, workers=0
    )
    setup = Setup(config)
    assert setup.store.path == f"{server.address}/s"
    assert len(setup.train_places) == 6
    setup.store.close()


def test_another_protocol_goes_through_fsspec(folder: Path, tmp_path: Path) -> None:
    with (
        Store.open(folder) as local,
        Store.open(f"local://{folder}", cache=tmp_path / "c", cache_bytes=10**9) as remote,
    ):
        same(local, remote)
        shard = folder / "shards" / "00001.safetensors"
        content = shard.read_bytes()
        try:
            (tmp_path / "c").rename(tmp_path / "old")
            shard.write_bytes(content[:-100])
            with pytest.raises(StoreError, match="has changed"):
                same(remote, remote)
        finally:
            shard.write_bytes(content)


def test_an_object_store_is_read_through_s3fs(
    folder: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="reading s3:// needs the extra `s3`")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = server.root / "bucket"
    bucket.mkdir(exist_ok=True)
    if not (bucket / "s").exists():
        (bucket / "s").symlink_to(folder)
    with (
        Store.open(folder) as local,
        Store.open("s3://bucket/s", cache=tmp_path / "c", cache_bytes=10**9) as remote,
    ):
        same(local, remote)
        asked = server.shard_requests()
        same(local, remote)
        assert server.shard_requests() == asked
        dataset = PatchDataset(remote, SCALES, crop=12, prior="ts", seed=2, training=True)
        order = BatchOrder(7, 3, seed=1, total_steps=2)
        assert len(list(make_loader(dataset, order, 2, start_method="fork"))) == 2
