"""The house keeps its shape: imports point one way, and public names are declared."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import cromss

SOURCE = Path(cromss.__file__).parent
ROOMS = [
    "errors",
    "files",
    "memory",
    "compiled",
    "pickles",
    "config",
    "workers",
    "geo",
    "method",
    "data",
    "models",
    "training",
    "maps",
    "commands",
    "cli",
]
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in {"__main__.py"})


def _room(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_its_own_room_and_those_before_it(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    reached = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cromss"):
            reached.add(_room(node.module))
            if node.module == "cromss":
                reached |= {alias.name for alias in node.names if alias.name in ROOMS}
        elif isinstance(node, ast.Import):
            reached |= {_room(alias.name) for alias in node.names if alias.name.startswith("cromss")}
    later = {room for room in reached if room in ROOMS and ROOMS.index(room) > ROOMS.index(own)}
    assert not later, f"{path.name} imports from {later}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_never_unpickles_or_evaluates_text(path):
    tree = ast.parse(path.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "__import__", "torch.load", "load", "np.load", "numpy.load"}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def test_every_public_name_exists():
    for info in pkgutil.walk_packages(cromss.__path__, "cromss."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]
        assert not missing, f"{info.name} declares {missing}"


def test_the_functional_core_has_the_published_names():
    method = importlib.import_module("cromss.method")
    core = {
        "label_confidence", "prediction_confidence", "entangle", "ramp", "selection_ratio", "label_weights",
        "prediction_weights", "label_prior", "smooth_labels", "soft_cross_entropy", "soft_dice_loss", "focal_loss",
        "consistency_loss", "cromss_loss",
    }  # fmt: skip
    assert core <= set(method.__all__)


def test_help_needs_no_torch():
    """`cromss --help` and a misspelt setting answer at once, without loading torch."""
    import subprocess
    import sys

    code = "import sys, cromss.cli; cromss.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
