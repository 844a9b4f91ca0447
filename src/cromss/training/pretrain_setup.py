"""What a pretraining is made of: its data, its splits, its network and its plan, decided before anything runs.

In: the settings and the rank. Out: a `Setup` with the batches of every step and of every validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cromss.config import PretrainConfig, require_at_least
from cromss.data.dataset import PatchDataset, count_unscored
from cromss.data.loader import BatchLoader, make_loader
from cromss.data.sampling import BatchOrder, EvaluationOrder
from cromss.data.store import Store
from cromss.errors import BandError, ConfigError, MissingDataError
from cromss.geo.bands import Normalization, nearest, published_normalization, resolve_bands
from cromss.models.networks import FUSED, NetworkSpec
from cromss.training.loop import Plan

__all__ = ["Setup", "normalizations_of", "network_spec", "split_places"]

_VALIDATION_BATCH = 16  # whole tiles a batch at most; validation needs no gradients, so memory is no concern

_STRIDE = 32  # px: of the deepest features of most encoders; crops are multiples of it

_LOWEST = {
    "epochs": 1, "steps": 1, "batch_size": 1, "seed": 0, "validate_every": 1, "checkpoint_every": 1,
    "keep_checkpoints": 1, "log_every": 1, "pictures_every": 0, "validation_share": 0.0, "consistency_weight": 0.0,
    "plateau_patience": 0, "workers": 0,
}  # fmt: skip


def _sensors(config: PretrainConfig) -> tuple[str, ...]:
    if config.method == "single":
        return (config.sensor,)
    if len(config.sensors) < 2 or len(set(config.sensors)) < len(config.sensors):
        raise ConfigError(
            f"method {config.method} needs two or more sensors",
            got=f"sensors {list(config.sensors)}",
            expected="each once, e.g. [s2, dem]",
            do="name them all, or take method single with the setting sensor",
        )
    return config.sensors


def network_spec(config: PretrainConfig, bands: Mapping[str, Sequence[str]], num_classes: int) -> NetworkSpec:
    """The network of a pretraining: one branch a sensor, and the fused one where one more is asked for."""
    sensors = _sensors(config)
    allowed = (None, 1, 2) if len(sensors) == 1 else (None, len(sensors), len(sensors) + 1)
    if config.branches not in allowed:
        raise ConfigError(
            "branches and sensors do not go together",
            got=f"branches {config.branches}, method {config.method}, sensors {', '.join(sensors)}",
            expected="null; a fused branch besides needs two sensors" if len(sensors) == 1 else f"one of {allowed[1:]}",
            do="leave branches out for one a sensor",
        )
    return NetworkSpec(
        inputs={sensor: len(bands[sensor]) for sensor in sensors},
        branches=(*sensors, FUSED) if len(sensors) > 1 and config.branches == len(sensors) + 1 else sensors,
        num_classes=num_classes,
        fusion=config.fusion,
        encoder=config.encoder,
        decoder="unet",
        decoder_channels=config.decoder_channels,
    )


def normalizations_of(config: PretrainConfig, store: Store) -> dict[str, Normalization]:
    """The bands of each sensor that a pretraining takes from a store, and their scaling.

    Raises ConfigError, MissingDataError for an absent sensor or one without statistics, BandError for absent bands.
    """
    sensors = _sensors(config)
    wanted: dict[str, Any] = {"s1": config.s1_bands, "s2": config.s2_bands, **config.bands}
    for sensor in (*sensors, *config.bands):
        if sensor not in store.sensors:
            raise MissingDataError(
                f"the store holds no {sensor} images",
                got=sorted(store.sensors),
                expected=sensors,
                where=config.data,
                do=f"did you mean {nearest(sensor, [*store.sensors])!r}?",
            )
    found = {}
    for sensor in sensors:
        known, held, names = store.definitions[sensor], store.sensors[sensor], wanted.get(sensor, "all")
        names = held if names == "all" else resolve_bands(known, names if isinstance(names, list) else str(names))
        if absent := [name for name in names if name not in held]:
            raise BandError(
                f"the store lacks bands of {sensor}", got=", ".join(absent), expected=", ".join(held), where=config.data
            )
        found[sensor] = published_normalization(known, names, config.normalization)
    return found


def split_places(store: Store, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and validation places: the store's own splits, or a share of the training places held out."""
    train, validation = store.select("train"), store.select("validation")
    if not len(train):
        raise MissingDataError("the store has no training places", where=store.path, do="prepare it with a train split")
    if len(validation) or share == 0:
        return train, validation
    shuffled = np.random.default_rng([seed, 1]).permutation(train)
    count = max(1, round(share * len(train)))
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


class Setup:
    """The parts of one pretraining on one rank of `world`. Raises ConfigError, StoreError, MissingDataError.

    accelerated: whether the device that trains is other than a CPU.
    """

    def __init__(self, config: PretrainConfig, *, rank: int = 0, world: int = 1, accelerated: bool = False) -> None:
        self.config, self.rank, self.world = config, rank, world
        require_at_least(config, **_LOWEST)
        self.store = Store.open(config.data)
        self.sensors = _sensors(config)
        self.normalizations = normalizations_of(config, self.store)
        self.train_places, self.validation_places = split_places(self.store, config.validation_share, config.seed)
        self._require_crop_fits()
        self.prior_on = self._choose_prior_on(accelerated)
        self._training_data = self._dataset(training=True)
        bands = {sensor: normalization.bands for sensor, normalization in self.normalizations.items()}
        self.spec = network_spec(config, bands, self.store.legend.num_classes)
        self.plan = self._plan()

    def _require_crop_fits(self) -> None:
        crop = self.config.crop
        smallest = min(self.train_places.tolist(), key=lambda place: min(self.store.shape(place)))
        height, width = self.store.shape(smallest)
        if crop is not None and crop > min(height, width):
            raise ConfigError(
                "a training place is smaller than the crop",
                got=f"{height} x {width} px ({self.store.id(smallest)})",
                expected=f"at least {crop} x {crop} px",
                where=self.config.data,
                do=f"set crop to {max(_STRIDE, min(height, width) // _STRIDE * _STRIDE)} or less",
            )

    def _choose_prior_on(self, accelerated: bool) -> str:
        """A batch of windows for the device holds as many label maps, of seasons and annotators, for each place."""
        if self.config.prior_on == "worker" or (self.config.prior_on is None and not accelerated):
            return "worker"
        places = self.train_places.tolist()
        seasons = {self.store.num_seasons(place) for place in places}
        annotators = {len(self.store.labels_of(place)) for place in places}
        if len(seasons) == 1 and (len(annotators) == 1 or self.config.label_source != "labels"):
            return "device"
        if self.config.prior_on is None:
            return "worker"
        raise ConfigError(
            "priors on the device need places with equally many seasons and annotators",
            got=f"places with {_list(seasons)} seasons and {_list(annotators)} annotators",
            where=self.config.data,
            do="set prior_on to worker",
        )

    def own_labels(self, batch: Mapping[str, Any]) -> Tensor:
        """What the pixels of a batch are labelled, soft (B, C, h, w) where the store has it so, else hard (B, h, w)."""
        return self._training_data.labels_of(batch)

    @property
    def unscored_places(self) -> int:
        """Validation places where the first annotator, who is scored, has no labels."""
        return count_unscored(self.store, self.validation_places.tolist(), self.config.label_source)

    def prior(self, batch: Mapping[str, Any]) -> Tensor | None:
        """The label prior of a batch, (B, C, h, w): made by the worker, made now from its labels, or None."""
        maker = self._training_data.prior_maker
        if self.prior_on == "device" and maker is not None:
            return maker.prior(batch["prior_labels"], batch["season"])
        return batch.get("prior")

    def _plan(self) -> Plan:
        config = self.config
        needed = config.batch_size * self.world
        epoch = len(self.train_places) // needed
        if epoch == 0:
            raise ConfigError(
                "there are fewer training places than one step needs",
                got=f"{len(self.train_places)} places",
                expected=f"at least {needed} (batch size x devices)",
                do="lower batch_size",
            )
        if config.schedule == "plateau" and not len(self.validation_places):
            raise ConfigError(
                "the schedule plateau needs validation places, and there are none",
                got=f"validation_share {config.validation_share}",
                do="raise validation_share, or choose another schedule",
            )
        total = config.steps or config.epochs * epoch
        validate_every = config.validate_every * epoch if len(self.validation_places) else 0
        return Plan(
            total_steps=total,
            steps_per_epoch=epoch,
            validate_every=validate_every,
            save_every=config.checkpoint_every or validate_every or epoch,
            log_every=config.log_every,
            draw_every=config.pictures_every * epoch if len(self.validation_places) else 0,
        )

    def _dataset(self, *, training: bool) -> PatchDataset:
        config = self.config
        return PatchDataset(
            self.store,
            self.normalizations,
            crop=config.crop if training else None,
            flip=config.flip if training else 0.0,
            rotate=config.rotate if training else 0.0,
            prior=config.prior if training else None,
            sigma=config.sigma,
            prior_on=self.prior_on,
            label_source=config.label_source,
            soft=config.soft_labels and training,
            seed=config.seed,
            training=training,
        )

    def training_batches(self, start: int) -> BatchLoader:
        config = self.config
        order = BatchOrder(
            self.train_places,
            config.batch_size,
            seed=config.seed,
            start_step=start,
            total_steps=self.plan.total_steps,
            rank=self.rank,
            world=self.world,
        )
        return make_loader(
            self._training_data, order, workers=config.workers, seed=config.seed, timeout=config.worker_timeout
        )

    def validation_batches(self) -> BatchLoader:
        order = EvaluationOrder(
            self.store,
            self.validation_places,
            batch_size=_VALIDATION_BATCH,
            rank=self.rank,
            world=self.world,
        )
        return make_loader(
            self._dataset(training=False), order, workers=0, seed=self.config.seed, timeout=self.config.worker_timeout
        )


def _list(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
