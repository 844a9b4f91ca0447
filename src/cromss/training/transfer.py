"""Transfer: a pretrained encoder, exact labels; a fresh decoder trained for each draw and seed, and its scores.

    frozen         the encoder's weights and BatchNorm statistics stay as they are
    frozen_adapt   its weights stay, its BatchNorm statistics follow the new data (what the paper calls frozen)
    fine_tuned     everything is trained

In: a store with train and test splits, and where the encoder comes from. Out: runs/<draw and seed>/ (log, network,
scores), scores.json, scores.csv, table.md. The test split is scored once, at the end, from one confusion matrix over
all its pixels. Runs that had finished with the same settings are kept.

    loss = sum of the chosen losses on the labels, hard or class probabilities; every pixel with a label weighs 1
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from cromss.config import TransferConfig, require_at_least, to_mapping
from cromss.data.dataset import PatchDataset
from cromss.data.loader import make_loader
from cromss.data.sampling import BatchOrder
from cromss.data.store import Store
from cromss.errors import ConfigError, MissingDataError, ResumeError
from cromss.files import read_json, write_json
from cromss.geo.bands import Normalization
from cromss.method import focal_loss, smooth_labels, soft_cross_entropy, soft_dice_loss
from cromss.models.networks import NetworkSpec, SegmentationNetwork, build_network
from cromss.training.checkpoint import save_checkpoint
from cromss.training.devices import launch
from cromss.training.evaluate import evaluation_batches
from cromss.training.loop import Batch, Hooks, Learner, Plan, Progress, fit, use_channels_last
from cromss.training.metrics import Scores
from cromss.training.optimization import build_optimizer, build_schedule
from cromss.training.runlog import RunLog
from cromss.training.scoresheet import SCORES, in_brief, over_runs, write_scores
from cromss.training.starting_point import StartingPoint, TransferNetwork, find_start, load_into
from cromss.training.stop import StopSignal
from cromss.training.validation import validate

__all__ = ["draw_places", "transfer"]

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": soft_cross_entropy,
    "dice": soft_dice_loss,
    "focal": focal_loss,
}


def transfer(config: TransferConfig) -> dict[str, Any]:
    """Train and score a network for each draw and seed of `config`; return what scores.json holds.

    Raises ConfigError, MissingDataError, BandError, CheckpointError for settings and inputs that do not fit,
    ResumeError for a folder with results of other settings; leaves with SystemExit 143 after a stop signal, finished
    runs kept.
    """
    _check(config)
    fabric = launch(config)
    store = Store.open(config.data)
    start = find_start(config, store)
    train, test = store.select("train"), store.select("test")
    if not len(test):
        raise MissingDataError("the store has no test places", where=config.data, do="prepare it with a test split")
    identity = _identity(config, store, start)
    runs = []
    with StopSignal() as stop:
        for draw, seed in product(range(config.draws), config.seeds):
            places = draw_places(train, config.train_tiles, draw)
            run = _Run(
                config=config,
                fabric=fabric,
                store=store,
                start=start,
                train_places=places,
                test_places=test,
                draw=draw,
                seed=seed,
                identity={**identity, "draw": draw, "seed": seed},
            )
            runs.append(run.kept() or run.train(stop))
    content = {
        "settings": to_mapping(config),
        "data_fingerprint": store.fingerprint,
        "encoder": {"name": start.encoder, "origin": start.origin, "bands": list(start.normalization.bands)},
        "classes": list(store.legend.names),
        "summary": {name: _summary([run["scores"][name] for run in runs]) for name in SCORES},
        "runs": runs,
    }
    if fabric.is_global_zero:
        write_json(Path(config.out) / "scores.json", content)
        named = {f"draw {run['draw']} seed {run['seed']}": run["scores"] for run in runs}
        write_scores(config.out, title=f"Transfer, {config.sensor}, {config.mode}", runs=named, spread=True)
        for name, scores in named.items():
            sys.stderr.write(f"{name}: {in_brief(scores)}\n")
        sys.stderr.write(f"done; the table is {Path(config.out) / 'table.md'}\n")
    fabric.barrier()
    return content


def draw_places(places: NDArray[np.int64], count: int | None, draw: int) -> NDArray[np.int64]:
    """`count` of the places, drawn by the number of the draw alone; all where count is None.

    The places of a smaller draw are among those of a larger draw of the same number, so that shots can be compared.
    """
    if count is None:
        return places
    if not 1 <= count <= len(places):
        raise ConfigError(
            "train_tiles asks for what the store does not have",
            got=count,
            expected=f"1 to {len(places)} training tiles",
        )
    return np.sort(np.random.default_rng(draw).permutation(places)[:count])


def _check(config: TransferConfig) -> None:
    require_at_least(config, epochs=1, steps=1, batch_size=1, workers=0, draws=1)
    if not config.seeds or len(set(config.seeds)) != len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(
            "seeds must name runs, each once", got=f"seeds {config.seeds}", expected="different numbers from 0 on"
        )
    if config.draws > 1 and config.train_tiles is None:
        raise ConfigError(
            "several draws of all tiles are one draw", got=f"draws {config.draws}", do="set train_tiles, or more seeds"
        )
    losses = set(config.losses)
    if not losses or losses - set(_LOSSES) or len(losses) < len(config.losses):
        raise ConfigError(
            "losses must be known, each once", got=config.losses, expected=f"some of {', '.join(_LOSSES)}"
        )
    if not 0 < config.schedule_share <= 1:
        raise ConfigError("schedule_share must be above 0 and at most 1", got=config.schedule_share)


# What may differ between two calls that share finished runs; data and weights are known by what they hold, not by path.
_FREE = ("out", "data", "checkpoint", "seeds", "draws", "workers", "save_networks")


def _identity(config: TransferConfig, store: Store, start: StartingPoint) -> dict[str, Any]:
    """All that decides the result of a run but its draw and seed."""
    settings = {name: value for name, value in to_mapping(config).items() if name not in _FREE}
    return {"settings": settings, "data": store.fingerprint, "encoder weights": start.digest}


def _summary(values: list[float | None]) -> dict[str, Any] | None:
    found = over_runs(values)
    return None if found is None else asdict(found)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One draw and seed, from an encoder to the scores on the test split."""

    config: TransferConfig
    fabric: Fabric
    store: Store
    start: StartingPoint
    train_places: NDArray[np.int64]
    test_places: NDArray[np.int64]
    draw: int
    seed: int
    identity: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.config.out) / "runs" / f"draw-{self.draw}.seed-{self.seed}"

    @property
    def normalizations(self) -> dict[str, Normalization]:
        return {self.config.sensor: self.start.normalization}

    def plan(self) -> Plan:
        """How many steps there are. Raises ConfigError where the tiles do not fill one."""
        per_step = self.config.batch_size * self.fabric.world_size
        epoch = len(self.train_places) // per_step
        if epoch == 0:
            raise ConfigError(
                "there are fewer training tiles than one step needs",
                got=f"{len(self.train_places)} tiles",
                expected=f"at least {per_step} (batch size x devices)",
                do="lower batch_size",
            )
        total = self.config.steps or self.config.epochs * epoch
        return Plan(total_steps=total, steps_per_epoch=epoch, validate_every=0, save_every=0, log_every=10)

    def kept(self) -> dict[str, Any] | None:
        """The result of this run if it has finished before."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        result: dict[str, Any] = read_json(path)
        if result["identity"] != self.identity:
            former = _flat(result["identity"])
            changed = {name: value for name, value in _flat(self.identity).items() if former.get(name) != value}
            raise ResumeError(
                "the folder holds a run with other settings",
                got={name: former.get(name) for name in changed},
                expected=changed,
                where=self.folder,
                do="choose another out folder, or remove this one",
            )
        return {name: value for name, value in result.items() if name != "identity"}

    def train(self, stop: StopSignal) -> dict[str, Any]:
        config, fabric, plan = self.config, self.fabric, self.plan()
        torch.manual_seed(self.seed)
        channels_last = use_channels_last(config.channels_last, fabric.device)
        bare = TransferNetwork(self._build(), config.mode)
        bare.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        optimizer = build_optimizer(config.optimizer, bare.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        falling = round(plan.total_steps * config.schedule_share)
        schedule = build_schedule("cosine", optimizer, total_steps=falling, final_lr=config.final_lr)
        network, wrapped = fabric.setup(bare, optimizer)
        if fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            # What a stopped run left is not resumed: a transfer is short.
            (self.folder / "log.jsonl").unlink(missing_ok=True)
            sys.stderr.write(f"transfer draw {self.draw} seed {self.seed}: {len(self.train_places)} tiles\n")
        fabric.barrier()
        data = self._training_data()
        learner = Learner(
            fabric=fabric, network=network, optimizer=wrapped, schedule=schedule, channels_last=channels_last
        )
        hooks = Hooks(
            losses=lambda batch, epoch: self._losses(network, batch, data.labels_of(batch)), save=lambda at: None
        )
        with RunLog(self.folder, start_step=0, total_steps=plan.total_steps, enabled=fabric.is_global_zero) as log:
            batches = self._batches(data, plan.total_steps)
            progress = fit(learner, hooks, batches, plan=plan, progress=Progress(), log=log, stop=stop)
        if progress.step < plan.total_steps:
            stop.leave()
        return self._finish(bare, self._score(bare))

    def _build(self) -> SegmentationNetwork:
        config = self.config
        network = build_network(
            NetworkSpec(
                inputs={config.sensor: len(self.start.normalization.bands)},
                branches=(config.sensor,),
                num_classes=self.store.legend.num_classes,
                encoder=self.start.encoder,
                decoder=config.decoder,
                decoder_channels=config.decoder_channels,
            )
        )
        load_into(network, config.sensor, self.start)
        return network

    def _training_data(self) -> PatchDataset:
        config = self.config
        return PatchDataset(
            self.store,
            self.normalizations,
            crop=config.crop,
            flip=config.flip,
            rotate=config.rotate,
            label_source=config.label_source,
            soft=config.soft_labels,
            seed=self.seed,
            training=True,
        )

    def _batches(self, data: PatchDataset, total_steps: int) -> Any:
        order = BatchOrder(
            self.train_places,
            self.config.batch_size,
            seed=self.seed,
            total_steps=total_steps,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        return make_loader(data, order, workers=self.config.workers, seed=self.seed)

    def _losses(self, network: nn.Module, batch: Batch, labels: Tensor) -> dict[str, Tensor]:
        logits_BCHW = network({self.config.sensor: batch[self.config.sensor]})[self.config.sensor]
        classes = logits_BCHW.shape[1]
        target_BCHW = smooth_labels(labels, classes, prior_weight=0.0, uniform_weight=0.0)
        parts: dict[str, Tensor] = {name: _LOSSES[name](logits_BCHW, target_BCHW) for name in self.config.losses}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _score(self, network: nn.Module) -> Scores:
        batches = evaluation_batches(
            self.store,
            self.normalizations,
            self.test_places,
            min(16, self.config.batch_size),
            label_source=self.config.label_source,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        network.eval()
        validation = validate(
            self.fabric,
            network,
            ({name: value for name, value in batch.items() if name != "truth"} for batch in batches),
            sensors=(self.config.sensor,),
            branches=(self.config.sensor,),
            names=self.store.legend.names,
            losses=("ce",),
            final_ratio=1.0,
        )
        return validation.noisy[self.config.sensor]

    def _finish(self, bare: TransferNetwork, scores: Scores) -> dict[str, Any]:
        result = {"draw": self.draw, "seed": self.seed, "tiles": len(self.train_places), "scores": scores.to_dict()}
        if self.fabric.is_global_zero:
            if self.config.save_networks:
                card = self._card(bare.network, scores)
                save_checkpoint(self.folder / "network", network=bare.network, card=card, replace=True)
            write_json(self.folder / "result.json", {**result, "identity": self.identity})
        self.fabric.barrier()
        return result

    def _card(self, network: SegmentationNetwork, scores: Scores) -> dict[str, Any]:
        return {
            "network": network.spec.to_dict(),
            "inputs": {sensor: value.to_dict() for sensor, value in self.normalizations.items()},
            "sensors": {self.config.sensor: self.store.definitions[self.config.sensor].to_dict()},
            "legend": self.store.legend.to_dict(),
            "recipe": {**to_mapping(self.config), "draw": self.draw, "seed": self.seed, "origin": self.start.origin},
            "data": {"path": str(self.config.data), "fingerprint": self.store.fingerprint},
            "scores": scores.to_dict(),
            "step": self.plan().total_steps,
            "epoch": self.plan().total_steps // self.plan().steps_per_epoch,
        }


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in identity.items() if name != "settings"}, **identity["settings"]}
