"""`cromss labels` by several processes: the same files and the same report, by every source that can be tried here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cromss.config import LabelsConfig
from cromss.data.labelling import run
from cromss.data.labelling.run import label
from cromss.errors import ConfigError, DamagedFileError, LabelError
from records import contents
from small_scenes import s2_values, write_labels, write_s2

pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")

NAMES = "abcdefghij"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images, and three label maps of each that agree in most pixels; the last image has none at all."""
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        tags = {"LEVEL": "L2A", "ABSENT_BANDS": "B10"}
        values = s2_values(rng)
        values[10] = 0
        write_s2(tmp_path / "in" / "s2" / f"{name}.tif", values, tags=tags)
        truth = rng.integers(0, 9, (16, 16)).astype(np.uint8)
        for map_ in ("x", "y", "z"):
            labels = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 9, truth.shape), truth).astype(np.uint8)
            labels[rng.random(truth.shape) < 0.1] = 255
            write_labels(tmp_path / "in" / map_ / f"{name}.tif", np.full_like(labels, 255) if name == "j" else labels)
    return tmp_path / "in"


def settings(root: Path, out: Path, source: str, **changes: object) -> LabelsConfig:
    fused = {"fuse": ("x/{id}.tif", "y/{id}.tif", "z/{id}.tif"), "on_bad": "skip"} if source == "fuse" else {}
    return LabelsConfig(source=source, root=str(root), out=str(out), **{**fused, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("rules", {"write_probabilities": True, "min_confidence": 20}),
        ("fuse", {"fuse_by": "agree"}),
        ("fuse", {"fuse_by": "dawid_skene"}),
    ],
)
def test_one_and_two_workers_write_the_same_files_and_the_same_report(root: Path, tmp_path: Path, source, changes):
    reports = [label(settings(root, tmp_path / str(n), source, workers=n, **changes)) for n in (1, 2)]
    assert reports[0] == reports[1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert "labels-begun.json" not in contents(tmp_path / "1")
    if source == "fuse":
        assert [row["image"] for row in reports[1]["refusals"]] == [str(root / "s2" / "j.tif")]


@pytest.mark.slow
@pytest.mark.parametrize("fuse_by", ["majority", "dawid_skene"])
def test_an_interrupted_run_is_continued_to_the_same_files_and_the_same_report(root, tmp_path, fuse_by, monkeypatch):
    whole = label(settings(root, tmp_path / "whole", "fuse", fuse_by=fuse_by))
    written, write = [], run.write_label_map

    def stop(paths, *others):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(paths["labels"])
        write(paths, *others)

    monkeypatch.setattr(run, "write_label_map", stop)
    with pytest.raises(KeyboardInterrupt):
        label(settings(root, tmp_path / "out", "fuse", fuse_by=fuse_by))
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in written}
    with pytest.raises(ConfigError, match="label maps exist already"):
        label(settings(root, tmp_path / "out", "fuse", fuse_by=fuse_by))
    with pytest.raises(ConfigError, match="begun here with other settings") as caught:
        label(settings(root, tmp_path / "out", "fuse", fuse_by="agree", on_existing="keep"))
    assert caught.value.got == {"fuse_by": "agree"}
    assert label(settings(root, tmp_path / "out", "fuse", fuse_by=fuse_by, on_existing="keep")) == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == before


def test_labels_of_a_finished_run_count_as_kept_and_not_as_made(root: Path, tmp_path: Path):
    label(settings(root, tmp_path / "out", "fuse"))
    (tmp_path / "out" / "labels" / "c.tif").unlink()
    report = label(settings(root, tmp_path / "out", "fuse", on_existing="keep"))
    assert (report["images"], report["kept"]) == (1, 8)
    assert report["pixels"] == 256


def test_a_file_of_another_origin_in_an_interrupted_run_is_refused(root: Path, tmp_path: Path):
    begun = {"settings": run._settings(settings(root, tmp_path / "out", "fuse")), "kept": []}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels-begun.json").write_text(json.dumps(begun))
    write_labels(tmp_path / "out" / "labels" / "a.tif", np.zeros((16, 16), np.uint8))
    with pytest.raises(DamagedFileError, match="did not write"):
        label(settings(root, tmp_path / "out", "fuse", on_existing="keep"))


@pytest.mark.slow
def test_the_first_image_that_cannot_be_labelled_stops_two_workers_as_it_stops_one(root: Path, tmp_path: Path):
    texts = []
    for workers in (1, 2):
        with pytest.raises(LabelError, match="no label at all") as caught:
            label(settings(root, tmp_path / str(workers), "fuse", on_bad="stop", workers=workers))
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_paths_must_be_whole_where_workers_may_be_on_other_machines(root: Path, tmp_path: Path):
    config = LabelsConfig(
        source="maps", root=str(root), out=str(tmp_path), maps="tiles/*.tif", dask_scheduler="tcp://127.0.0.1:1"
    )
    with pytest.raises(ConfigError, match="a path must be whole") as caught:
        label(config)
    assert "maps tiles" in str(caught.value.got)


@pytest.mark.slow
def test_a_dask_scheduler_labels_as_one_process_does(root: Path, tmp_path: Path):
    from distributed import LocalCluster

    one = label(settings(root, tmp_path / "one", "fuse", fuse_by="dawid_skene"))
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert label(settings(root, tmp_path / "dask", "fuse", fuse_by="dawid_skene", dask_scheduler=address)) == one
    assert contents(tmp_path / "dask") == contents(tmp_path / "one")
