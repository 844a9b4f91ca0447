"""What holds for every layout of patches: the same records twice, and a killed run goes on to the same store."""

from __future__ import annotations

import os

import pytest

from archive_patches import (
    write_bigearthnet,
    write_dfc2020,
    write_dfc2020_lmdb,
    write_pretraining_lmdb,
    write_sen12ms,
)
from cromss.config import PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.sources.layouts import open_source
from cromss.data.sources.opening import Opening
from cromss.data.sources.patch_layouts import PATCH_LAYOUTS
from cromss.data.store.shard import ShardBuilder
from cromss.errors import StoreError
from cromss.geo.bands import SENSORS
from cromss.geo.legends import get_legend
from records import contents

ARCHIVES = {
    "dfc2020": (write_dfc2020, "dfc2020"),
    "sen12ms": (write_sen12ms, "igbp"),
    "bigearthnet": (write_bigearthnet, "bigearthnet19"),
    "cromss_lmdb": (write_pretraining_lmdb, "dynamic_world"),
    "dfc2020_lmdb": (write_dfc2020_lmdb, "dfc2020"),
}


@pytest.fixture(params=sorted(PATCH_LAYOUTS))
def archive(request, tmp_path):
    """The settings to prepare a small archive of each layout."""
    write, legend = ARCHIVES[request.param]
    if request.param.endswith("_lmdb"):
        pytest.importorskip("lmdb", reason="writes its files with the package lmdb, of the extra test")
    write(tmp_path / "in")
    return {
        "root": str(tmp_path / "in"),
        "layout": request.param,
        "legend": legend,
        "edition": "uint8",
        "shard_places": 1,
        "s2_bands": "3",
    }


def test_a_source_gives_the_same_records_twice_and_names_files_that_exist(archive):
    config = PrepareConfig(out="x", **archive)
    bands = {"s1": SENSORS["s1"].bands, "s2": ("B4", "B11")}
    source = open_source(
        Opening(
            config=config,
            legend=get_legend(config.legend),
            bands=bands,
            split_of=lambda place: "train",
            by_table=False,
        )
    )
    assert source.sensors == ("s1", "s2")
    assert [scene.id for scene in source.scenes] == sorted({scene.id for scene in source.scenes})
    for scene in source.scenes:
        (first,), (second,) = ([*source.records(scene)] for _ in range(2))
        assert first.id == second.id == scene.id
        assert all((first.images[sensor] == second.images[sensor]).all() for sensor in ("s1", "s2"))
        assert first.images["s2"].shape[1] == 2
        assert first.split == source.split(scene)
        files = [*source.files(scene)]
        assert files
        assert all(path.is_file() for path in files)


def test_a_killed_prepare_goes_on_to_the_same_store_unless_the_archive_has_changed(archive, tmp_path, monkeypatch):
    prepare(PrepareConfig(out=str(tmp_path / "whole"), **archive))
    killed = PrepareConfig(out=str(tmp_path / "killed"), **archive)
    added, count = ShardBuilder.add, []

    def add_three(self, record):
        added(self, record)
        count.append(record.id)
        if len(count) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardBuilder, "add", add_three)
        with pytest.raises(KeyboardInterrupt):
            prepare(killed)
    assert not (tmp_path / "killed/store.json").exists()
    file = sorted(path for path in (tmp_path / "in").rglob("*B04.tif") or ())
    file = file or sorted([*(tmp_path / "in").rglob("*s2*.tif"), *(tmp_path / "in").rglob("data.mdb")])
    before = file[0].stat()
    os.utime(file[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StoreError, match="files that have changed"):
        prepare(killed)
    os.utime(file[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    prepare(killed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
