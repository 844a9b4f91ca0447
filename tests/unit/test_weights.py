"""Encoders by name: out of checkpoints, to other bands, and into other libraries that know nothing of this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cromss.errors import BandError, CheckpointError, ModelError
from cromss.geo.bands import published_normalization
from cromss.models.networks import NetworkSpec, build_network
from cromss.models.saved import load_network, save_network
from cromss.models.weights import Layout, adapt_bands, export_encoder, load_encoder, write_encoder

NINE = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")


def checkpoint(folder: Path, encoder: str, fusion: str = "middle", branches: tuple[str, ...] = ("s1", "s2")) -> Path:
    torch.manual_seed(0)
    spec = NetworkSpec(
        inputs={"s1": 2, "s2": 9},
        branches=branches,
        num_classes=9,
        fusion=fusion,
        encoder=encoder,
        decoder_channels=(16, 16, 16, 16, 8),
    )
    inputs = {name: published_normalization(name, bands).to_dict() for name, bands in (("s1", "2"), ("s2", NINE))}
    save_network(folder, network=build_network(spec), card={"inputs": inputs})
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("narrow") / "run", "tu-cromss_narrow")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("resnet") / "run", "resnet18", branches=("s2", "s1"), fusion="late")


def test_an_encoder_comes_with_its_bands_and_scaling(narrow: Path) -> None:
    weights = load_encoder(narrow, "s2")
    assert weights.bands == NINE
    assert weights.normalization == published_normalization("s2", NINE).to_dict()
    assert weights.encoder == "tu-cromss_narrow"
    assert weights.state_dict["model.conv1.0.weight"].shape == (32, 9, 3, 3)
    with pytest.raises(ModelError, match="no such branch"):
        load_encoder(narrow, "fused")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_encoder(narrow.parent, "s2")


@pytest.mark.slow
def test_a_fused_encoder_has_the_bands_of_both_sensors(tmp_path: Path) -> None:
    weights = load_encoder(checkpoint(tmp_path / "a", "tu-cromss_narrow", branches=("s1", "s2", "fused")), "fused")
    assert weights.bands == ("VV", "VH", *NINE)
    assert weights.normalization is None


@pytest.mark.slow
@pytest.mark.parametrize(("run", "layout"), [("narrow", "smp"), ("resnet", "timm")])
def test_an_exported_encoder_returns_bit_for_bit(
    run: str, layout: Layout, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    original = load_encoder(request.getfixturevalue(run), "s2")
    out = write_encoder(original, tmp_path / "encoder", layout=layout)
    back = load_encoder(out, "s2")
    assert list(back.state_dict) == list(original.state_dict)
    assert all(torch.equal(back.state_dict[name], original.state_dict[name]) for name in original.state_dict)
    assert (back.bands, back.normalization) == (original.bands, original.normalization)
    with pytest.raises(CheckpointError, match="exists"):
        write_encoder(original, out)
    with pytest.raises(ModelError, match="another sensor"):
        load_encoder(out, "s1")


def test_a_changed_byte_of_an_exported_encoder_is_found(narrow: Path, tmp_path: Path) -> None:
    out = export_encoder(narrow, "s1", tmp_path / "encoder")
    content = bytearray((out / "encoder.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "encoder.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="changed"):
        load_encoder(out, "s1")


LOAD_BY_CARD = """
import json
import sys
import segmentation_models_pytorch
import timm
from safetensors.torch import load_file

card = json.load(open(sys.argv[1] + "/card.json"))
*needed, call = card["load"].split("; ")
for line in needed:
    exec(line)
eval(call).load_state_dict(load_file(sys.argv[1] + "/encoder.safetensors"), strict=True)
print(any(name.startswith("cromss") for name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "needs_cromss"), [("smp", True), ("timm", False)])
def test_the_card_of_a_narrow_encoder_loads_it_as_written(
    narrow: Path, tmp_path: Path, layout: Layout, needs_cromss: bool
) -> None:
    """`cromss_narrow` is no name that smp or timm know; timm has its class all the same."""
    out = export_encoder(narrow, "s2", tmp_path / "encoder", layout=layout)
    command = [sys.executable, "-c", LOAD_BY_CARD, str(out)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(needs_cromss)


FOREIGN = """
import sys
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import load_file

in_smp = smp.encoders.get_encoder("resnet18", in_channels=9, weights=None)
in_smp.load_state_dict(load_file(sys.argv[1] + "/smp/encoder.safetensors"), strict=True)

in_timm = timm.create_model("resnet18", in_chans=9, num_classes=0)
in_timm.load_state_dict(load_file(sys.argv[1] + "/timm/encoder.safetensors"), strict=True)

in_torchvision = torchvision.models.resnet18()
in_torchvision.conv1 = torch.nn.Conv2d(9, 64, 7, 2, 3, bias=False)
state = load_file(sys.argv[1] + "/torchvision/encoder.safetensors")
report = in_torchvision.load_state_dict(state, strict=False)
assert report.missing_keys == ["fc.weight", "fc.bias"] and not report.unexpected_keys
in_torchvision.avgpool = in_torchvision.fc = torch.nn.Identity()

assert not any(name.startswith("cromss") for name in sys.modules)
image = torch.linspace(0, 1, 9 * 64 * 64).view(1, 9, 64, 64)
with torch.inference_mode():
    print(float(in_smp.eval()(image)[-1].double().sum()))
    print(float(in_timm.eval().forward_features(image).double().sum()))
    print(float(in_torchvision.eval()(image).double().sum()))
"""


@pytest.mark.slow
def test_other_libraries_load_an_exported_encoder_and_compute_the_same(resnet: Path, tmp_path: Path) -> None:
    for layout in ("smp", "timm", "torchvision"):
        out = export_encoder(resnet, "s2", tmp_path / layout, layout=layout)
        assert "resnet18" in json.loads((out / "card.json").read_text())["load"]
    command = [sys.executable, "-W", "error", "-c", FOREIGN, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    network, _ = load_network(resnet)
    image = torch.linspace(0, 1, 9 * 64 * 64).view(1, 9, 64, 64)
    with torch.inference_mode():
        expected = float(network.encoders["s2"](image)[-1].double().sum())
    assert [float(line) for line in printed.split()] == pytest.approx([expected] * 3, rel=1e-6)


def test_timm_loads_its_own_narrow_encoder(narrow: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import load_file

    out = export_encoder(narrow, "s2", tmp_path / "encoder", layout="timm")
    timm.create_model("cromss_narrow", in_chans=9, num_classes=0).load_state_dict(
        load_file(out / "encoder.safetensors")
    )
    with pytest.raises(ModelError, match="layout"):
        load_encoder(out, "s2")
    with pytest.raises(ModelError, match="torchvision"):
        export_encoder(narrow, "s2", tmp_path / "other", layout="torchvision")


def test_an_encoder_with_untrained_stages_is_not_handed_on(tmp_path: Path) -> None:
    spec = NetworkSpec(
        inputs={"s2": 9},
        branches=("s2",),
        num_classes=2,
        encoder="tu-cromss_narrow",
        decoder="pspnet",
        decoder_channels=(8,),
    )
    save_network(tmp_path / "a", network=build_network(spec), card={})
    with pytest.raises(ModelError, match="never trained"):
        load_encoder(tmp_path / "a", "s2")


# ---- bands


STATE = {"conv1.weight": torch.arange(2.0 * 3 * 3 * 3).view(2, 3, 3, 3), "bn1.weight": torch.ones(2)}
RGB = ("B4", "B3", "B2")


def test_bands_are_matched_by_name_and_not_by_place() -> None:
    adapted = adapt_bands(STATE, RGB, ("B2", "B4", "B3"))
    assert torch.equal(adapted["conv1.weight"], STATE["conv1.weight"][:, [2, 0, 1]])
    assert adapted["bn1.weight"] is STATE["bn1.weight"]


def test_missing_and_extra_bands_are_refused_unless_asked_for() -> None:
    with pytest.raises(BandError, match=r"missing[\s\S]*B3"):
        adapt_bands(STATE, RGB, ("B4", "B2"))
    with pytest.raises(BandError, match=r"does not know[\s\S]*B8"):
        adapt_bands(STATE, RGB, (*RGB, "B8"))


def test_going_without_a_band_equals_an_input_of_zero_there() -> None:
    image = torch.rand(1, 3, 8, 8)
    image[:, 1] = 0
    adapted = adapt_bands(STATE, RGB, ("B4", "B2"), missing="zero")["conv1.weight"]
    expected = torch.nn.functional.conv2d(image, STATE["conv1.weight"])
    torch.testing.assert_close(torch.nn.functional.conv2d(image[:, [0, 2]], adapted), expected)


def test_a_new_band_gets_the_mean_and_rescaling_keeps_the_sum_over_bands() -> None:
    weight = STATE["conv1.weight"]
    plain = adapt_bands(STATE, RGB, (*RGB, "B8"), extra="mean")["conv1.weight"]
    assert torch.equal(plain[:, :3], weight)
    assert torch.equal(plain[:, 3], weight.mean(1))
    scaled = adapt_bands(STATE, RGB, (*RGB, "B8"), extra="mean", rescale=True)["conv1.weight"]
    torch.testing.assert_close(scaled.sum(1), weight.sum(1))


def test_bands_that_share_nothing_or_repeat_are_refused() -> None:
    with pytest.raises(BandError, match="no band is shared"):
        adapt_bands(STATE, RGB, ("VV", "VH"), missing="zero", extra="mean")
    with pytest.raises(BandError, match="twice"):
        adapt_bands(STATE, RGB, (*RGB, "B2"))
    with pytest.raises(ModelError, match="inputs"):
        adapt_bands(STATE, ("B4", "B3"), ("B3", "B4"))


def test_imagenet_says_so_when_it_cannot_be_fetched_or_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants
    from segmentation_models_pytorch import encoders

    def refuse(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(encoders, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match="could not be fetched"):
        load_encoder("imagenet:resnet18", "s2")
    with pytest.raises(ModelError, match="no ImageNet weights"):
        load_encoder("imagenet:resnet999", "s2")
    with pytest.raises(ModelError, match="red, green and blue"):
        load_encoder("imagenet", "s1")
