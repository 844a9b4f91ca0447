"""The report of a run shows what the run did, whichever sensors and labels it had."""

from __future__ import annotations

import numpy as np
import pytest

from cromss.config import PretrainConfig
from cromss.data.store import Store
from cromss.files import write_json
from cromss.maps.run_report import confusion_section, tiles_section
from cromss.training.metrics import Scores
from cromss.training.pretrain import pretrain
from maps_helpers import LEGEND


@pytest.fixture(scope="module")
def single(toy_store, tmp_path_factory):
    """A run of one step of Sentinel-1 alone."""
    out = tmp_path_factory.mktemp("single") / "run"
    pretrain(
        PretrainConfig(
            data=str(toy_store), out=str(out), method="single", sensor="s1", encoder="tu-cromss_narrow",
            decoder_channels=(16, 16, 8, 8, 8), crop=32, workers=0, steps=1, batch_size=4, threads=1, final_ratio=0.25,
        )
    )  # fmt: skip
    return out


def test_the_classes_of_a_run_without_the_usual_branch_are_scored_against_the_truth_too(tmp_path):
    n = LEGEND.num_classes
    noisy, exact = (Scores.from_confusion(np.eye(n, dtype=int) * k, LEGEND.names).to_dict() for k in (1, 2))
    write_json(tmp_path / "result.json", {"validation": {"noisy": {"s1": noisy}, "truth": {"s1": exact}}})
    table = confusion_section("single", tmp_path, LEGEND).blocks[1]
    assert table.caption.startswith("Against the truth")
    assert table.rows[0][-1] == 2


def test_example_tiles_show_the_weights_at_the_final_ratio_of_the_run(single, toy_store, monkeypatch):
    asked = []

    def tiles_of(network, batch, sensors, ratio, class_balanced):
        asked.append((ratio, class_balanced))
        raise InterruptedError

    monkeypatch.setattr("cromss.maps.run_report.tiles_of", tiles_of)
    with pytest.raises(InterruptedError), Store.open(toy_store) as store:
        tiles_section("single", single, store)
    assert asked == [(0.25, True)]


def test_example_tiles_need_no_noisy_labels(single, toy_store, monkeypatch):
    has = Store.has
    monkeypatch.setattr(Store, "has", lambda self, name: name != "labels" and has(self, name))
    with Store.open(toy_store) as store:
        assert tiles_section("single", single, store).blocks
