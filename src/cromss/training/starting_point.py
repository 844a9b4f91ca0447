"""Where a transfer starts: the encoder's weights, the bands and scaling that belong to them, and what may be trained.

In: the settings of a transfer and a store. Out: a StartingPoint, and a network whose encoder learns or does not. Bands
and scaling come from the checkpoint; settings that contradict it are refused, because an encoder fed with another
scaling is worse than none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cromss.config import TransferConfig
from cromss.data.store import Store
from cromss.errors import BandError, ConfigError, MissingDataError, ModelError
from cromss.geo.bands import Normalization, nearest, published_normalization, resolve_bands
from cromss.geo.sensor import Sensor
from cromss.models.networks import SegmentationNetwork
from cromss.models.weights import EncoderWeights, adapt_bands, load_encoder

__all__ = ["StartingPoint", "TransferNetwork", "find_start", "load_into"]


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """An encoder by name, its weights (None: random), and how its input is made; `origin` says where it is from."""

    encoder: str
    normalization: Normalization
    state: Mapping[str, Tensor] | None
    origin: str

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, by name; "random" where there are none. A path says less: its file may change."""
        if self.state is None:
            return "random"
        found = hashlib.sha256()
        for name in sorted(self.state):
            values = self.state[name].detach().cpu().contiguous()
            found.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
            found.update(values.view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


def find_start(config: TransferConfig, store: Store) -> StartingPoint:
    """Resolve encoder, bands and scaling of a transfer against what the store holds.

    Raises MissingDataError for an absent sensor, BandError for bands that encoder and data do not share, ConfigError
    for settings that contradict the checkpoint.
    """
    if config.sensor not in store.sensors:
        raise MissingDataError(
            f"the store holds no {config.sensor} images",
            got=sorted(store.sensors),
            where=config.data,
            do=f"did you mean {nearest(config.sensor, [*store.sensors])!r}?",
        )
    if (config.init == "checkpoint") != (config.checkpoint is not None):
        raise ConfigError(
            "checkpoint and init do not go together",
            got=f"init {config.init}, checkpoint {config.checkpoint}",
            expected="a checkpoint with init checkpoint, none with random or imagenet",
        )
    if config.init == "random":
        known = store.definitions[config.sensor]
        bands = resolve_bands(known, config.bands) if config.bands else store.sensors[config.sensor]
        _require_in_store(bands, config, store)
        scaling = published_normalization(known, bands, config.normalization or "paper")
        return StartingPoint(encoder=config.encoder, normalization=scaling, state=None, origin="random")
    source = config.checkpoint if config.checkpoint is not None else f"{config.init}:{config.encoder}"
    return _pretrained(load_encoder(source, config.sensor), config, store)


def _pretrained(weights: EncoderWeights, config: TransferConfig, store: Store) -> StartingPoint:
    known = store.definitions[config.sensor]
    wanted = resolve_bands(known, config.bands) if config.bands else weights.bands
    held = store.sensors[config.sensor]
    bands = wanted if config.missing_bands == "error" else tuple(band for band in wanted if band in held)
    _require_in_store(bands, config, store)
    state = adapt_bands(
        weights.state_dict, weights.bands, bands, missing=config.missing_bands, extra=config.extra_bands
    )
    return StartingPoint(
        encoder=weights.encoder,
        normalization=_scaling(weights, bands, config, known),
        state=state,
        origin=weights.origin,
    )


def _scaling(weights: EncoderWeights, bands: tuple[str, ...], config: TransferConfig, known: Sensor) -> Normalization:
    """The checkpoint's own numbers for the bands it knows; those of the sensor where it has none."""
    own = None if weights.normalization is None else Normalization.from_dict(weights.normalization)
    if own is None:
        return published_normalization(known, bands, config.normalization or "paper")
    if config.normalization not in (None, own.kind):
        raise ConfigError(
            "the setting contradicts the scaling that the encoder was trained with",
            got=f"normalization {config.normalization}",
            expected=own.kind,
            where=config.checkpoint,
            do="leave normalization unset",
        )
    tables: dict[str, dict[str, tuple[float, float]]] = {product: {} for product in known.products}
    for product, table in known.statistics.items():
        tables[product] |= table
    for product, numbers in own.statistics.items():
        if product in tables:
            tables[product] |= dict(zip(own.bands, zip(numbers["mean"], numbers["std"], strict=True), strict=True))
    scaling = published_normalization(known.with_statistics(tables), bands, own.kind)
    return dataclasses.replace(scaling, unit=own.unit)


def _require_in_store(bands: tuple[str, ...], config: TransferConfig, store: Store) -> None:
    absent = [band for band in bands if band not in store.sensors[config.sensor]]
    if absent or not bands:
        raise BandError(
            f"the store lacks {config.sensor} bands",
            got=", ".join(absent) or "no band at all",
            expected=f"of {', '.join(store.sensors[config.sensor])}",
            where=Path(config.data),
            do="choose bands that the store holds, or set missing_bands to zero to go without them",
        )


def load_into(network: SegmentationNetwork, sensor: str, start: StartingPoint) -> None:
    """Put the weights of a starting point into an encoder. Raises ModelError naming what does not fit.

    A decoder that uses fewer stages than the encoder was trained with leaves the deeper ones unused.
    """
    if start.state is None:
        return
    encoder = network.encoders[sensor]
    own = encoder.state_dict()
    absent = sorted(set(own) - set(start.state))
    unknown = sorted(set(start.state) - set(own)) if network.spec.depth == 5 else []
    shapes = [name for name in own if name in start.state and own[name].shape != start.state[name].shape]
    if absent or unknown or shapes:
        raise ModelError(
            f"the weights do not fit the encoder {start.encoder}",
            got=f"{len(absent)} missing, {len(unknown)} unknown, {len(shapes)} of another shape: "
            + ", ".join([*absent, *unknown, *shapes][:6]),
            where=start.origin,
        )
    encoder.load_state_dict({name: start.state[name] for name in own})


class TransferNetwork(nn.Module):
    """A one-branch network whose encoder learns, adapts its statistics only, or stays as it is.

    An encoder without trainable parameters builds no graph, so a frozen one costs a forward pass and no memory for it.
    """

    def __init__(self, network: SegmentationNetwork, mode: str) -> None:
        super().__init__()
        self.network, self._mode = network, mode
        (self.branch,) = network.spec.branches
        if mode != "fine_tuned":
            network.encoders[self.branch].requires_grad_(False)

    @property
    def size_multiple(self) -> int:
        """See SegmentationNetwork."""
        return self.network.size_multiple

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits {sensor: (B, C, H, W)}."""
        return self.network(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> TransferNetwork:
        """Whatever puts the network into training mode leaves a frozen encoder in evaluation mode."""
        super().train(mode)
        if self._mode == "frozen":
            self.network.encoders[self.branch].eval()
        return self
