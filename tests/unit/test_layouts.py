"""Layouts by name: each setting of `layout` opens a source, and settings that a layout ignores are refused."""

from __future__ import annotations

import os
from typing import get_args

import pytest

from cromss.cli import read_config
from cromss.config import Layout, PrepareConfig
from cromss.data.prepare import prepare
from cromss.data.sources.layouts import LAYOUTS, Opening, open_source, refuse_patterns
from cromss.data.store.shard import ShardBuilder
from cromss.errors import ConfigError, StoreError
from cromss.geo.bands import SENSORS
from cromss.geo.legends import get_legend
from published_archives import write_expert, write_nol, write_ssl4eo, zip_folder
from records import contents
from small_scenes import settings


def test_every_name_of_a_layout_has_a_reader():
    assert set(LAYOUTS) == set(get_args(Layout))


def test_an_unknown_layout_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="geotiff_folders"):
        read_config(["prepare", "--out", "x", "--layout", "geotif_folders"])


def test_patterns_that_a_published_layout_ignores_are_refused_unless_null_or_default():
    refuse_patterns(PrepareConfig(out="x", s1=None))
    refuse_patterns(PrepareConfig(out="x", labels="elsewhere"), free=("labels",))
    with pytest.raises(ConfigError, match="no use for the setting s2"):
        refuse_patterns(PrepareConfig(out="x", s2="mine/{id}.tif"))
    with pytest.raises(ConfigError, match="tile"):
        refuse_patterns(PrepareConfig(out="x", tile=64))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Root of a small archive of each layout that needs no optional package."""
    base = tmp_path_factory.mktemp("archives")
    ids = write_ssl4eo(base / "nol", places=2, seasons=1)
    write_nol(base / "labels", ids, seasons=1)
    zip_folder(base / "labels", base / "nol" / "ssl4eo_s12_nol.zip")
    write_expert(base / "dw", "dw")
    zip_folder(base / "dw", base / "ssl4eo_s12_dw.zip")
    return {"ssl4eo_s12": base / "nol", "noldo_s12_nol": base / "nol", "noldo_s12_dw": base / "ssl4eo_s12_dw.zip"}


@pytest.mark.parametrize("layout", ["ssl4eo_s12", "noldo_s12_nol", "noldo_s12_dw"])
def test_a_source_gives_the_same_records_twice_and_names_files_that_exist(archives, layout):
    config = PrepareConfig(out="x", root=str(archives[layout]), layout=layout)
    bands = {"s1": SENSORS["s1"].bands, "s2": ("B4", "B11")}
    legend = get_legend("dynamic_world")
    source = open_source(
        Opening(config=config, legend=legend, bands=bands, split_of=lambda place: "train", by_table=False)
    )
    assert source.sensors == ("s1", "s2")
    assert len({scene.id for scene in source.scenes}) == len(source.scenes) >= 2
    for scene in source.scenes:
        first, second = ([*source.records(scene)] for _ in range(2))
        assert [record.id for record in first] == [record.id for record in second]
        assert all((a.images["s2"] == b.images["s2"]).all() for a, b in zip(first, second, strict=True))
        assert {record.split for record in first} == {source.split(scene)}
        assert all(path.is_file() for path in source.files(scene))


@pytest.mark.parametrize("layout", ["noldo_s12_nol", "noldo_s12_dw"])
def test_a_killed_prepare_goes_on_to_the_same_store_unless_the_archive_has_changed(
    archives, layout, tmp_path, monkeypatch
):
    options = {"layout": layout, "shard_places": 1, "s2_bands": "3"}
    prepare(settings(archives[layout], tmp_path / "whole", **options))

    written = ShardBuilder.write
    with monkeypatch.context() as patch:
        patch.setattr(ShardBuilder, "write", lambda self, path: (written(self, path), stop(self))[0])
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(archives[layout], tmp_path / "killed", **options))
    assert not (tmp_path / "killed" / "store.json").exists()

    archive = next(archives[layout].glob("*.zip")) if archives[layout].is_dir() else archives[layout]
    before = archive.stat()
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StoreError, match="files that have changed"):
        prepare(settings(archives[layout], tmp_path / "killed", **options))
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    prepare(settings(archives[layout], tmp_path / "killed", **options))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def stop(writer):
    raise KeyboardInterrupt
