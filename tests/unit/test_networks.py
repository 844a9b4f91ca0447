"""Networks: late and middle fusion, two and three branches, sizes, names of the weights, reproducible weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import segmentation_models_pytorch as smp
import torch

from cromss.errors import ModelError
from cromss.models.networks import DECODERS, NetworkSpec, build_network, forward_any_size

NARROW = "tu-cromss_narrow"
SMALL = (16, 16, 16, 16, 8)


def spec(**changes: object) -> NetworkSpec:
    settings = {
        "inputs": {"s1": 2, "s2": 13},
        "branches": ("s1", "s2"),
        "num_classes": 9,
        "encoder": NARROW,
        "decoder_channels": SMALL,
    }
    return NetworkSpec(**{**settings, **changes})


def channels_of(decoder: str) -> tuple[int, ...]:
    return {"unet": SMALL, "fpn": (32, 64)}.get(decoder, (32,))


def images(size: int = 64, batch: int = 2, bands: int = 13) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "s1": torch.rand(batch, 2, size, size, generator=generator),
        "s2": torch.rand(batch, bands, size, size, generator=generator),
    }


@pytest.mark.parametrize("fusion", ["late", "middle"])
@pytest.mark.parametrize("branches", [("s1", "s2"), ("s1", "s2", "fused"), ("fused",)])
def test_each_branch_gives_logits_of_the_image_size(fusion: str, branches: tuple[str, ...]) -> None:
    network = build_network(spec(fusion=fusion, branches=branches))
    logits = network(images())
    assert list(logits) == list(branches)
    assert {tuple(values.shape) for values in logits.values()} == {(2, 9, 64, 64)}


def test_a_late_branch_is_the_plain_smp_network_weight_for_weight() -> None:
    torch.manual_seed(1)
    network = build_network(spec()).eval()
    plain = smp.Unet(NARROW, encoder_weights=None, in_channels=13, classes=9, decoder_channels=SMALL).eval()
    state = network.state_dict()
    prefix = "branches.s2."
    plain.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    torch.testing.assert_close(network(images())["s2"], plain(images()["s2"]), rtol=1e-5, atol=1e-5)


def test_middle_fusion_shares_one_decoder_and_head_and_no_encoder() -> None:
    network = build_network(spec(fusion="middle"))
    assert network.decoders["s1"] is network.decoders["s2"]
    assert network.heads["s1"] is network.heads["s2"]
    assert network.encoders["s1"] is not network.encoders["s2"]
    starts = {".".join(key.split(".")[:3]) for key in network.state_dict() if key.startswith("branches")}
    assert starts == {"branches.s1.encoder", "branches.s2.encoder"}
    assert {key.split(".")[1] for key in network.state_dict() if key.startswith("shared")} == {
        "decoder",
        "segmentation_head",
    }


@pytest.mark.parametrize("fusion", ["late", "middle"])
def test_one_sensor_alone_gives_its_branch_bit_for_bit(fusion: str) -> None:
    network = build_network(spec(fusion=fusion)).eval()
    both = network(images())["s2"]
    assert torch.equal(network.branch_logits("s2", {"s2": images()["s2"]}), both)


def test_the_fused_branch_stacks_the_sensors_in_the_order_of_the_inputs() -> None:
    network = build_network(spec(branches=("fused",))).eval()
    stacked = torch.cat([images()["s1"], images()["s2"]], dim=1)
    features = network.encoders["fused"](stacked)
    expected = network.heads["fused"](network.decoders["fused"](features))
    assert torch.equal(network(images())["fused"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", [NARROW, "resnet18"])
def test_every_trainable_parameter_takes_part_in_the_forward_pass(decoder: str, encoder: str) -> None:
    network = build_network(spec(decoder=decoder, encoder=encoder, decoder_channels=channels_of(decoder)))
    torch.stack([values.sum() for values in network(images(64)).values()]).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [NARROW, "resnet18", "tu-convnext_atto"])
def test_weights_are_the_same_for_the_same_seed(encoder: str) -> None:
    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        return build_network(spec(encoder=encoder)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(8)
    other = build_network(spec(encoder=encoder)).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_channels_last_changes_no_logit_beyond_rounding() -> None:
    torch.manual_seed(0)
    network = build_network(spec()).eval()
    plain = network(images())["s2"]
    network = network.to(memory_format=torch.channels_last)
    last = network({name: image.to(memory_format=torch.channels_last) for name, image in images().items()})["s2"]
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=1e-5)


def test_a_spec_returns_from_its_dictionary() -> None:
    original = spec(fusion="middle", branches=("s1", "s2", "fused"))
    assert NetworkSpec.from_dict(original.to_dict()) == original


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "early"},
        {"decoder": "segnet"},
        {"encoder": "hf-hub:someone/something"},
        {"encoder": "local-dir:/tmp"},
        {"branches": ("s1", "s3")},
        {"branches": ("s2", "s2")},
        {"branches": ("s2",)},
        {"branches": ()},
        {"inputs": {}},
        {"inputs": {"s1": 2, "s2": 0}},
        {"inputs": {"s1": 2, "s2": 10**9}},
        {"num_classes": 2.5},
        {"encoder_depth": 6},
        {"decoder_channels": (64, 32)},
        {"decoder": "fpn", "decoder_channels": (64, 32)},
        {"encoder_depth": 4, "decoder_channels": None},
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        spec(**changes)


def test_fields_of_a_spec_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ModelError, match="fields"):
        NetworkSpec.from_dict({**spec().to_dict(), "colour": "red"})
    with pytest.raises(ModelError, match="fields"):
        NetworkSpec.from_dict({"inputs": {"s2": 13}})


def test_an_unknown_encoder_is_answered_with_near_names() -> None:
    with pytest.raises(ModelError, match="resnet50"):
        build_network(spec(encoder="resnt50"))


@pytest.mark.slow
def test_an_encoder_of_fixed_size_is_refused_when_the_network_is_built() -> None:
    with pytest.raises(ModelError, match="swin"):
        build_network(spec(encoder="tu-swin_tiny_patch4_window7_224"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1": None}, "missing"),
        ({"s2": torch.rand(2, 12, 64, 64)}, r"\(B, 13, H, W\)"),
        ({"s2": torch.zeros(2, 13, 64, 64, dtype=torch.uint8)}, "floating point"),
        ({"s2": torch.rand(13, 64, 64)}, r"\(B, 13, H, W\)"),
        ({"s2": torch.rand(2, 13, 50, 64)}, "multiples of 32 px, 32 the smallest; nearest 32, 64"),
        ({"s2": torch.rand(2, 13, 0, 64)}, "multiples of 32"),
    ],
)
def test_images_that_do_not_fit_are_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    given = {name: image for name, image in {**images(), **change}.items() if image is not None}
    with pytest.raises(ModelError, match=message):
        build_network(spec())(given)


def test_sensors_of_different_size_cannot_be_stacked() -> None:
    network = build_network(spec(branches=("fused",)))
    for other in (torch.rand(2, 2, 32, 64), torch.rand(2, 2, 64, 32), torch.rand(1, 2, 64, 64)):
        with pytest.raises(ModelError, match="differ in size"):
            network({"s1": other, "s2": images(64)["s2"]})


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_network_built_where_gradients_are_off_can_be_trained(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    with context():
        network = build_network(spec(num_classes=7))
    network(images(32))["s2"].sum().backward()
    assert all(p.grad is not None for p in network.encoders["s2"].parameters())


def test_an_unknown_branch_is_refused() -> None:
    with pytest.raises(ModelError, match="no such branch"):
        build_network(spec()).branch_logits("fused", images())


def test_any_size_equals_the_plain_forward_pass_where_the_size_fits() -> None:
    network = build_network(spec()).eval()
    assert torch.equal(forward_any_size(network, images(96))["s1"], network(images(96))["s1"])


def test_any_size_is_for_evaluation_only() -> None:
    network = build_network(spec())
    with pytest.raises(ModelError, match="evaluation"):
        forward_any_size(network, images())
    with pytest.raises(ModelError, match="one size"):
        forward_any_size(network.eval(), {})


def test_a_batch_of_one_trains_where_the_encoder_is_frozen_and_nothing_is_averaged_globally() -> None:
    network = build_network(spec(decoder="fpn", decoder_channels=(32, 64)))
    with pytest.raises(ModelError, match="single value"):
        network(images(32, batch=1))
    for encoder in network.encoders.values():
        encoder.eval()
    assert network(images(32, batch=1))["s1"].shape == (1, 9, 32, 32)
