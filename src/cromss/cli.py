"""The command line: `cromss COMMAND --config FILE.yaml --setting value`.

In: settings from defaults, then a YAML file, then CROMSS_COMMAND__SETTING variables, then flags; each later one wins.
Out: the exit code. 0 done, 2 refused (one error on stderr, no traceback), 130 interrupted, 143 stopped after saving.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from cromss import __version__, config
from cromss.errors import ConfigError, CromssError, MissingDataError

__all__ = ["COMMANDS", "main", "read_config"]

# command -> (its settings, where its function lives, the setting that may stand without its flag)
COMMANDS: dict[str, tuple[type, str, str | None]] = {
    "download": (config.DownloadConfig, "cromss.data.download.command:download", "name"),
    "synthesize": (config.SynthesizeConfig, "cromss.data.synthetic:synthesize_store", None),
    "labels": (config.LabelsConfig, "cromss.data.labelling.run:label", "source"),
    "prepare": (config.PrepareConfig, "cromss.maps.prepare_report:prepare", None),
    "verify": (config.VerifyConfig, "cromss.commands:verify", "path"),
    "pretrain": (config.PretrainConfig, "cromss.commands:pretrain", None),
    "transfer": (config.TransferConfig, "cromss.training.transfer:transfer", None),
    "evaluate": (config.EvaluateConfig, "cromss.training.evaluate:evaluate", None),
    "benchmark": (config.BenchmarkConfig, "cromss.commands:benchmark", "recipe"),
    "predict": (config.PredictConfig, "cromss.maps.predict:predict", None),
    "export": (config.ExportConfig, "cromss.commands:export", None),
    "import": (config.ImportConfig, "cromss.commands:import_", "file"),
    "demo": (config.DemoConfig, "cromss.commands:demo", None),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_overview())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"cromss {__version__}\n")
        return 0
    try:
        command, settings = arguments[0], read_config(arguments)
        run = _function(COMMANDS[command][1])
        run(settings)
    except CromssError as error:
        sys.stderr.write(f"cromss: {type(error).__name__}: {error}\n")
        return 2
    except OSError as error:  # a folder that cannot be written, a full disk
        do = "check that path: whether it is there, its permissions, and free space; or choose another"
        sys.stderr.write(f"cromss: the system refused: {error}\n  do: {do}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("cromss: interrupted\n")
        return 130
    return 0


def read_config(arguments: Sequence[str]) -> Any:
    """Parse `COMMAND ...` into that command's settings.

    Raises ConfigError for an unknown command, setting or variable (naming the nearest), and for a value of the wrong
    type.
    """
    command, *rest = arguments
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"unknown command {command!r}", expected=f"one of {', '.join(COMMANDS)}", do=f"did you mean {near!r}?"
        )
    kind, _, bare = COMMANDS[command]
    if bare and rest and not rest[0].startswith("-"):
        rest = [f"--{bare}", *rest]
    rest = _with_true([_with_underscores(item) for item in rest], kind)
    parser = _parser(command, kind)
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    _refuse_unknown_flags(command, rest, known)
    files = _config_files(rest)
    for path in files:
        _refuse_unknown_keys(kind, path)
    # the parser lets whatever stands later win, and a file over the environment
    rest = [*(f"--config={path}" for path in files), *_from_environment(command, known), *_without_files(rest)]
    try:
        values = parser.parse_args(rest).as_dict()
    except argparse.ArgumentError as error:
        got = _first_line(error)
        quotes = 'write it in quotes in a file, such as "9"; ' if "Expected a <class 'str'>" in got else ""
        raise ConfigError(
            f"cromss {command} cannot use a setting", got=got, do=f"{quotes}see cromss {command} --help"
        ) from None
    values.pop("config", None)
    return config.from_mapping(kind, values)


def _parser(command: str, kind: type) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"cromss {command}",
        description=(kind.__doc__ or "").split("Args:")[0].strip(),
        exit_on_error=False,
        default_env=True,
        env_prefix=f"CROMSS_{command.upper()}_",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_class_arguments(kind, as_group=False)
    return parser


def _with_underscores(item: str) -> str:
    """--train-tiles and --train_tiles are the same flag."""
    if not item.startswith("--"):
        return item
    name, equals, value = item.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _with_true(arguments: Sequence[str], kind: type) -> list[str]:
    """A flag of a yes-or-no setting may stand alone: --list is --list=true."""
    switches = {f"--{entry.name}" for entry in dataclasses.fields(kind) if entry.type == "bool"}
    return [
        f"{item}=true" if item in switches and after.startswith("--") else item
        for item, after in itertools.pairwise([*arguments, "--"])
    ]


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The files given by --config. Raises MissingDataError for one that is absent."""
    named = [after for before, after in itertools.pairwise(arguments) if before == "--config"]
    named += [item.removeprefix("--config=") for item in arguments if item.startswith("--config=")]
    for name in named:
        if not Path(name).is_file():
            raise MissingDataError("the settings file is absent", where=name, do="check the path given to --config")
    return [Path(name) for name in named]


def _without_files(arguments: Sequence[str]) -> list[str]:
    before = ["", *arguments]
    return [item for item, last in zip(arguments, before, strict=False) if "--config" not in (item.split("=")[0], last)]


def _from_environment(command: str, known: Sequence[str]) -> list[str]:
    """CROMSS_COMMAND__SETTING variables as flags. Raises ConfigError for one that names no setting."""
    prefix, flags = f"CROMSS_{command.upper()}_", []
    for variable, value in os.environ.items():
        name = variable.removeprefix(prefix)
        if name == variable or name == "_CONFIG":
            continue
        if not name.startswith("_") or name[1:].lower() not in known:
            raise _unknown(name.strip("_").lower(), known, f"the variable {variable}; it is {prefix}_SETTING")
        flags.append(f"--{name[1:].lower()}={value}")
    return flags


def _twice(root: Any) -> str | None:
    """A key that stands twice in one mapping of a tree of YAML nodes, with its line; None where none does."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias, which may even hold itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                if str(key.value) in names:
                    return f"{key.value}, again in line {key.start_mark.line + 1}"
                names.add(str(key.value))
                waiting.append(value)
    return None


def _refuse_unknown_keys(kind: type, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        content, twice = yaml.safe_load(text), _twice(yaml.compose(text, yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("the settings file is not YAML", got=_first_line(error), where=path) from None
    if twice is not None:
        do = "leave one of them out: the last would win"
        raise ConfigError(
            "a setting stands twice in a settings file", got=twice, expected="each once", where=path, do=do
        )
    if content is None:
        return
    if not isinstance(content, dict):
        raise ConfigError("a settings file holds `setting: value` lines", got=type(content).__name__, where=path)
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in content:
        if key not in known:
            raise _unknown(str(key), known, str(path))


def _refuse_unknown_flags(command: str, arguments: Sequence[str], known: Sequence[str]) -> None:
    for item in arguments:
        name = item.removeprefix("--").partition("=")[0]
        if item.startswith("--") and name.partition(".")[0] not in {*known, "config", "help", "print_config"}:
            raise _unknown(name, known, f"the flags of cromss {command}")


def _unknown(name: str, known: Sequence[str], where: str) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return ConfigError(f"unknown setting {name!r}", where=where, do=f"did you mean {near!r}?")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Errors:", "- ", "Given value type:"))]  # said by the rest
    return "; ".join(told[:4])


def _function(place: str) -> Callable[[Any], Any]:
    """Import a command's function only when it runs: --help must not wait for torch."""
    module, _, name = place.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


def _overview() -> str:
    rows = [f"  {name:<11} {(kind.__doc__ or '').strip().splitlines()[0]}" for name, (kind, _, _) in COMMANDS.items()]
    return "\n".join(
        [
            f"cromss {__version__}: encoders and land-cover maps from satellite images and cheap, wrong labels",
            "",
            "usage: cromss COMMAND [--config FILE.yaml] [--setting VALUE ...]",
            "",
            *rows,
            "",
            "cromss COMMAND --help lists the settings of a command with their defaults.",
            "",
        ]
    )
