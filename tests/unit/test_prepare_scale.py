"""Preparing and verifying with many workers: the same store, byte for byte, and the same errors as with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusters import two_workers
from cromss.cli import main
from cromss.commands import verify
from cromss.config import VerifyConfig
from cromss.data.batches import Batch, make_batches
from cromss.data.preparation import Preparation, Prepared, prepare_batch, write_batch
from cromss.data.prepare import prepare
from cromss.data.record import PlaceRecord
from cromss.data.sources.layouts import Opening
from cromss.data.sources.own_images import OwnImages
from cromss.data.store import Store, verify_store
from cromss.data.survey.scene_survey import Survey
from cromss.data.survey.set_statistics import SetStatistics
from cromss.errors import DamagedFileError, DataError, StoreError
from cromss.geo.legends import LEGENDS
from cromss.workers import open_workers
from records import BANDS, contents, write_store
from small_scenes import S2_BANDS, s2_values, settings, write_labels, write_s2, write_scene


@pytest.fixture(scope="module")
def scheduler():
    with two_workers() as address:
        yield address


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abcdefg"):
        write_scene(tmp_path / "in", name, seed)
    return tmp_path / "in"


def folders(root: Path, **options) -> OwnImages:
    patterns = {role: str(root / role / "{id}.tif") for role in ("s1", "s2", "labels")}
    return OwnImages(patterns, legend=LEGENDS["dynamic_world"], bands=BANDS, **options)


def opened(root: Path, out: Path, **changes) -> Preparation:
    config, legend = settings(root, out, **changes), LEGENDS["dynamic_world"]
    opening = Opening(
        config=config,
        legend=legend,
        bands=BANDS,
        split_of=lambda _: "",
        by_table=False,
        patterns={"s1": config.s1, "s2": config.s2},
    )
    return Preparation(opening)


def killed_at_the_end(root: Path, out: Path, **changes) -> None:
    """Leave what a kill leaves when all shards are there and the store is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cromss.data.prepare.finish_store", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(root, out, **changes))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


CUTS = [
    {"shard_places": 2},
    {"shard_places": 3, "tile": 8, "edition": "int16"},
    {"shard_places": 2, "edition": "uint8", "tile": 5},
]


@pytest.mark.slow
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


def shards_of(store: Path) -> list[Path]:
    return sorted((store / "shards").iterdir())


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_store_holds_what_a_writer_holds_that_is_given_every_place(cut, root, tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.data.store.shard.SHARD_BYTES", 5 * 8 * 8 * 33)
    prepare(settings(root, tmp_path / "prepared", **cut))
    source = folders(root, tile=cut.get("tile"), products={"s1": "GRD"}, split_of=lambda place: "train")
    write_store(tmp_path / "given", iter(source), **{name: value for name, value in cut.items() if name != "tile"})
    assert len(shards_of(tmp_path / "prepared")) > 3
    with Store.open(tmp_path / "prepared") as prepared, Store.open(tmp_path / "given") as given:
        assert prepared.ids == given.ids
        for place in range(len(given)):
            ours, theirs = prepared.read(place, 0), given.read(place, 0)
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_batches_end_at_so_many_scenes_or_so_many_bytes_and_shared_files_do_not_count(root, monkeypatch):
    source = folders(root)
    size = sum(path.stat().st_size for path in source.files(source.scenes[0]))
    assert [len(batch.scenes) for batch in make_batches(source, source.scenes, 64)] == [1] * 7
    monkeypatch.setattr("cromss.data.batches._FEWEST", 1)
    assert [len(batch.scenes) for batch in make_batches(source, source.scenes, 3)] == [3, 3, 1]
    monkeypatch.setattr("cromss.data.batches.SHARD_BYTES", round(1.5 * size))
    assert [len(batch.scenes) for batch in make_batches(source, source.scenes, 64)] == [2, 2, 2, 1]
    monkeypatch.setattr(source, "files", lambda scene: [root / "s2" / "a.tif"])
    assert [len(batch.scenes) for batch in make_batches(source, source.scenes, 64)] == [7]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_store_begun_by_one_process_is_finished_by_many_and_its_shards_are_kept(root, scheduler, tmp_path):
    prepare(settings(root, tmp_path / "one", shard_places=2))
    many = tmp_path / "many"
    killed_at_the_end(root, many, shard_places=2)
    shards_of(many)[1].unlink()  # a gap, as kills of several processes leave
    kept = {path.name: path.stat().st_ino for path in (many / "shards").iterdir()}
    prepare(settings(root, many, shard_places=2, dask_scheduler=scheduler))
    assert contents(many) == contents(tmp_path / "one")
    assert {name: (many / "shards" / name).stat().st_ino for name in kept} == kept


def test_a_shard_of_other_places_is_not_taken_for_a_finished_one(root, tmp_path):
    prepare(settings(root, tmp_path / "whole", shard_places=2))
    killed_at_the_end(root, tmp_path / "out", shard_places=2)
    first, second, *_ = shards_of(tmp_path / "out")
    first.replace(second)
    prepare(settings(root, tmp_path / "out", shard_places=2))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_shards_of_unknown_origin_are_not_taken_over(root, tmp_path):
    prepare(settings(root, tmp_path / "out"))
    (tmp_path / "out" / "store.json").unlink()
    before = contents(tmp_path / "out")
    with pytest.raises(StoreError, match="nothing says where they come from"):
        prepare(settings(root, tmp_path / "out"))
    assert contents(tmp_path / "out") == before


def test_a_scene_whose_error_shows_late_leaves_nothing_in_the_shards_of_its_batch(root, tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    labels[12:, 12:] = 17  # in the last of its four patches
    write_labels(root / "labels" / "c.tif", labels)
    report = prepare(settings(root, tmp_path / "out", tile=8, shard_places=3, on_bad="skip"))
    (root / "labels" / "c.tif").unlink()
    prepare(settings(root, tmp_path / "without", tile=8, shard_places=3))
    assert [row["id"] for row in report["refusals"]] == ["c"]
    with Store.open(tmp_path / "out") as store, Store.open(tmp_path / "without") as without:
        assert store.ids == without.ids
    verify_store(tmp_path / "out")


def test_a_scene_that_is_refused_for_its_bands_is_taken_out_of_its_batch(root, tmp_path):
    write_s2(root / "s2" / "c.tif", s2_values(np.random.default_rng(0))[:12], band_names=S2_BANDS[:12])
    report = prepare(settings(root, tmp_path / "out", on_bad="skip", s2_bands="3", shard_places=2))
    assert [(row["id"], row["error"]) for row in report["refusals"]] == [("c", "BandError")]
    with Store.open(tmp_path / "out") as store:
        assert list(store.ids) == list("abdefg")
    verify_store(tmp_path / "out")


def test_files_that_change_while_a_batch_is_written_anew_are_noticed(root, tmp_path):
    preparation = opened(root, tmp_path / "out", shard_places=2, tile=8)
    scene = preparation.source.scenes[0]
    surveyed = Survey(scene=scene, ids=[f"{scene.id}_r00000_c00000", f"{scene.id}_r00000_c00008"])
    write_labels(root / "labels" / "a.tif", np.pad(np.zeros((8, 8), np.uint8), ((0, 8), (0, 8)), constant_values=255))
    with pytest.raises(StoreError, match="changed while") as caught:
        write_batch(preparation, Prepared(number=0, surveys=[surveyed], shards={}))
    assert "1 places" in caught.value.got


def test_a_batch_made_again_without_a_scene_loses_the_shards_that_it_no_longer_fills(root, tmp_path):
    preparation = opened(root, tmp_path / "out", shard_places=1)
    (tmp_path / "out" / "shards").mkdir(parents=True)
    batch = Batch(number=4, scenes=tuple(preparation.source.scenes[:3]))
    statistics = SetStatistics(bands=BANDS, legend=LEGENDS["dynamic_world"], shift_samples=0)
    prepared, _ = prepare_batch(preparation, (batch, statistics))
    assert list(prepared.shards) == [f"shards/000004-{part:04d}.safetensors" for part in range(3)]
    prepared.surveys[1].error = DataError("refused")
    assert [*write_batch(preparation, prepared)] == [*prepared.shards][:2]
    assert [path.name for path in shards_of(tmp_path / "out")] == [Path(name).name for name in [*prepared.shards][:2]]


def test_an_id_that_two_scenes_give_is_refused_and_the_begun_store_is_taken_back(root, tmp_path):
    records = PlaceRecord.__post_init__

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PlaceRecord, "__post_init__", lambda self: (object.__setattr__(self, "id", "same"), records(self))[1]
        )
        with pytest.raises(StoreError, match="twice") as caught:
            prepare(settings(root, tmp_path / "out"))
    assert caught.value.got == "same"
    assert not (tmp_path / "out").exists()


def test_what_others_put_into_the_folder_of_a_refused_store_stays(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_labels(root / "labels" / "c.tif", np.full((16, 16), 17, np.uint8))
    with pytest.raises(DataError):
        prepare(settings(root, tmp_path / "out"))
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"}


@pytest.mark.slow
def test_verify_counts_and_finds_damage_alike_with_many_workers(root, scheduler, tmp_path, capsys):
    store = tmp_path / "store"
    prepare(settings(root, store, shard_places=2))
    with open_workers(scheduler=scheduler) as each:
        assert verify_store(store, each) == verify_store(store)
    assert main(["verify", str(store), "--dask_scheduler", scheduler]) == 0
    assert "is whole: 7 places" in capsys.readouterr().err
    for path in shards_of(store)[1::2][:2]:
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
    source = folders(root, tile=8)
    made = []
    init = PlaceRecord.__post_init__
    monkeypatch.setattr(PlaceRecord, "__post_init__", lambda self: (made.append(self.id), init(self))[1])
    records = list(source.records(source.scenes[0], only={"a_r00008_c00000"}))
    assert [record.id for record in records] == made == ["a_r00008_c00000"]
    assert (records[0].labels == next(r for r in source.records(source.scenes[0]) if r.id == made[0]).labels).all()
