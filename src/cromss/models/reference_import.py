"""Checkpoints of the paper's authors, and of other pretrained encoders for Sentinel-1 and -2, as our own.

In: a .ckpt, .pth or .pt file that torch.save wrote; nothing in it is run (see restricted_reader). Which layout it has
is told by the names of its weights:

    layout           under        names start with                                            becomes
    CromSS, middle   state_dict   net.encoder1. net.encoder. net.decoder. net.segm...         checkpoint
    CromSS, late     state_dict   net.model1. net.model2.                                     checkpoint
    one sensor       state_dict   net.encoder. net.decoder. net.segm...                       checkpoint
    MoCo             state_dict   module.encoder_q.                                           encoder
    DINO             teacher      module.backbone.                                            encoder
    DeCUR            -            module.backbone_1. (s1)  module.backbone_2. (s2)            encoder
    Satlas           -            backbone.resnet.                                            encoder

The encoder of s1 is the authors' first, that of s2 their second. Classification layers (fc) are left out, and counted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cromss.errors import BandError, CheckpointError, LabelError, ModelError
from cromss.geo.bands import published_normalization, resolve_bands
from cromss.geo.legends import get_legend
from cromss.geo.sensor import SENSORS, Sensor
from cromss.models.networks import NetworkSpec, build_network
from cromss.models.restricted_reader import Archive, TensorRef
from cromss.models.saved import save_network
from cromss.models.weights import EncoderWeights, encoder_skeleton, write_encoder

__all__ = ["import_reference"]

Scaling = Literal["paper", "standard", "unknown"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    title: str
    key: str | None  # of the file's top level, None where the weights lie there themselves
    names: Mapping[str, str]  # start of a name -> what it becomes
    network: bool  # a whole network with decoder and head, or an encoder alone


_HEAD = {"net.decoder.": "shared.decoder.", "net.segmentation_head.": "shared.segmentation_head."}
_LAYOUTS = (
    _Layout(
        title="CromSS, middle fusion",
        key="state_dict",
        names={"net.encoder1.": "branches.s1.encoder.", "net.encoder.": "branches.s2.encoder.", **_HEAD},
        network=True,
    ),
    _Layout(
        title="CromSS, late fusion",
        key="state_dict",
        names={"net.model1.": "branches.s1.", "net.model2.": "branches.s2."},
        network=True,
    ),
    _Layout(
        title="one sensor",
        key="state_dict",
        names={f"net.{part}.": f"branches.{{sensor}}.{part}." for part in ("encoder", "decoder", "segmentation_head")},
        network=True,
    ),
    _Layout(title="MoCo", key="state_dict", names={"module.encoder_q.": "{sensor}."}, network=False),
    _Layout(title="DINO", key="teacher", names={"module.backbone.": "{sensor}."}, network=False),
    _Layout(title="DeCUR", key=None, names={"module.backbone_1.": "s1.", "module.backbone_2.": "s2."}, network=False),
    _Layout(title="Satlas", key=None, names={"backbone.resnet.": "{sensor}."}, network=False),
)


def import_reference(
    path: str | Path,
    out: str | Path,
    *,
    bands: Mapping[str, str | Sequence[str]],
    encoder: str = "resnet50",
    legend: str = "dynamic_world",
    normalization: Scaling = "paper",
) -> dict[str, Any]:
    """Turn a published checkpoint into a checkpoint folder (or, for an encoder alone, an exported encoder) at `out`.

    bands: {sensor: bands in the order of the file's first convolution}, e.g. {"s1": "2", "s2": "13"}; a file with one
    encoder takes one sensor, and of DeCUR's two the sensor given is taken.   legend: the classes of a whole network.
    normalization: how the file's input was scaled: the paper's, "standard" with the same statistics, or "unknown".
    Returns a report: layout, tensors taken, names left out. Raises CheckpointError for a file that is damaged or of no
    known layout, ModelError where names or shapes are not those of `encoder`, BandError and LabelError for what is
    given.
    """
    resolved = {sensor: _resolve(sensor, wanted, normalization) for sensor, wanted in bands.items()}
    with Archive(path) as archive:
        layout, references = _recognise(archive)
        names = _rename(layout, references, tuple(resolved), Path(path))
        tensors = {new: archive.tensor(references[old]) for old, new in names.items()}
    scaling = {
        sensor: None if normalization == "unknown" else published_normalization(sensor, wanted, normalization).to_dict()
        for sensor, wanted in resolved.items()
    }
    origin = f"{Path(path).name} ({layout.title})"
    if layout.network:
        _write_network(tensors, Path(out), scaling, encoder, legend, origin)
    else:
        _write_encoder(tensors, Path(out), scaling, resolved, encoder, origin)
    left_out = sorted(set(references) - set(names))
    return {"layout": layout.title, "tensors": len(tensors), "left_out": left_out, "out": str(out)}


def _resolve(sensor: str, wanted: str | Sequence[str], normalization: str) -> tuple[str, ...]:
    """Bands of s1 and s2 by name or set; of another sensor whatever they are called."""
    if sensor in SENSORS:
        return resolve_bands(sensor, wanted)
    if normalization != "unknown":
        raise BandError(
            f"nobody has published how {sensor} is scaled",
            got=f"normalization {normalization}",
            expected=f"that only for {', '.join(SENSORS)}; of another sensor: unknown",
            do="give normalization unknown; a transfer then scales by the statistics of its store",
        )
    names = tuple(part.strip() for part in wanted.split(",")) if isinstance(wanted, str) else tuple(map(str, wanted))
    return Sensor(name=sensor, title=sensor, unit="unknown", bands=names, valid_min=0, valid_max=1).bands


def _recognise(archive: Archive) -> tuple[_Layout, dict[str, TensorRef]]:
    """The first layout all of whose names occur, and the tensors under its key."""
    top = archive.content if isinstance(archive.content, dict) else {}
    for layout in _LAYOUTS:
        state = top.get(layout.key) if layout.key else top
        if not isinstance(state, dict):
            continue
        references = {name: ref for name, ref in state.items() if isinstance(name, str) and isinstance(ref, TensorRef)}
        if all(any(name.startswith(start) for name in references) for start in layout.names):
            return layout, references
    found = {key: _starts(value) if isinstance(value, dict) else type(value).__name__ for key, value in top.items()}
    raise CheckpointError(
        "the names in this file belong to no layout that is known",
        got=dict(list(found.items())[:8]) or f"a {type(archive.content).__name__}",
        expected="; ".join(f"{known.title}: {' '.join(known.names)}" for known in _LAYOUTS),
        where=archive.path,
    )


def _starts(state: Mapping[Any, Any]) -> list[str]:
    return sorted({".".join(str(name).split(".")[:2]) for name in state})[:5]


def _rename(
    layout: _Layout, references: Mapping[str, TensorRef], sensors: tuple[str, ...], where: Path
) -> dict[str, str]:
    """Name in the file -> name of ours, for all that is wanted."""
    single = any("{sensor}" in new for new in layout.names.values())
    wanted = len(sensors) == 1 if single or not layout.network else set(sensors) == {"s1", "s2"}
    if not wanted:
        expected = "bands of one sensor" if single or not layout.network else "bands of s1 and of s2"
        raise ModelError(f"this is a {layout.title} file", got=f"bands of {sensors}", expected=expected, where=where)
    names = {}
    for old in references:
        for start, new in layout.names.items():
            target = new.format(sensor=sensors[0])
            if old.startswith(start) and (layout.network or target == f"{sensors[0]}."):
                names[old] = target + old.removeprefix(start)
    return {old: new for old, new in names.items() if not re.search(r"(^\w+|encoder)\.fc\.", new)}


def _write_network(
    tensors: dict[str, Tensor],
    out: Path,
    scaling: Mapping[str, dict[str, Any] | None],
    encoder: str,
    legend: str,
    origin: str,
) -> None:
    inputs = {sensor: numbers for sensor, numbers in scaling.items() if numbers is not None}
    if len(inputs) < len(scaling):
        raise ModelError("a whole network needs its scaling", got="unknown", expected="paper or standard", where=origin)
    sensors = tuple(inputs)
    middle = "shared.segmentation_head.0.weight" in tensors
    root = "shared" if middle else f"branches.{sensors[0]}"
    head = tensors.get(f"{root}.segmentation_head.0.weight")
    classes = get_legend(legend)
    if head is None or head.shape[0] != classes.num_classes:
        got, expected = None if head is None else head.shape[0], f"{legend}: {classes.num_classes}"
        raise LabelError("the network has another number of classes", got=got, expected=expected, where=origin)
    spec = NetworkSpec(
        inputs={sensor: len(numbers["bands"]) for sensor, numbers in inputs.items()},
        branches=sensors,
        num_classes=classes.num_classes,
        fusion="middle" if middle else "late",
        encoder=encoder,
        decoder_channels=_unet_channels(tensors, root),
    )
    with torch.random.fork_rng(devices=[]):
        network = build_network(spec)
    _require_fit(tensors, network.state_dict(), origin)
    network.load_state_dict(tensors)
    card = {"inputs": inputs, "legend": classes.to_dict(), "origin": origin, "scores": {}}
    save_network(out, network=network, card=card)


def _unet_channels(tensors: Mapping[str, Tensor], root: str) -> tuple[int, ...]:
    names = [f"{root}.decoder.blocks.{index}.conv1.0.weight" for index in range(5)]
    if any(name not in tensors for name in names):
        raise ModelError("the decoder in this file is no U-Net of five blocks", got=root, expected=names[0])
    return tuple(tensors[name].shape[0] for name in names)


def _write_encoder(
    tensors: dict[str, Tensor],
    out: Path,
    scaling: Mapping[str, dict[str, Any] | None],
    bands: Mapping[str, tuple[str, ...]],
    encoder: str,
    origin: str,
) -> None:
    (sensor,) = bands
    state = {name.removeprefix(f"{sensor}."): tensor for name, tensor in tensors.items()}
    _require_fit(state, encoder_skeleton(encoder, len(bands[sensor])), origin)
    weights = EncoderWeights(
        state_dict=state,
        bands=bands[sensor],
        normalization=scaling[sensor],
        encoder=encoder,
        sensor=sensor,
        origin=origin,
    )
    write_encoder(weights, out)


def _require_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    want = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in expected.items()}
    differing = [name for name in {**want, **got} if got.get(name) != want.get(name)]
    if differing:
        first = differing[0]
        raise ModelError(
            f"{len(differing)} of the file's weights do not fit the network",
            got=f"{first}: {got.get(first, 'absent')}",
            expected=want.get(first, "no such name"),
            where=where,
            do="check the encoder's name and the number of bands",
        )
