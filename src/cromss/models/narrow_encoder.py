"""A narrow ResNet for small machines: the encoder of the synthetic benchmark and the tests.

In: images (B, bands, H, W). Out: feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size with 24, 24, 40, 80 and 128
channels. It is timm's own ResNet with one BasicBlock a stage and a stem of three 3 x 3 convolutions; importing this
module registers it with timm as `cromss_narrow`, and so with segmentation_models_pytorch as `tu-cromss_narrow`.

ResNet-18 is too slow for a benchmark on one core. The stem is deep (3 x 3, of 32, 32 and 64 channels) and not 7 x 7,
which would cost more than the rest of this encoder; with 12, 12 and 24 channels a step is a sixth faster, but on
synthetic scenes with clean labels it costs 7 points of accuracy: spectra are mixed before they are told apart.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

__all__ = ["NARROW", "cromss_narrow"]

# arguments of timm's ResNet, besides its BasicBlock
NARROW: dict[str, Any] = {
    "layers": (1, 1, 1, 1),
    "channels": (24, 40, 80, 128),
    "stem_type": "deep",
    "stem_width": 32,
}

# timm reads this name; it states that no pretrained weights are published
default_cfgs = generate_default_cfgs({"cromss_narrow": {"url": "", "first_conv": "conv1.0", "classifier": "fc"}})


@register_model  # type: ignore[untyped-decorator]
def cromss_narrow(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Build the narrow ResNet; the keyword arguments are those of timm's ResNet (`in_chans`, `features_only`, ...)."""
    return build_model_with_cfg(ResNet, "cromss_narrow", pretrained, **{"block": BasicBlock, **NARROW, **kwargs})
