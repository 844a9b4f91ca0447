"""The authors' checkpoints and other published encoders become ours; files that are none are named."""

from __future__ import annotations

import argparse
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from cromss.errors import BandError, CheckpointError, LabelError, ModelError
from cromss.geo.bands import published_normalization
from cromss.models.networks import NetworkSpec, SegmentationNetwork, build_network
from cromss.models.reference_import import import_reference
from cromss.models.restricted_reader import Archive, Stub, TensorRef
from cromss.models.saved import load_network
from cromss.models.weights import load_encoder

NARROW = "tu-cromss_narrow"


def build(fusion: str, branches: tuple[str, ...] = ("s1", "s2")) -> SegmentationNetwork:
    torch.manual_seed(3)
    spec = NetworkSpec(
        inputs={name: {"s1": 2, "s2": 9}[name] for name in branches},
        branches=branches,
        num_classes=9,
        fusion=fusion,
        encoder=NARROW,
        decoder_channels=(16, 16, 16, 16, 8),
    )
    return build_network(spec)


def save(path: Path, key: str | None, state: dict[str, torch.Tensor]) -> Path:
    """A file as the authors' trainer writes it: weights beside settings, optimizer state and callbacks."""
    if key is None:
        torch.save(OrderedDict(state), path)
        return path
    content: dict[str, Any] = {
        "epoch": 199,
        "pytorch-lightning_version": "2.0.8",
        key: OrderedDict(state),
        "hyper_parameters": argparse.Namespace(lr=5e-3, path=Path("/data"), bands=["B2", "B3"]),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"betas": (0.9, 0.999)}]}],
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.5), "dirpath": Path("/x")}},
    }
    torch.save(content, path)
    return path


THEIRS = {
    "middle": {
        "branches.s1.encoder.": "net.encoder1.",
        "branches.s2.encoder.": "net.encoder.",
        "shared.": "net.",
    },
    "late": {"branches.s1.": "net.model1.", "branches.s2.": "net.model2."},
    "single": {"branches.s2.": "net."},
}


def renamed(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    result = {}
    for name, tensor in state.items():
        start = next(start for start in names if name.startswith(start))
        result[names[start] + name.removeprefix(start)] = tensor
    return result


@pytest.mark.parametrize("layout", ["middle", "late", "single"])
def test_a_network_of_the_authors_becomes_a_checkpoint_bit_for_bit(layout: str, tmp_path: Path) -> None:
    network = build("middle" if layout == "middle" else "late", ("s2",) if layout == "single" else ("s1", "s2"))
    path = save(tmp_path / "weights.ckpt", "state_dict", renamed(network.state_dict(), THEIRS[layout]))
    bands = {"s2": "9"} if layout == "single" else {"s1": "2", "s2": "9"}
    report = import_reference(path, tmp_path / "out", bands=bands, encoder=NARROW)
    loaded, card = load_network(tmp_path / "out")
    expected = network.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(loaded.state_dict()[name], expected[name]) for name in expected)
    assert loaded.spec == network.spec
    assert card["inputs"]["s2"] == published_normalization("s2", "9").to_dict()
    assert card["legend"]["name"] == "dynamic_world"
    assert report["tensors"] == len(expected)
    assert report["left_out"] == []


@pytest.mark.parametrize(
    ("key", "start", "sensor"),
    [
        ("state_dict", "module.encoder_q.", "s2"),
        ("teacher", "module.backbone.", "s1"),
        (None, "module.backbone_1.", "s1"),
        (None, "module.backbone_2.", "s2"),
        (None, "backbone.resnet.", "s2"),
    ],
)
def test_an_encoder_of_others_becomes_an_exported_encoder(
    key: str | None, start: str, sensor: str, tmp_path: Path
) -> None:
    network = build("late")
    state = network.encoders[sensor].state_dict()
    theirs = {start + name: tensor for name, tensor in state.items()}
    theirs[f"{start}fc.weight"] = torch.rand(4, 4)
    if "backbone_" in start:
        other, name = ("module.backbone_2.", "s2") if sensor == "s1" else ("module.backbone_1.", "s1")
        theirs |= {other + key: tensor for key, tensor in network.encoders[name].state_dict().items()}
    path = save(tmp_path / "weights.pth", key, theirs)
    bands = {sensor: "2" if sensor == "s1" else "9"}
    report = import_reference(path, tmp_path / "out", bands=bands, encoder=NARROW, normalization="unknown")
    weights = load_encoder(tmp_path / "out", sensor)
    assert all(torch.equal(weights.state_dict[name], state[name]) for name in state)
    assert weights.normalization is None
    assert weights.bands == (("VV", "VH") if sensor == "s1" else published_normalization("s2", "9").bands)
    assert f"{start}fc.weight" in report["left_out"]


def test_tensors_keep_shape_stride_type_and_parameters_their_numbers(tmp_path: Path) -> None:
    original = {
        "transposed": torch.rand(4, 3).t(),
        "slice": torch.arange(20)[5:15:2],
        "scalar": torch.tensor(7, dtype=torch.int32),
        "empty": torch.empty(0, 3),
        "half": torch.rand(5).half(),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.rand(2, 2)),
    }
    torch.save(original, tmp_path / "a.pt")
    with Archive(tmp_path / "a.pt") as archive:
        for name, tensor in original.items():
            ref = archive.content[name]
            assert isinstance(ref, TensorRef)
            got = archive.tensor(ref)
            assert got.dtype == tensor.dtype
            assert torch.equal(got, tensor.detach())


def test_unknown_classes_become_inert_stubs(tmp_path: Path) -> None:
    torch.save({"settings": argparse.Namespace(lr=1), "when": Path("/x"), "n": {1, 2}}, tmp_path / "a.pt")
    with Archive(tmp_path / "a.pt") as archive:
        assert isinstance(archive.content["settings"], Stub)
        assert isinstance(archive.content["when"], Stub)


def test_what_is_asked_for_must_fit_the_file(tmp_path: Path) -> None:
    network = build("late")
    path = save(tmp_path / "late.ckpt", "state_dict", renamed(network.state_dict(), THEIRS["late"]))
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="do not fit"):
        import_reference(path, out, bands={"s1": "2", "s2": "13"}, encoder=NARROW)
    with pytest.raises(ModelError, match="bands of s1 and of s2"):
        import_reference(path, out, bands={"s2": "9"}, encoder=NARROW)
    with pytest.raises(LabelError, match="number of classes"):
        import_reference(path, out, bands={"s1": "2", "s2": "9"}, encoder=NARROW, legend="water")
    with pytest.raises(ModelError, match="scaling"):
        import_reference(path, out, bands={"s1": "2", "s2": "9"}, encoder=NARROW, normalization="unknown")
    with pytest.raises(BandError):
        import_reference(path, out, bands={"s1": "2", "s2": "B77"}, encoder=NARROW)
    assert not out.exists()


def test_a_layout_that_nobody_knows_is_described(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", "state_dict", {"vit.blocks.0.weight": torch.rand(2)})
    with pytest.raises(CheckpointError, match=r"no layout[\s\S]*vit\.blocks[\s\S]*CromSS, middle fusion"):
        import_reference(path, tmp_path / "out", bands={"s2": "9"})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="a list"):
        import_reference(tmp_path / "list.pt", tmp_path / "out", bands={"s2": "9"})


def test_the_old_format_and_files_that_are_none_are_named(tmp_path: Path) -> None:
    old, text, other = tmp_path / "old.pth", tmp_path / "text.ckpt", tmp_path / "other.zip"
    torch.save({"a": torch.rand(2)}, old, _use_new_zipfile_serialization=False)
    text.write_text("hello")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for path, message in ((old, r"before 1\.6"), (text, "no zip"), (other, "not written by torch.save")):
        with pytest.raises(CheckpointError, match=message):
            import_reference(path, tmp_path / "out", bands={"s2": "9"})
    with pytest.raises(CheckpointError, match="cannot be opened"):
        import_reference(tmp_path / "absent.ckpt", tmp_path / "out", bands={"s2": "9"})
