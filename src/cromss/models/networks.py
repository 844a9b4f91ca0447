"""Segmentation networks for one, two or three branches, made of segmentation_models_pytorch's own parts.

In: images {sensor: (B, bands, H, W)}. Out: logits {branch: (B, C, H, W)}. A branch is a sensor or "fused", all stacked.

    late fusion      logits^d = head^d(decoder^d(encoder^d(x^d)))      a whole network a branch
    middle fusion    logits^d = head(decoder(encoder^d(x^d)))          an encoder a branch, the rest shared

The names of the weights are segmentation_models_pytorch's, below the branch: `branches.s2.encoder.conv1.weight`. With
late fusion a branch is a whole smp network: `branches.s2.` goes on with `encoder.`, `decoder.` or `segmentation_head.`.
With middle fusion the latter two are `shared.decoder.` and `shared.segmentation_head.`, run on each branch in turn.

Shapes: B batch, C classes, H and W pixels.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, Self

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cromss.errors import ModelError
from cromss.models import narrow_encoder as narrow_encoder  # registers tu-cromss_narrow
from cromss.models.unet_block import fold_upsampling

__all__ = ["DECODERS", "FUSED", "NetworkSpec", "SegmentationNetwork", "build_network", "forward_any_size"]

FUSED = "fused"
MAX_WIDTH = 4096  # of any layer that a spec can name: a damaged or hostile spec must not fill the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decoder:
    channel_arguments: tuple[str, ...]  # smp's names of its widths; one name takes the whole tuple
    depth: int  # smp's default number of encoder stages
    channels: tuple[int, ...]  # smp's defaults


DECODERS: Mapping[str, _Decoder] = {
    "unet": _Decoder(channel_arguments=("decoder_channels",), depth=5, channels=(256, 128, 64, 32, 16)),
    "pspnet": _Decoder(channel_arguments=("psp_out_channels",), depth=3, channels=(512,)),
    "deeplabv3plus": _Decoder(channel_arguments=("decoder_channels",), depth=5, channels=(256,)),
    "fpn": _Decoder(
        channel_arguments=("decoder_pyramid_channels", "decoder_segmentation_channels"), depth=5, channels=(256, 128)
    ),
    "upernet": _Decoder(channel_arguments=("decoder_channels",), depth=5, channels=(256,)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What a network is made of; enough to build it again.

    inputs: number of bands of each sensor, in the order in which "fused" stacks them. branches: sensors, and "fused".
    encoder: any name that smp knows, timm's as "tu-...". encoder_depth and decoder_channels: None takes smp's own
    (five stages, PSPNet three). decoder_channels: a width a stage for unet, two for fpn (pyramid, segmentation), else
    one. Raises ModelError where these do not go together.
    """

    inputs: Mapping[str, int]
    branches: tuple[str, ...]
    num_classes: int
    fusion: str = "late"
    encoder: str = "resnet50"
    encoder_depth: int | None = None
    decoder: str = "unet"
    decoder_channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be built, before anything is."""
        _check_names(self)
        _check_branches(self)
        _check_widths(self)

    @property
    def depth(self) -> int:
        """The number of encoder stages, each half the size of the one before."""
        return self.encoder_depth or DECODERS[self.decoder].depth

    def bands_of(self, branch: str) -> int:
        """The number of input bands of a branch."""
        return sum(self.inputs.values()) if branch == FUSED else self.inputs[branch]

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["inputs"] = dict(self.inputs)
        content["branches"] = list(self.branches)
        content["decoder_channels"] = None if self.decoder_channels is None else list(self.decoder_channels)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild a spec from `to_dict`. Raises ModelError for unknown or missing names and wrong types."""
        names = {field.name for field in dataclasses.fields(cls)}
        required = {"inputs", "branches", "num_classes"}
        if not isinstance(content, Mapping) or set(content) - names or required - set(content):
            got = sorted(content) if isinstance(content, Mapping) else type(content).__name__
            raise ModelError("a network specification has other fields than it should", got=got, expected=sorted(names))
        values = dict(content)
        for name in ("branches", "decoder_channels"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)


def _check_names(spec: NetworkSpec) -> None:
    if spec.fusion not in ("late", "middle"):
        raise ModelError("unknown fusion", got=spec.fusion, expected="late or middle")
    if spec.decoder not in DECODERS:
        raise ModelError("unknown decoder", got=spec.decoder, expected=", ".join(DECODERS))
    # timm would fetch "hf-hub:owner/name" from the network, and read any folder named "local-dir:..."
    if not isinstance(spec.encoder, str) or not re.fullmatch(r"[\w.-]{1,100}", spec.encoder, re.ASCII):
        raise ModelError("this is no name of an encoder", got=spec.encoder, expected="letters, digits, '_', '-', '.'")


def _check_branches(spec: NetworkSpec) -> None:
    if not isinstance(spec.inputs, Mapping) or not spec.inputs:
        raise ModelError("a network needs the number of bands of each sensor", got=spec.inputs, expected='{"s2": 13}')
    allowed = (*spec.inputs, FUSED) if len(spec.inputs) > 1 else tuple(spec.inputs)
    given = spec.branches if isinstance(spec.branches, tuple) else ()
    if not given or len(set(given)) != len(given) or set(given) - set(allowed):
        raise ModelError("the branches are wrong", got=spec.branches, expected=f"a tuple, each once, of {allowed}")
    if FUSED not in given and set(given) != set(spec.inputs):
        raise ModelError("a sensor is read by no branch", got=spec.branches, expected=f"each of {tuple(spec.inputs)}")


def _check_widths(spec: NetworkSpec) -> None:
    widths: list[Any] = [*spec.inputs.values(), spec.num_classes, *(spec.decoder_channels or ())]
    if not all(type(width) is int and 1 <= width <= MAX_WIDTH for width in widths):
        raise ModelError("a number of bands, classes or channels is wrong", got=widths, expected=f"1 to {MAX_WIDTH}")
    if spec.encoder_depth not in (None, 3, 4, 5):
        raise ModelError("wrong number of encoder stages", got=spec.encoder_depth, expected="3, 4 or 5")
    if spec.decoder_channels is None and spec.decoder == "unet" and spec.depth != 5:
        raise ModelError("a U-Net of fewer than five stages needs its decoder_channels", got=None, expected=spec.depth)
    expected = spec.depth if spec.decoder == "unet" else len(DECODERS[spec.decoder].channels)
    if spec.decoder_channels is not None and len(spec.decoder_channels) != expected:
        what = f"the {spec.decoder} decoder takes another number of channels"
        raise ModelError(what, got=spec.decoder_channels, expected=f"{expected} of them")
    if (
        spec.decoder == "fpn"
        and spec.decoder_channels
        and (spec.decoder_channels[1] % 32 or spec.decoder_channels[1] < 64)
    ):
        # its GroupNorm has 32 groups, and a group of one channel has no variance on a single pixel
        what = "the fpn decoder's second number of channels is wrong"
        raise ModelError(what, got=spec.decoder_channels[1], expected="a multiple of 32, from 64")


class SegmentationNetwork(nn.Module):
    """The branches of one spec. Build it with `build_network`."""

    def __init__(self, spec: NetworkSpec, models: Mapping[str, smp.base.SegmentationModel]) -> None:
        super().__init__()
        self.spec = spec
        if spec.fusion == "late":
            self.branches = nn.ModuleDict(models)
        else:
            first = models[spec.branches[0]]
            self.branches = nn.ModuleDict(
                {branch: nn.ModuleDict({"encoder": model.encoder}) for branch, model in models.items()}
            )
            self.shared = nn.ModuleDict({"decoder": first.decoder, "segmentation_head": first.segmentation_head})

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The encoder of each branch."""
        return self._parts("encoder")

    @property
    def decoders(self) -> dict[str, nn.Module]:
        """The decoder of each branch: the same one for all with middle fusion."""
        return self._parts("decoder")

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The segmentation head of each branch: the same one for all with middle fusion."""
        return self._parts("segmentation_head")

    def _parts(self, name: str) -> dict[str, nn.Module]:
        if self.spec.fusion == "middle" and name != "encoder":
            return dict.fromkeys(self.spec.branches, self.shared[name])
        return {branch: getattr(self.branches[branch], name) for branch in self.spec.branches}

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this, in pixels; it is also the smallest size."""
        return max(int(encoder.output_stride) for encoder in self.encoders.values())  # type: ignore[arg-type]

    def branch_logits(self, branch: str, images: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C, H, W) of one branch; only the sensors that it reads need be given.

        Raises ModelError for a sensor that is missing, a wrong number of bands, a size that does not fit, and a
        training batch that would leave a BatchNorm with one value.
        """
        if branch not in self.spec.branches:
            raise ModelError("the network has no such branch", got=branch, expected=", ".join(self.spec.branches))
        return self._run(branch, images)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits {branch: (B, C, H, W)} of every branch; raises as `branch_logits`."""
        return {branch: self._run(branch, images) for branch in self.spec.branches}

    def _run(self, branch: str, images: Mapping[str, Tensor]) -> Tensor:
        sensors = tuple(self.spec.inputs) if branch == FUSED else (branch,)
        for sensor in sensors:
            self._check(sensor, images)
        if len({(len(images[sensor]), *images[sensor].shape[2:]) for sensor in sensors}) > 1:
            raise ModelError("the sensors' images differ in size", got={s: tuple(images[s].shape) for s in sensors})
        image = images[sensors[0]] if len(sensors) == 1 else torch.cat([images[sensor] for sensor in sensors], dim=1)
        features = self.encoders[branch](image)
        return self.heads[branch](self.decoders[branch](features))  # type: ignore[no-any-return]

    def _check(self, sensor: str, images: Mapping[str, Tensor]) -> None:
        if sensor not in images:
            raise ModelError("an image that the network needs is missing", got=sorted(images), expected=sensor)
        image, bands = images[sensor], self.spec.inputs[sensor]
        if image.ndim != 4 or image.shape[1] != bands or not image.is_floating_point():
            got, expected = f"{tuple(image.shape)} {image.dtype}", f"(B, {bands}, H, W), floating point"
            raise ModelError(f"the {sensor} image does not fit", got=got, expected=expected)
        multiple = self.size_multiple
        height, width = image.shape[-2:]
        if height % multiple or width % multiple or not image.numel():
            near = sorted({_round(side, multiple, up) for side in (height, width) for up in (False, True)})
            raise ModelError(
                f"the {self.spec.decoder} network on {self.spec.encoder} cannot take this image size",
                got=f"{height} x {width} px",
                expected=f"multiples of {multiple} px, {multiple} the smallest; nearest {', '.join(map(str, near))}",
                do="change the crop; to evaluate or predict at any size use forward_any_size",
            )


def _round(side: int, multiple: int, up: bool) -> int:
    return max(multiple, (side + multiple - 1 if up else side) // multiple * multiple)


def build_network(spec: NetworkSpec) -> SegmentationNetwork:
    """Build the network of a spec with random weights, drawn from torch's global generator, in training mode.

    Parameters that the forward pass never reads (the last stages of an encoder below PSPNet) do not require gradients,
    so that distributed training finds none unused. Raises ModelError for an unknown encoder, or one that does not go
    with the decoder.
    """
    with torch.inference_mode(False), torch.enable_grad():  # a network built for evaluation can still be trained
        models = {branch: _build_branch(spec, branch) for branch in spec.branches}
        network = SegmentationNetwork(spec, models)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(_refuse_one_value)
        unread = _unread_parameters(network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in unread)
    return network


def _build_branch(spec: NetworkSpec, branch: str) -> smp.base.SegmentationModel:
    settings: dict[str, Any] = {"encoder_depth": spec.depth}
    if spec.decoder == "pspnet":
        settings["upsampling"] = 2**spec.depth
    if spec.decoder == "unet":
        settings["decoder_channels"] = spec.decoder_channels or DECODERS["unet"].channels
    elif spec.decoder_channels is not None:
        settings.update(zip(DECODERS[spec.decoder].channel_arguments, spec.decoder_channels, strict=True))
    try:
        model = smp.create_model(
            spec.decoder,
            encoder_name=spec.encoder,
            encoder_weights=None,
            in_channels=spec.bands_of(branch),
            classes=spec.num_classes,
            **settings,
        )
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        known = [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
        if spec.encoder not in known:
            near = difflib.get_close_matches(spec.encoder, known, n=3)
            raise ModelError("unknown encoder", got=spec.encoder, expected=f"near: {near}") from error
        what = f"the encoder {spec.encoder} cannot be used below a {spec.decoder} decoder"
        raise ModelError(what, got=error, do="choose another encoder, decoder or number of channels") from error
    if spec.decoder == "unet":
        fold_upsampling(model.decoder)
    return model


def _refuse_one_value(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """BatchNorm has no variance of one value; torch's own error names neither the cause nor a remedy."""
    values = inputs[0]
    if module.training and values.numel() == values.shape[1]:
        raise ModelError(
            "a BatchNorm would see a single value of each channel",
            got=f"a training batch of one, features of {tuple(values.shape)}",
            expected="two images a batch or more",
            do="raise the batch size; where the features are no global average, larger images help too",
        )


_unread: dict[str, frozenset[str]] = {}  # the same for every network of a spec, and a second of work for a large one


def _unread_parameters(network: SegmentationNetwork) -> frozenset[str]:
    """The parameters without influence on the logits, found by one forward and backward pass on blank images."""
    spec, size, key = network.spec, 2 * network.size_multiple, repr(network.spec)
    if key in _unread or any(parameter.is_meta for parameter in network.parameters()):
        return _unread.get(key, frozenset())  # without numbers, on the meta device, nothing can run or be trained
    images = {sensor: torch.zeros(1, bands, size, size) for sensor, bands in spec.inputs.items()}
    network.eval()  # neither draws random numbers nor updates BatchNorm
    try:
        logits = network(images)
    except (AssertionError, RuntimeError, ValueError) as error:
        what = f"the encoder {spec.encoder} with the {spec.decoder} decoder cannot take images of {size} px"
        raise ModelError(what, got=error, do="choose an encoder that takes any image size") from error
    network.train()
    if any(values.shape[-2:] != (size, size) for values in logits.values()):
        got = [tuple(values.shape[-2:]) for values in logits.values()]
        what = f"the {spec.decoder} decoder does not return to the image size with {spec.encoder}"
        raise ModelError(what, got=got, expected=(size, size))
    total = torch.stack([values.sum() for values in logits.values()]).sum()
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    _unread[key] = frozenset(name for name, gradient in zip(names, gradients, strict=True) if gradient is None)
    return _unread[key]


def forward_any_size(network: nn.Module, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits {branch: (B, C, H, W)} at the images' own size, which may be any, for evaluation and prediction.

    Images are padded below and to the right to the network's multiple, mirrored (or, where narrower than the margin,
    with their last row and column repeated), and the logits cut back. A size that fits gives exactly what the plain
    forward pass gives. Raises ModelError for a network in training mode: BatchNorm would learn from the margin.
    """
    if network.training:
        raise ModelError("forward_any_size is for evaluation", got="a network in training mode", do="network.eval()")
    multiple = int(network.size_multiple)  # type: ignore[arg-type]
    sizes = {tuple(image.shape[-2:]) for image in images.values()}
    if len(sizes) != 1 or any(side < 1 for side in next(iter(sizes))):
        raise ModelError("images of one size are needed", got=sorted(sizes), expected="one height and width above 0")
    height, width = sizes.pop()
    right, below = -width % multiple, -height % multiple
    if not right and not below:
        return network(images)  # type: ignore[no-any-return]
    mode = "reflect" if right < width and below < height else "replicate"
    padded = {sensor: F.pad(image, (0, right, 0, below), mode=mode) for sensor, image in images.items()}
    return {branch: logits[..., :height, :width] for branch, logits in network(padded).items()}
