"""The U-Net decoder block with its upsampling folded into the convolution that follows it.

In: features (B, C, H, W) and a skip connection (B, S, 2H, 2W) or none. Out: features (B, O, 2H, 2W), the same numbers
as segmentation_models_pytorch's own block up to rounding, from the same weights under the same names.

Nearest upsampling makes four equal pixels of one, so a 3 x 3 kernel on its result reads only 2 x 2 different ones. At
each of the four places (a, b) of a doubled pixel the kernel is therefore a sum of its rows and of its columns:

    a = 0: rows (w_0, w_1 + w_2)        a = 1: rows (w_0 + w_1, w_2)        and likewise the columns for b

One 2 x 2 convolution with 4 O outputs at the small size takes the place of a 3 x 3 one at the large size: 4/9 of the
work, four times as many output channels for the same pixels, and neither the upsampled nor the stacked features exist.
Place (0, 0) reads from one pixel above and left of place (1, 1); with the places in reverse order the shuffle from
channels to pixels therefore puts every value where it belongs, inside a frame of one pixel that is cut off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn

__all__ = ["FoldedUnetBlock", "conv_after_upsampling", "fold_upsampling"]

_SMALLEST_FOLDED = 16  # px; below, a block of ResNet-50 and of the narrow encoder is faster with the plain convolution


class FoldedUnetBlock(nn.Module):
    """smp's U-Net block; on CPUs, for features in contiguous layout, its first convolution is folded.

    In channels_last oneDNN gains nothing by it, and on accelerators it has not been measured: there the block does what
    smp's does.
    """

    def __init__(self, block: UnetDecoderBlock) -> None:
        super().__init__()
        self.interpolation_mode = block.interpolation_mode
        self.conv1, self.attention1 = block.conv1, block.attention1
        self.conv2, self.attention2 = block.conv2, block.attention2

    def forward(
        self, feature_map: Tensor, target_height: int, target_width: int, skip_connection: Tensor | None = None
    ) -> Tensor:
        convolution, *norm_and_relu = self.conv1
        if self._folds(feature_map, target_height, target_width):
            values = conv_after_upsampling(feature_map, skip_connection, convolution.weight, convolution.bias)
        else:
            values = F.interpolate(feature_map, size=(target_height, target_width), mode=self.interpolation_mode)
            if skip_connection is not None:
                values = torch.cat([values, skip_connection], dim=1)
            values = convolution(self.attention1(values))
        for layer in norm_and_relu:
            values = layer(values)
        return self.attention2(self.conv2(values))  # type: ignore[no-any-return]

    def _folds(self, values: Tensor, height: int, width: int) -> bool:
        doubles = (height, width) == (2 * values.shape[2], 2 * values.shape[3])
        plain = self.interpolation_mode == "nearest" and isinstance(self.attention1.attention, nn.Identity)
        large = min(values.shape[2:]) >= _SMALLEST_FOLDED
        return doubles and plain and large and values.device.type == "cpu" and values.is_contiguous()


def fold_upsampling(decoder: nn.Module) -> None:
    """Replace the blocks of an smp U-Net decoder by folded ones that hold the same weights."""
    decoder.blocks = nn.ModuleList(FoldedUnetBlock(block) for block in decoder.blocks)  # type: ignore[union-attr]


def conv_after_upsampling(small: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The 3 x 3 convolution, padded with one zero, of [nearest upsampling by 2 of `small`, `skip`] stacked.

    small (B, C, H, W); skip (B, S, 2H, 2W), or None for S = 0; weight (O, C + S, 3, 3). Returns (B, O, 2H, 2W).
    """
    channels = small.shape[1]
    places = F.conv2d(small, _place_kernels(weight[:, :channels]), padding=1)
    values = F.pixel_shuffle(places, 2)[:, :, 1:-1, 1:-1]
    if skip is not None:
        values = values + F.conv2d(skip, weight[:, channels:], padding=1)
    return values.contiguous() if bias is None else values + bias[:, None, None]


def _place_kernels(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (4 O, C, 2, 2): for each output the kernels of the places (1, 1), (1, 0), (0, 1), (0, 0)."""
    first, second, third = weight.unbind(dim=2)
    rows = torch.stack([torch.stack([first + second, third], 2), torch.stack([first, second + third], 2)], dim=1)
    first, second, third = rows.unbind(dim=4)
    both = torch.stack([torch.stack([first + second, third], 4), torch.stack([first, second + third], 4)], dim=2)
    return both.flatten(0, 2)
