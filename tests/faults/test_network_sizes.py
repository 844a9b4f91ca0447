"""Tiny and odd tiles, batches of one: every decoder answers with logits or a ModelError that says what would fit."""

from __future__ import annotations

import pytest
import torch

from cromss.errors import ModelError
from cromss.models.networks import DECODERS, NetworkSpec, build_network, forward_any_size

SIZES = (16, 17, 24, 31, 32, 33, 48, 63, 64, 96, 100, 128, 130, 256, 264, 265)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_no_size_and_no_batch_ends_in_an_error_of_torch(decoder: str, batch: int) -> None:
    channels = {"unet": (32, 24, 16, 16, 8), "fpn": (32, 64)}.get(decoder, (32,))
    torch.manual_seed(0)
    network = build_network(
        NetworkSpec(
            inputs={"s2": 3},
            branches=("s2",),
            num_classes=4,
            encoder="tu-cromss_narrow",
            decoder=decoder,
            decoder_channels=channels,
        )
    )
    multiple = network.size_multiple
    trained, refusals = 0, []
    with torch.no_grad():
        for size in SIZES:
            images = {"s2": torch.rand(batch, 3, size, size)}
            shape = (batch, 4, size, size)
            network.train()
            try:
                assert network(images)["s2"].shape == shape
                trained += 1
            except ModelError as error:
                refusals.append((size, str(error)))
            network.eval()
            logits = forward_any_size(network, images)["s2"]
            assert logits.shape == shape
            assert torch.isfinite(logits).all()
    for size, message in refusals:
        if size % multiple:
            assert f"{multiple} the smallest" in message
        else:
            assert batch == 1
            assert "two images a batch" in message
    assert trained == sum(size % multiple == 0 for size in SIZES) - sum(size % multiple == 0 for size, _ in refusals)
    assert trained >= (4 if batch == 2 or decoder in ("unet", "fpn", "pspnet") else 0)
