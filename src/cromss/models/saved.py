"""A network in a folder: weights, a card that says what they are, and a manifest that proves both unchanged.

    <name>/weights.safetensors     the network's weights
           card.json               network, bands and normalization, legend, recipe, data, scores, epoch, step, versions
           training.safetensors    tensors of the optimizer and the random generators   (only where the run
           training.json           the rest of the training state                        can be resumed)
           manifest.json           size and SHA-256 of each of the others, written last

Reading checks size and SHA-256 of every file first, and never runs code: the files hold numbers and text only. A run
keeps `checkpoints/step-<8 digits>` and, at its end, `final`; wherever a checkpoint is asked for, the folder of the run
is understood too. The training files are the business of cromss.training.checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from cromss.errors import CheckpointError, ModelError
from cromss.files import commit_folder, remove_folder, sha256
from cromss.models.networks import NetworkSpec, SegmentationNetwork, build_network
from cromss.workers import Each, here

__all__ = [
    "CARD",
    "FORMAT",
    "MANIFEST",
    "TRAINING_TENSORS",
    "TRAINING_TREE",
    "WEIGHTS",
    "find_checkpoint",
    "is_sound",
    "latest_valid",
    "load_card",
    "load_network",
    "load_weights",
    "read_json_table",
    "read_tensors",
    "require_finite",
    "save_network",
    "steps_of",
    "verify_checkpoint",
    "write_json_bytes",
]

FORMAT = "cromss-checkpoint/1"
WEIGHTS, CARD, MANIFEST = "weights.safetensors", "card.json", "manifest.json"
TRAINING_TENSORS, TRAINING_TREE = "training.safetensors", "training.json"
_INSTEAD = "fetch it again, or name another checkpoint of the run (checkpoints/step-...)"
MAX_HEADER = 2**24  # bytes, of a JSON file or a safetensors header: a real one has below a million

log = logging.getLogger(__name__)


def save_network(
    folder: str | Path,
    *,
    network: SegmentationNetwork,
    card: Mapping[str, Any],
    replace: bool = False,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint folder, durably and whole; `format`, `network` and `versions` of the card are filled in here.

    A damaged folder of that name is replaced; a sound one only if `replace`. `more` may write the two training files
    into the folder that it is given. Raises CheckpointError if the folder exists, a weight is not finite, the card is
    not JSON, or writing fails; nothing half written is left then, and sound checkpoints stay.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    require_finite(weights, folder)
    content = {"format": FORMAT, "network": network.spec.to_dict(), **card, "versions": _versions()}
    if (content["format"], content["network"]) != (FORMAT, network.spec.to_dict()):
        raise CheckpointError("the card speaks of another network or format", got=content["network"], where=folder)
    try:
        _make_room(folder, replace)
        with commit_folder(folder) as temporary:
            save_file(weights, temporary / WEIGHTS)
            write_json_bytes(temporary / CARD, content)
            if more is not None:
                more(temporary)
            paths = sorted(temporary.iterdir())
            files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
            write_json_bytes(temporary / MANIFEST, {"format": FORMAT, "files": files})
    except (OSError, safetensors.SafetensorError) as error:
        what = "the checkpoint could not be written; it is NOT saved"
        raise CheckpointError(what, got=error, where=folder, do="check free space and permissions") from error


def write_json_bytes(path: Path, content: Any) -> None:
    """Write JSON into a folder that is being committed. Raises CheckpointError for what is no JSON."""
    # commit_folder makes the whole folder durable before it gets its name, so a plain write is enough here
    try:
        path.write_bytes(_json(content))
    except (TypeError, ValueError) as error:
        raise CheckpointError("this is no JSON: plain finite values only", got=error, where=path.name) from None


def _make_room(folder: Path, replace: bool) -> None:
    if not folder.exists():
        return
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        log.warning("a damaged checkpoint is replaced: %s", error)
    else:
        if not replace:
            raise CheckpointError("a checkpoint of this name exists", where=folder, do="choose another folder")
    remove_folder(folder)


def _versions() -> dict[str, str]:
    packages = ("cromss", "torch", "segmentation-models-pytorch", "timm")
    return {name: importlib.metadata.version(name) for name in packages}


def verify_checkpoint(folder: str | Path, each: Each = here) -> dict[str, int]:
    """Check size and SHA-256 of every file of a checkpoint folder; return {file name: bytes}. each: who reads them.

    Raises CheckpointError naming the first file that is missing, of another length, or changed.
    """
    folder = Path(folder)
    files = _read_manifest(folder)
    for _ in each(_verify_file, folder, list(files.items())):
        pass  # the first that is wrong raises
    return {name: entry["bytes"] for name, entry in files.items()}


def _verify_file(folder: Path, file: tuple[str, Mapping[str, Any]]) -> None:
    name, entry = file
    path = folder / name
    try:
        size = path.stat().st_size if path.is_file() else None
        digest = sha256(path) if size == entry["bytes"] else None
    except OSError as error:
        raise CheckpointError("a file of the checkpoint cannot be read", got=error, where=path) from None
    if size != entry["bytes"]:
        got = "no such file" if size is None else f"{size} bytes"
        size_text = f"{entry['bytes']} bytes"
        raise CheckpointError(
            "a file of the checkpoint is damaged", got=got, expected=size_text, where=path, do=_INSTEAD
        )
    if digest != entry["sha256"]:
        what = "a file of the checkpoint has changed since it was written"
        raise CheckpointError(what, got=f"SHA-256 {digest}", expected=entry["sha256"], where=path, do=_INSTEAD)


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            "this is no checkpoint", got=f"no {MANIFEST}", where=folder, do="name a checkpoint folder"
        )
    manifest = read_json_table(path)
    # a changed byte of the manifest either breaks the JSON, the canonical form below, or a name, size or hash
    if path.read_bytes() != _json(manifest):
        raise CheckpointError("the manifest has changed since it was written", where=path)
    files = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(files, dict) or set(manifest) != {"format", "files"}:
        raise CheckpointError("unknown checkpoint format", got=manifest.get("format"), expected=FORMAT, where=path)
    complete = ({WEIGHTS, CARD}, {WEIGHTS, CARD, TRAINING_TENSORS, TRAINING_TREE})
    if set(files) not in complete:  # also keeps a path like ../../x from ever being opened
        raise CheckpointError("the manifest lists other files", got=sorted(files), expected=complete[1], where=path)
    if not all(isinstance(entry, dict) and set(entry) == {"bytes", "sha256"} for entry in files.values()):
        raise CheckpointError("the manifest is damaged", got=files, where=path)
    return files


def read_json_table(path: Path) -> dict[str, Any]:
    """Read a JSON object of a sane size. Raises CheckpointError."""
    try:
        if path.stat().st_size > MAX_HEADER:
            raise CheckpointError("too large for what it should hold", got=path.stat().st_size, where=path)
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("a JSON file of the checkpoint cannot be read", got=error, where=path) from None
    if not isinstance(content, dict):
        raise CheckpointError("a JSON file of the checkpoint holds no table", got=type(content).__name__, where=path)
    return content


def read_tensors(path: str | Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file; with `expected`, names, shapes and types must be those, checked before data are read.

    Raises CheckpointError for a damaged file, listing what is missing, unexpected or of another shape or type.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            raise CheckpointError("the header of a safetensors file is too long", got=f"{header} bytes", where=path)
        with safetensors.safe_open(path, framework="pt") as file:
            if expected is not None:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                _require_same(shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()}, path)
            # cloned: the library's tensors are a window on the file, which may change
            tensors = {name: file.get_tensor(name).clone() for name in expected or file.keys()}
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError("a safetensors file cannot be read", got=error, where=path) from None
    if expected is not None:
        types = {name: str(tensor.dtype) for name, tensor in tensors.items()}
        _require_same(types, {name: str(tensor.dtype) for name, tensor in expected.items()}, path)
    return tensors


def _require_same(got: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    if got == expected:
        return
    missing, unexpected = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    differing = [
        f"{name}: {got[name]}, not {expected[name]}" for name in got if got[name] != expected.get(name, got[name])
    ]
    rows = [("missing", missing), ("unexpected", unexpected), ("other shape or type", differing)]
    raise CheckpointError(
        "the weights do not belong to this network",
        got="; ".join(f"{title}: {_shorten(names)}" for title, names in rows if names),
        expected=f"{len(expected)} tensors",
        where=where,
    )


def require_finite(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinity."""
    bad = [name for name, values in tensors.items() if values.is_floating_point() and not values.isfinite().all()]
    if bad:
        raise CheckpointError("weights are not finite", got=_shorten(bad), expected="finite numbers", where=where)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _json(content: Any) -> bytes:
    """The one form in which JSON is written into a checkpoint. Raises TypeError or ValueError for what is no JSON."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def load_card(checkpoint: str | Path) -> dict[str, Any]:
    """The card of a checkpoint or run folder; only the card's own bytes are verified. Raises CheckpointError."""
    folder = find_checkpoint(checkpoint)
    _verify_file(folder, (CARD, _read_manifest(folder)[CARD]))
    card = read_json_table(folder / CARD)
    if card.get("format") != FORMAT or not isinstance(card.get("network"), dict):
        raise CheckpointError(
            "the card has no network or an unknown format", got=card.get("format"), where=folder / CARD
        )
    return card


def load_network(checkpoint: str | Path) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Build the network of a checkpoint or run folder with its weights, in evaluation mode; return it and the card.

    torch's random generator is left as it was. Raises CheckpointError.
    """
    folder = find_checkpoint(checkpoint)
    verify_checkpoint(folder)
    card = load_card(folder)
    try:
        spec = NetworkSpec.from_dict(card["network"])
        with torch.device("meta"):  # first without memory: a card must not make us build what the weights do not hold
            skeleton = build_network(spec)
        weights = read_tensors(folder / WEIGHTS, skeleton.state_dict())
        with torch.random.fork_rng(devices=[]):
            network = build_network(spec)
    except ModelError as error:
        raise CheckpointError("the card's network cannot be built", got=error, where=folder / CARD) from error
    require_finite(weights, folder)
    network.load_state_dict(weights)
    return network.eval(), card


def load_weights(checkpoint: str | Path, network: SegmentationNetwork) -> None:
    """Put a checkpoint's weights into a network of the same spec. Raises CheckpointError, and leaves it then."""
    folder = find_checkpoint(checkpoint)
    verify_checkpoint(folder)
    weights = read_tensors(folder / WEIGHTS, network.state_dict())
    require_finite(weights, folder)
    network.load_state_dict(weights)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint meant by `path`: itself, else `final` or `network` of a run folder, else its newest sound step.

    Raises CheckpointError if there is none.
    """
    path = Path(path)
    for folder in (path, path / "final", path / "network"):
        if (folder / MANIFEST).is_file():
            return folder
    if newest := latest_valid(path):
        return newest
    got = (
        "no such folder"
        if not path.exists()
        else f"neither {MANIFEST}, final, network nor a sound checkpoints/step-..."
    )
    inner = sorted(path.glob(f"runs/*/network/{MANIFEST}"))
    do = f"name one of its runs, e.g. {inner[0].parent.parent}" if inner else "name a checkpoint or a run folder"
    raise CheckpointError("there is no checkpoint here", got=got, where=path, do=do)


def latest_valid(run_folder: str | Path) -> Path | None:
    """The newest step checkpoint of a run that verifies, or None; damaged ones are named in the log and passed over."""
    return next((folder for folder in steps_of(run_folder) if is_sound(folder)), None)


def steps_of(run_folder: str | Path) -> list[Path]:
    """The step checkpoints of a run, sound or not, newest first."""
    run_folder = Path(run_folder)
    inner = run_folder / "checkpoints"
    folders = (inner if inner.is_dir() else run_folder).glob("step-*")
    return sorted(
        (f for f in folders if re.fullmatch(r"step-\d+", f.name)), key=lambda f: int(f.name[5:]), reverse=True
    )


def is_sound(folder: Path) -> bool:
    """Whether a checkpoint folder verifies; why not goes to the log."""
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        log.warning("a damaged checkpoint is passed over: %s", error)
        return False
    return True
