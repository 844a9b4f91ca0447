"""A bad pixel, loss or gradient never reaches the weights."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from cromss.errors import NonFiniteError
from cromss.training.guard import StepGuard, check_batch
from cromss.training.optimization import build_optimizer


def _setup(name="adam", lag=None):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    optimizer = build_optimizer(name, network.parameters(), lr=0.1, weight_decay=0.0)
    network, optimizer = fabric.setup(network, optimizer)
    return fabric, network, optimizer, StepGuard(fabric, network, optimizer, lag=lag)


def _weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def _step(fabric, network, optimizer, guard, step, spoil=None):
    optimizer.zero_grad()
    loss = network(torch.randn(2, 2, 8, 8)).square().mean()
    if spoil == "loss":
        loss = loss * float("nan")
    fabric.backward(loss)
    if spoil == "gradient":
        next(network.parameters()).grad[0, 0, 0, 0] = float("inf")
    guard.step(loss, step, [f"sample-{step}"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_a_batch_with_a_bad_pixel_is_refused_naming_its_sample(value, sensor):
    batch = {"s1": torch.zeros(3, 2, 8, 8), "s2": torch.zeros(3, 4, 8, 8), "id": ["a", "b", "c"]}
    batch[sensor][1, 0, 3, 3] = value
    with pytest.raises(NonFiniteError) as caught:
        check_batch(batch, 7)
    assert "1 values in b" in str(caught.value)
    assert "step 7" in str(caught.value)


def test_a_finite_batch_passes_even_where_its_sum_overflows():
    check_batch({"s1": torch.full((2, 2, 8, 8), 3e38), "id": ["a", "b"]}, 0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_bad_step_leaves_the_weights_bit_identical_and_names_its_samples(optimizer, spoil):
    parts = _setup(optimizer)
    _step(*parts, 0)
    before = _weights(parts[1])
    with pytest.raises(NonFiniteError, match=r"sample-1"):
        _step(*parts, 1, spoil)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(parts[1]), strict=True))


def test_read_one_step_late_the_flag_has_cancelled_the_later_step_too():
    """On an accelerator the host learns of a bad step only after it has launched the next."""
    parts = _setup(lag=1)
    _step(*parts, 0)
    before = _weights(parts[1])
    _step(*parts, 1, "gradient")
    with pytest.raises(NonFiniteError, match=r"sample-1"):
        _step(*parts, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(parts[1]), strict=True))


def test_finish_reads_flags_still_on_their_way():
    parts = _setup(lag=1)
    _step(*parts, 0, "loss")
    with pytest.raises(NonFiniteError, match=r"sample-0"):
        parts[3].finish()


def test_a_good_step_equals_a_plain_one():
    guarded, plain = _setup(), _setup()
    torch.manual_seed(5)
    _step(*guarded, 0)
    torch.manual_seed(5)
    fabric, network, optimizer, _ = plain
    fabric.backward(network(torch.randn(2, 2, 8, 8)).square().mean())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(_weights(guarded[1]), _weights(network), strict=True))
