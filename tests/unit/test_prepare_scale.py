"""Preparing and verifying with many workers: the same store, byte for byte, and the same errors as with one."""

from __future__ import annotations

import numpy as np
import pytest

from clusters import two_workers
from cromss.cli import main
from cromss.commands import verify
from cromss.config import VerifyConfig
from cromss.data.preparation import Preparation, write_shard
from cromss.data.prepare import prepare
from cromss.data.record import PlaceRecord
from cromss.data.shard_plan import plan_shards
from cromss.data.sources.geotiff_folders import GeotiffFolders
from cromss.data.sources.source import Scene
from cromss.data.store import verify_store
from cromss.data.store_layout import shard_name
from cromss.data.survey import Survey
from cromss.errors import DamagedFileError, DataError, StoreError
from cromss.geo.legend import LEGENDS
from cromss.workers import open_workers
from records import BANDS, contents, write_store
from small_scenes import settings, write_labels, write_scene


@pytest.fixture(scope="module")
def scheduler():
    with two_workers() as address:
        yield address


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abcdefg"):
        write_scene(tmp_path / "in", name, seed)
    return tmp_path / "in"


CUTS = [{"shard_places": 2}, {"shard_places": 3, "tile": 8}, {"shard_places": 2, "edition": "uint8", "tile": 5}]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_scheduler_gives_the_store_of_one_process(cut, root, scheduler, tmp_path):
    report = prepare(settings(root, tmp_path / "one", **cut))
    assert prepare(settings(root, tmp_path / "many", dask_scheduler=scheduler, **cut)) == report
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Creating scratch directories")  # that a busy machine is slow
@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_store_of_one_process(workers, root, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
    prepare(settings(root, tmp_path / "one", shard_places=2, tile=8))
    prepare(settings(root, tmp_path / "many", shard_places=2, tile=8, workers=workers))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_planned_shards_are_those_of_a_writer_that_is_given_every_place(cut, root, tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.data.store_shard.SHARD_BYTES", 5 * 8 * 8 * 33)
    prepare(settings(root, tmp_path / "planned", **cut))
    patterns = {role: str(root / role / "{id}.tif") for role in ("s1", "s2", "labels")}
    source = GeotiffFolders(
        patterns,
        legend=LEGENDS["dynamic_world"],
        bands=BANDS,
        tile=cut.get("tile"),
        products={"s1": "GRD"},
        split_of=lambda place: "train",
    )
    options = {name: value for name, value in cut.items() if name != "tile"}
    write_store(tmp_path / "given", iter(source), **options)
    planned, given = (contents(tmp_path / name / "shards") for name in ("planned", "given"))
    assert len(given) > 3
    assert planned == given


def test_refusals_are_those_of_one_process(root, scheduler, tmp_path):
    write_labels(root / "labels" / "c.tif", np.full((16, 16), 17, np.uint8))
    (root / "s2" / "e.tif").write_bytes((root / "s2" / "e.tif").read_bytes()[:500])
    texts = []
    for number, changes in enumerate(({}, {"dask_scheduler": scheduler})):
        with pytest.raises(DataError) as caught:
            prepare(settings(root, tmp_path / f"out{number}", **changes))
        assert not (tmp_path / f"out{number}").exists()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "2 of 7 scenes" in texts[0]
    reports = [
        prepare(settings(root, tmp_path / f"skip{number}", on_bad="skip", **changes))["refusals"]
        for number, changes in enumerate(({}, {"dask_scheduler": scheduler}))
    ]
    assert reports[0] == reports[1]
    assert [row["id"] for row in reports[0]] == ["c", "e"]
    assert contents(tmp_path / "skip0") == contents(tmp_path / "skip1")


def test_a_store_begun_by_one_process_is_finished_by_many_and_its_shards_are_kept(root, scheduler, tmp_path):
    prepare(settings(root, tmp_path / "one", shard_places=2))
    prepare(settings(root, tmp_path / "many", shard_places=2))
    many = tmp_path / "many"
    (many / "store.json").unlink()  # as a kill between the shards would leave it, with a gap
    (many / shard_name(1)).unlink()
    kept = {path.name: path.stat().st_ino for path in (many / "shards").iterdir()}
    prepare(settings(root, many, shard_places=2, dask_scheduler=scheduler))
    assert contents(many) == contents(tmp_path / "one")
    assert {name: (many / "shards" / name).stat().st_ino for name in kept} == kept


def test_a_shard_of_other_places_is_not_taken_for_a_finished_one(root, tmp_path):
    prepare(settings(root, tmp_path / "out", shard_places=2))
    (tmp_path / "out" / "store.json").unlink()
    (tmp_path / "out" / shard_name(2)).replace(tmp_path / "out" / shard_name(1))
    with pytest.raises(StoreError, match="other places"):
        prepare(settings(root, tmp_path / "out", shard_places=2))


def test_files_that_change_while_a_store_is_written_are_noticed(root, tmp_path):
    from cromss.data.sources.layouts import Opening

    config = settings(root, tmp_path / "out", shard_places=2, tile=8)
    legend = LEGENDS["dynamic_world"]
    preparation = Preparation(Opening(config=config, legend=legend, bands=BANDS, split_of=lambda _: "", by_table=False))
    scene = preparation.source.scenes[0]
    survey = Survey(scene=scene, sizes={f"{scene.id}_r00000_c00000": 1, f"{scene.id}_r00000_c00008": 1})
    write_labels(root / "labels" / "a.tif", np.pad(np.zeros((16, 8), np.uint8), ((0, 0), (0, 8)), constant_values=255))
    (shard,) = plan_shards([survey], 2)
    with pytest.raises(StoreError, match="changed while") as caught:
        write_shard(preparation, shard)
    assert "1 places" in caught.value.got
    assert not (tmp_path / "out" / shard_name(0)).exists()


def test_an_id_that_two_scenes_give_is_found_before_anything_is_written():
    surveys = [Survey(scene=Scene(id=name, seasons=("0",), files={}), sizes={"same": 1}) for name in "ab"]
    with pytest.raises(StoreError, match="twice") as caught:
        plan_shards(surveys, 1)
    assert caught.value.got == "same"


def test_verify_counts_and_finds_damage_alike_with_many_workers(root, scheduler, tmp_path, capsys):
    store = tmp_path / "store"
    prepare(settings(root, store, shard_places=2))
    with open_workers(scheduler=scheduler) as each:
        assert verify_store(store, each) == verify_store(store)
    assert main(["verify", str(store), "--dask_scheduler", scheduler]) == 0
    assert "is whole: 7 places" in capsys.readouterr().err
    for number in (1, 3):
        path = store / shard_name(number)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    texts = []
    for changes in ({}, {"dask_scheduler": scheduler}):
        with pytest.raises(DamagedFileError) as caught:
            verify(VerifyConfig(path=str(store), **changes))
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "damaged in 2 places" in texts[0]


def test_only_the_asked_patches_are_read(root, monkeypatch):
    patterns = {role: str(root / role / "{id}.tif") for role in ("s1", "s2", "labels")}
    source = GeotiffFolders(patterns, legend=LEGENDS["dynamic_world"], bands=BANDS, tile=8)
    made = []
    init = PlaceRecord.__post_init__
    monkeypatch.setattr(PlaceRecord, "__post_init__", lambda self: (made.append(self.id), init(self))[1])
    records = list(source.records(source.scenes[0], only={"a_r00008_c00000"}))
    assert [record.id for record in records] == made == ["a_r00008_c00000"]
    assert (records[0].labels == next(r for r in source.records(source.scenes[0]) if r.id == made[0]).labels).all()
