"""Encoders by name: out of a checkpoint, out of ImageNet, to other bands, and out of this package for everybody.

    load_encoder     checkpoint, exported encoder or "imagenet:resnet50"  -> EncoderWeights
    adapt_bands      first convolution for other bands, by name           -> w_b for shared bands b, mean_b w_b for new
    export_encoder   checkpoint -> a folder that segmentation_models_pytorch, timm or torchvision load by themselves

An exported encoder is a folder of encoder.safetensors and card.json (bands, units, mean and std, SHA-256).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cromss.errors import BandError, CheckpointError, ModelError
from cromss.files import commit_folder, sha256
from cromss.models.narrow_encoder import NARROW
from cromss.models.networks import FUSED, NetworkSpec, build_network
from cromss.models.saved import (
    find_checkpoint,
    load_network,
    read_json_table,
    read_tensors,
    require_finite,
    write_json_bytes,
)

__all__ = ["EncoderWeights", "adapt_bands", "encoder_skeleton", "export_encoder", "load_encoder", "write_encoder"]

FORMAT = "cromss-encoder/1"
ENCODER, CARD = "encoder.safetensors", "card.json"
IMAGENET_BANDS = ("B4", "B3", "B2")  # red, green, blue
Layout = Literal["smp", "timm", "torchvision"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """An encoder's weights under segmentation_models_pytorch's names, and what its input must be.

    encoder: smp's name of the architecture.   bands: in the order of the first convolution.   normalization: how native
    values become its input, as `Normalization.to_dict()`; None where nobody has said.   origin: where it comes from.
    """

    state_dict: Mapping[str, Tensor]
    bands: tuple[str, ...]
    normalization: Mapping[str, Any] | None
    encoder: str
    sensor: str
    origin: str


def load_encoder(source: str | Path, sensor: str) -> EncoderWeights:
    """The encoder of a sensor (or "fused") of a checkpoint, run folder or exported encoder, or "imagenet:<encoder>".

    ImageNet's are fetched over the network; their bands are B4, B3, B2 of s2. torch's random generator is left as it
    was. Raises CheckpointError for a damaged or foreign folder, ModelError for a branch that is not there and for
    ImageNet weights that do not exist or cannot be fetched.
    """
    if isinstance(source, str) and re.fullmatch(r"imagenet(:.+)?", source):
        return _imagenet(source.partition(":")[2] or "resnet50", sensor)
    if (Path(source) / ENCODER).is_file():
        return _exported(Path(source), sensor)
    folder = find_checkpoint(source)
    network, card = load_network(folder)
    if sensor not in network.encoders:
        expected = ", ".join(network.encoders)
        raise ModelError("the checkpoint has no such branch", got=sensor, expected=expected, where=folder)
    if network.spec.depth < 5:
        raise ModelError(
            "the last stages of this encoder were never trained",
            got=f"{network.spec.depth} of 5 stages below a {network.spec.decoder} decoder",
            where=folder,
            do="take a checkpoint that was trained with all five stages",
        )
    inputs = card.get("inputs", {})
    sensors = list(network.spec.inputs) if sensor == FUSED else [sensor]
    bands = tuple(band for name in sensors for band in inputs.get(name, {}).get("bands", ()))
    if len(bands) != network.spec.bands_of(sensor):
        raise CheckpointError("the card does not name the bands", got=bands, expected="inputs.<sensor>", where=folder)
    return EncoderWeights(
        state_dict=network.encoders[sensor].state_dict(),
        bands=bands,
        normalization=None if sensor == FUSED else inputs[sensor],
        encoder=network.spec.encoder,
        sensor=sensor,
        origin=str(folder),
    )


def _imagenet(encoder: str, sensor: str) -> EncoderWeights:
    if sensor != "s2":
        raise ModelError("ImageNet's weights are for red, green and blue", got=sensor, expected="s2")
    try:
        with torch.random.fork_rng(devices=[]):
            weights: str | bool = True if encoder.startswith("tu-") else "imagenet"
            model = smp.encoders.get_encoder(encoder, in_channels=3, weights=weights)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError("there are no ImageNet weights of this encoder", got=error, where=encoder) from error
    except OSError as error:
        do = "connect to the network, or put them into the Hugging Face cache beforehand"
        raise ModelError("ImageNet weights could not be fetched", got=error, where=encoder, do=do) from error
    return EncoderWeights(
        state_dict=model.state_dict(),
        bands=IMAGENET_BANDS,
        normalization=None,
        encoder=encoder,
        sensor=sensor,
        origin=f"imagenet:{encoder}",
    )


def _exported(folder: Path, sensor: str) -> EncoderWeights:
    card = read_json_table(folder / CARD)
    bands, encoder = card.get("bands"), card.get("encoder")
    if card.get("format") != FORMAT or not isinstance(bands, list) or not isinstance(encoder, str):
        raise CheckpointError("the card is not of an exported encoder", got=card.get("format"), where=folder / CARD)
    if card.get("sensor") != sensor:
        raise ModelError("this encoder is for another sensor", got=card.get("sensor"), expected=sensor, where=folder)
    if card.get("layout") == "timm" and encoder.startswith("tu-"):
        raise ModelError("timm's layout is for timm", where=folder, do="export with layout smp to come back here")
    if sha256(folder / ENCODER) != card.get("sha256"):
        raise CheckpointError("the encoder has changed since it was written", where=folder / ENCODER)
    state = read_tensors(folder / ENCODER, encoder_skeleton(encoder, len(bands)))
    return EncoderWeights(
        state_dict=state,
        bands=tuple(bands),
        normalization=card.get("normalization"),
        encoder=encoder,
        sensor=sensor,
        origin=str(folder),
    )


def encoder_skeleton(encoder: str, bands: int) -> dict[str, Tensor]:
    """Names, shapes and types of an encoder's weights, without memory for them. Raises ModelError."""
    spec = NetworkSpec(inputs={"s2": bands}, branches=("s2",), num_classes=2, encoder=encoder)
    with torch.device("meta"):
        return dict(build_network(spec).encoders["s2"].state_dict())


# ---- bands


def adapt_bands(
    state: Mapping[str, Tensor],
    from_bands: Sequence[str],
    to_bands: Sequence[str],
    *,
    missing: Literal["error", "zero"] = "error",
    extra: Literal["error", "mean"] = "error",
    rescale: bool = False,
) -> dict[str, Tensor]:
    """Rearrange the first convolution from `from_bands` to `to_bands`, by name; all other weights stay.

    missing: bands that the encoder knows and the input lacks: "zero" drops their weights, the same as an input of 0.
    extra: bands that the encoder does not know: "mean" gives them the mean of the known bands' weights. The sum over
    the bands then grows or shrinks with their number, unless `rescale`, which multiplies all by len(from) / len(to).
    Raises BandError naming the bands where "error" applies or nothing is shared; ModelError if no convolution has as
    many inputs as `from_bands`.
    """
    lacking = [band for band in from_bands if band not in to_bands]
    added = [band for band in to_bands if band not in from_bands]
    if lacking and missing == "error":
        do = 'choose bands that include them, or go without by missing="zero"'
        raise BandError("bands that the encoder was trained with are missing", got=to_bands, expected=lacking, do=do)
    if added and extra == "error":
        do = 'leave them out, or give them the mean of the others\' weights by extra="mean"'
        raise BandError("the encoder does not know some bands", got=added, expected=tuple(from_bands), do=do)
    if len(lacking) == len(from_bands) or len({*to_bands}) != len(to_bands):
        raise BandError("no band is shared, or one is named twice", got=tuple(to_bands), expected=tuple(from_bands))
    name = _first_convolution(state, len(from_bands))
    weight_OBHW = state[name]
    position = {band: index for index, band in enumerate(from_bands)}
    mean_OHW = weight_OBHW.mean(dim=1)
    columns = [weight_OBHW[:, position[band]] if band in position else mean_OHW for band in to_bands]
    adapted_OBHW = torch.stack(columns, dim=1)
    scale = len(from_bands) / len(to_bands) if rescale else 1.0
    return {**state, name: adapted_OBHW * scale if rescale else adapted_OBHW}


def _first_convolution(state: Mapping[str, Tensor], bands: int) -> str:
    # a 1 x 1 kernel with as few inputs belongs to a squeeze-and-excitation block
    for name, tensor in state.items():
        if tensor.ndim == 4 and tensor.shape[1] == bands and tensor.shape[-1] > 1:
            return name
    raise ModelError("no convolution of the encoder has as many inputs", expected=f"{bands} bands")


# ---- export


def export_encoder(checkpoint: str | Path, sensor: str, out: str | Path, layout: Layout = "smp") -> Path:
    """Write the encoder of one sensor as `out`/encoder.safetensors and card.json, and return `out`.

    smp: loads into smp.encoders.get_encoder(name, in_channels=bands, weights=None).   timm: into
    timm.create_model(name, in_chans=bands, num_classes=0).   torchvision: into its ResNets, whose fc is not part of an
    encoder. Raises ModelError for a layout that has no such network, CheckpointError if `out` exists or cannot be
    written.
    """
    weights = load_encoder(checkpoint, sensor)
    return write_encoder(weights, out, layout=layout)


def write_encoder(weights: EncoderWeights, out: str | Path, *, layout: Layout = "smp") -> Path:
    """Write encoder weights as a folder of encoder.safetensors and card.json. Raises as `export_encoder`."""
    out = Path(out)
    if out.exists():
        raise CheckpointError("the folder exists", where=out, do="choose another one")
    require_finite(weights.state_dict, out)
    state, load = _to_layout(weights, layout)
    card = {
        "format": FORMAT,
        "encoder": weights.encoder,
        "sensor": weights.sensor,
        "bands": list(weights.bands),
        "normalization": weights.normalization,
        "layout": layout,
        "load": load,
        "origin": weights.origin,
        "version": importlib.metadata.version("cromss"),
    }
    try:
        with commit_folder(out) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary / ENCODER)
            write_json_bytes(temporary / CARD, {**card, "sha256": sha256(temporary / ENCODER)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the encoder could not be written", got=error, where=out) from error
    return out


def _to_layout(weights: EncoderWeights, layout: str) -> tuple[dict[str, Tensor], str]:
    """The state dict under the names of a library, and the Python call that makes the network it fits."""
    name, bands, state = weights.encoder, len(weights.bands), dict(weights.state_dict)
    if layout == "smp":
        needs = "import cromss.models.narrow_encoder; " if name == "tu-cromss_narrow" else ""
        call = f"segmentation_models_pytorch.encoders.get_encoder({name!r}, in_channels={bands}, weights=None)"
        return state, needs + call
    if layout == "torchvision":
        if name not in torchvision.models.list_models() or not re.match(r"(wide_)?res(net|next)", name):
            raise ModelError("torchvision has no ResNet of this name", got=name, do="export as smp or timm")
        return state, f"torchvision.models.{name}(); conv1 with {bands} inputs, fc not loaded"
    if layout == "timm":
        target = name.removeprefix("tu-")
        if target not in timm.list_models():
            raise ModelError("timm has no model of this name", got=name, do="export as smp")
        with torch.device("meta"):
            expected = timm.create_model(target, in_chans=bands, num_classes=0).state_dict()
        call = f"timm.create_model({target!r}, in_chans={bands}, num_classes=0)"
        if target == "cromss_narrow":  # timm's own class, but not a name that timm knows without this package
            settings = ", ".join(f"{key}={value!r}" for key, value in NARROW.items())
            call = (
                f"timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, {settings}, in_chans={bands}, num_classes=0)"
            )
        return _timm_names(state, expected), call
    raise ModelError("unknown layout", got=layout, expected="smp, timm, torchvision")


def _timm_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # smp keeps timm's network as `model`, and timm's own feature extractor flattens stages.0 to stages_0
    plain = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    named = {re.sub(r"^(stem|stages|layers|blocks|features)_(\d+)\.", r"\1.\2.", name): plain[name] for name in plain}
    for candidate in (plain, named):
        if {name: tensor.shape for name, tensor in candidate.items()} == {n: t.shape for n, t in expected.items()}:
            return candidate
    got = sorted(set(named) ^ set(expected))[:5]
    raise ModelError("the encoder's names cannot be put into timm's", got=got, do="export as smp")
