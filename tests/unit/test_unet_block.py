"""The U-Net block with folded upsampling gives what smp's own block gives, from the same weights."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

from cromss.models import unet_block
from cromss.models.networks import NetworkSpec, build_network
from cromss.models.unet_block import FoldedUnetBlock, conv_after_upsampling


def blocks(skip: int) -> tuple[UnetDecoderBlock, FoldedUnetBlock]:
    torch.manual_seed(0)
    plain, other = (UnetDecoderBlock(6, skip, 5).double() for _ in range(2))
    other.load_state_dict(plain.state_dict())
    return plain, FoldedUnetBlock(other)


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (4, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_gradients_and_statistics_are_those_of_the_plain_block(
    skip: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    height, width = size
    results = []
    for block in blocks(skip):
        generator = torch.Generator().manual_seed(1)
        small = torch.randn(2, 6, height, width, generator=generator, dtype=torch.float64)
        small = small.contiguous(memory_format=layout).requires_grad_()
        beside = torch.randn(2, 3, 2 * height, 2 * width, generator=generator, dtype=torch.float64).requires_grad_()
        values = block(small, 2 * height, 2 * width, beside if skip else None)
        weight = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        inputs = [small, beside, *block.parameters()] if skip else [small, *block.parameters()]
        gradients = torch.autograd.grad((values * weight).sum(), inputs)
        results.append([values, *gradients, *block.buffers()])
    for plain, folded in zip(*results, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)


def test_a_bias_is_added_once() -> None:
    torch.manual_seed(0)
    small, weight, bias = torch.randn(1, 4, 6, 7), torch.randn(3, 4, 3, 3), torch.randn(3)
    expected = torch.nn.functional.conv2d(
        small.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, bias, padding=1
    )
    torch.testing.assert_close(conv_after_upsampling(small, None, weight, bias), expected, rtol=1e-5, atol=1e-5)


def test_large_contiguous_features_are_folded_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = unet_block.conv_after_upsampling
    monkeypatch.setattr(unet_block, "conv_after_upsampling", lambda *given: calls.append(given) or real(*given))
    block = blocks(0)[1].float()
    block(torch.randn(2, 6, 16, 16), 32, 32)
    assert len(calls) == 1
    block(torch.randn(2, 6, 16, 16).contiguous(memory_format=torch.channels_last), 32, 32)
    block(torch.randn(2, 6, 8, 16), 16, 32)
    block(torch.randn(2, 6, 16, 16), 31, 32)
    assert len(calls) == 1


def test_the_names_of_the_weights_are_those_of_smp() -> None:
    spec = NetworkSpec(inputs={"s2": 3}, branches=("s2",), num_classes=2, encoder="resnet18")
    names = {name for name in build_network(spec).state_dict() if ".decoder.blocks.0." in name}
    plain = {f"branches.s2.decoder.blocks.0.{name}" for name in UnetDecoderBlock(512, 256, 256).state_dict()}
    assert names == plain
