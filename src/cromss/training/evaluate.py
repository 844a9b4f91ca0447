"""Scores of a checkpoint on a split of a store: every pixel of the split counts once, in one confusion matrix.

In: a checkpoint (or the folder of a run) and a store with the same classes. Out: scores.json, scores.csv and table.md.
Each branch of the network is scored, and `mean`, the mean of their probabilities. Where the store knows the truth of
its noisy labels, both are scored, and so is how well the network's label weights tell the wrong from the right ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from cromss.config import EvaluateConfig, PretrainConfig, require_at_least
from cromss.data.dataset import PatchDataset, count_unscored
from cromss.data.loader import make_loader
from cromss.data.sampling import EvaluationOrder
from cromss.data.store import Store
from cromss.errors import CheckpointError, MissingDataError
from cromss.files import write_json
from cromss.geo.bands import Normalization
from cromss.geo.legend import Legend
from cromss.training.checkpoint import load_network
from cromss.training.devices import limit_threads
from cromss.training.loop import Batch
from cromss.training.scoresheet import in_brief, write_scores
from cromss.training.validation import Validation, validate

__all__ = ["evaluate", "evaluation_batches"]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a checkpoint on `config.split`; return what scores.json holds.

    Raises CheckpointError for a checkpoint that is damaged or has other classes, MissingDataError for a store without
    the split, a sensor, or the truth where it is asked for.
    """
    limit_threads(config)
    require_at_least(config, batch_size=1)
    network, card = load_network(config.checkpoint)
    store = Store.open(config.data)
    _require_same_classes(Legend.from_dict(card["legend"]), store, config)
    _require_labels(store, config)
    normalizations = {sensor: Normalization.from_dict(content) for sensor, content in card["inputs"].items()}
    for sensor in normalizations:
        if sensor not in store.sensors:
            raise MissingDataError(
                f"the network needs {sensor} images",
                got=sorted(store.sensors),
                expected=sensor,
                where=config.data,
                do=f"evaluate on a store with {sensor}, or transfer the encoder of one sensor (cromss transfer)",
            )
    places = store.select(config.split)
    if not len(places):
        raise MissingDataError(f"the store has no {config.split} places", where=config.data, do="choose another split")
    _say_unscored(store, places.tolist(), config)
    fabric = Fabric(accelerator="cuda" if torch.cuda.is_available() else "cpu", devices=1)
    batches = evaluation_batches(store, normalizations, places, config.batch_size)
    recipe = card.get("recipe", {})
    validation = validate(
        fabric,
        network.to(fabric.device).eval(),
        batches,
        sensors=tuple(normalizations),
        branches=network.spec.branches,
        names=store.legend.names,
        losses=("ce",),
        final_ratio=recipe.get("final_ratio", PretrainConfig.final_ratio),
        class_balanced=recipe.get("class_balanced", PretrainConfig.class_balanced),
    )
    content = _content(config, store, validation)
    out = Path(config.out)
    write_json(out / "scores.json", content)
    write_scores(out, title=f"Scores on the {config.split} split", runs=content["scores"])
    for branch, scores in content["scores"].items():
        sys.stderr.write(f"{branch}: {in_brief(scores)}\n")
    sys.stderr.write(f"done; the table is {out / 'table.md'}\n")
    return content


def evaluation_batches(
    store: Store,
    normalizations: Mapping[str, Normalization],
    places: NDArray[np.int64],
    batch_size: int,
    *,
    label_source: str = "labels",
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Whole tiles of all seasons of `places`, each once, without augmentation."""
    dataset = PatchDataset(store, normalizations, label_source=label_source, training=False)
    order = EvaluationOrder(store, places, batch_size=batch_size, rank=rank, world=world)
    yield from make_loader(dataset, order, workers=0, seed=0)


def _require_same_classes(legend: Legend, store: Store, config: EvaluateConfig) -> None:
    if legend.names != store.legend.names:
        raise CheckpointError(
            "the checkpoint maps other classes than the store holds",
            got=f"{legend.name}: {', '.join(legend.names)}",
            expected=f"{store.legend.name}: {', '.join(store.legend.names)}",
            where=config.checkpoint,
            do="evaluate on a store with the checkpoint's legend, or transfer the encoder with cromss transfer",
        )


def _require_labels(store: Store, config: EvaluateConfig) -> None:
    if not store.has(config.label_source):
        raise MissingDataError(
            f"the store holds no {config.label_source}", where=config.data, do="choose the other label_source"
        )


def _say_unscored(store: Store, places: list[int], config: EvaluateConfig) -> None:
    """Where several annotators have labels, say how many places the first one leaves out. Raises MissingDataError."""
    if len(store.annotators) < 2:
        return
    unscored = count_unscored(store, places, config.label_source)
    if unscored == len(places):
        raise MissingDataError(
            f"no {config.split} place has labels of the first annotator, by whom scores are taken",
            got=f"{len(places)} places without labels of {store.annotators[0]}",
            where=config.data,
            do="choose another split, or prepare the store with another annotator first",
        )
    if unscored:
        sys.stderr.write(f"scored by {store.annotators[0]}, who has no labels in {unscored} of {len(places)} places\n")


def _content(config: EvaluateConfig, store: Store, validation: Validation) -> dict[str, Any]:
    scores = validation.truth if config.label_source == "truth" else validation.noisy
    return {
        "checkpoint": str(config.checkpoint),
        "data": {"path": str(config.data), "fingerprint": store.fingerprint},
        "split": config.split,
        "label_source": config.label_source,
        "scores": {branch: found.to_dict() for branch, found in scores.items()},
        "label_quality": {branch: found.to_dict() for branch, found in validation.quality.items()},
        "summary": {name: value for name, value in validation.summary.items() if name != "loss"},
    }
