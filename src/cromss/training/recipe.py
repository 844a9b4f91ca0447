"""A benchmark's recipe: a YAML file that names data, pretraining arms, transfer tasks, comparisons and promises.

In: the file. Out: a Recipe whose every setting is one that its command knows, of the right type. The keys:

    title, about       what the benchmark asks, for people
    data_seeds         seeds of the synthetic data (default [0]); everything below is run once for each
    data               name -> {synthesize: settings} or {prepare: settings} or {store: path}
    pretraining        data: name;  seeds: [...];  common: settings;  arms: name -> settings over the common ones,
                       or `random` / `imagenet` for an encoder that is not pretrained here; an arm may name data of its
                       own, and is then scored on these
    scoring            splits: [...];  label_source: truth or labels: how each pretrained network is scored itself
    transfer           common: settings;  tasks: name -> settings over the common ones, with data: name
    comparisons        [arm, arm]: the paired difference of the first minus the second
    promises           {say, table, arm, minus (optional), metric, at_least}: checked at the end, in percent points

A table is the name of a task, or `pretraining SPLIT`.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from cromss.config import EvaluateConfig, PrepareConfig, PretrainConfig, SynthesizeConfig, TransferConfig, from_mapping
from cromss.errors import ConfigError, MissingDataError
from cromss.geo.sensor import SENSORS

__all__ = ["Arm", "DataSource", "Promise", "Recipe", "parse_recipe", "pretraining_table", "read_recipe"]

Settings = Mapping[str, Any]

_SOURCES: dict[str, type] = {"synthesize": SynthesizeConfig, "prepare": PrepareConfig}


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where a store comes from: the command that makes it with its settings, or the path of one that exists."""

    command: str | None
    settings: Settings
    store: str | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to get an encoder: `settings` of a pretraining on `data`, or `init` without one."""

    settings: Settings | None
    data: str = ""
    init: str = "checkpoint"

    def has(self, sensor: str) -> bool:
        """Whether the arm has an encoder for this sensor."""
        return self.settings is None or sensor in self.sensors

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors that a pretraining of the arm trains on."""
        settings = self.settings or {}
        if settings.get("method") == "single":
            return (str(settings.get("sensor", PretrainConfig.sensor)),)
        return tuple(settings.get("sensors", PretrainConfig.sensors))


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the benchmark should reach: the mean of a metric, or of the difference of two arms, in percent points."""

    say: str
    table: str
    arm: str
    metric: str
    at_least: float
    minus: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe; see the module's head for the fields."""

    title: str
    about: str
    data_seeds: tuple[int, ...]
    data: Mapping[str, DataSource]
    pretrain_seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    splits: tuple[str, ...]
    label_source: str
    tasks: Mapping[str, Settings]
    comparisons: tuple[tuple[str, str], ...]
    promises: tuple[Promise, ...]
    text: str

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of all tables, in the order of the report."""
        return (*(pretraining_table(split) for split in self.splits), *self.tasks)


def pretraining_table(split: str) -> str:
    """The name of the table that scores the pretrained networks themselves on a split."""
    return f"pretraining {split}"


def read_recipe(path: str | Path, root: str | Path | None = None) -> Recipe:
    """Read a recipe file; `root` is where the folders of `prepare` start from.

    Raises MissingDataError if the file is absent, ConfigError naming the nearest for every name that is not known.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise MissingDataError("the recipe is absent", where=path, do="check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError("the recipe is not a YAML file", got=str(error).splitlines()[0], where=path) from None
    return parse_recipe(content, text=text, where=path, root=root)


def parse_recipe(content: Any, *, text: str, where: Path, root: str | Path | None = None) -> Recipe:
    """Check the content of a recipe file; see `read_recipe`."""
    allowed = ("title", "about", "data_seeds", "data", "pretraining", "scoring", "transfer", "comparisons", "promises")
    top = _mapping(content, "the recipe", where, allowed, required=("title", "data", "pretraining"))
    data = {name: _source(name, entry, where, root) for name, entry in _named(top["data"], "data", where).items()}
    pretraining = _mapping(
        top["pretraining"], "pretraining", where, ("data", "seeds", "common", "arms"), required=("data", "arms")
    )
    _one_of(pretraining["data"], data, "pretraining data", where)
    common = _named(pretraining.get("common"), "common settings", where)
    _refuse_reserved(common, ("data",), "the common settings", where)
    arms = {
        name: _arm(name, entry, {"data": pretraining["data"], **common}, data, where)
        for name, entry in _named(pretraining["arms"], "arms", where).items()
    }
    scoring = _mapping(top.get("scoring") or {}, "scoring", where, ("splits", "label_source"))
    splits = _several(scoring.get("splits"), "splits", where)
    for split in splits:
        _one_of(split, ("train", "validation", "test"), "split", where)
    label_source = scoring.get("label_source", EvaluateConfig.label_source)
    _one_of(label_source, ("labels", "truth"), "label_source", where)
    transfer = _mapping(top.get("transfer") or {}, "transfer", where, ("common", "tasks"))
    common = _named(transfer.get("common"), "common settings", where)
    tasks = {
        name: _task(name, entry, common, data, where)
        for name, entry in _named(transfer.get("tasks"), "tasks", where).items()
    }
    sensors = (*SENSORS, *(sensor for arm in arms.values() for sensor in arm.sensors))
    for name, task in tasks.items():
        _one_of(task.get("sensor", TransferConfig.sensor), sensors, f"sensor of task {name!r}", where)
    recipe = Recipe(
        title=str(top["title"]),
        about=str(top.get("about", "")).strip(),
        data_seeds=_several(top.get("data_seeds", (0,)), "data_seeds", where),
        data=data,
        pretrain_seeds=_several(pretraining.get("seeds", (0,)), "pretraining seeds", where),
        arms=arms,
        splits=splits,
        label_source=str(label_source),
        tasks=tasks,
        comparisons=tuple(
            _pair(entry, arms, where) for entry in _several(top.get("comparisons"), "comparisons", where)
        ),
        promises=tuple(
            _promise(entry, arms, (*(pretraining_table(s) for s in splits), *tasks), where)
            for entry in _several(top.get("promises"), "promises", where)
        ),
        text=text,
    )
    _require_something_to_do(recipe, where)
    return recipe


def _source(name: str, entry: Any, where: Path, root: str | Path | None) -> DataSource:
    entry = _mapping(entry, f"data {name!r}", where, (*_SOURCES, "store"))
    if len(entry) != 1:
        raise ConfigError(
            f"data {name!r} must say one way to get it", got=list(entry), expected=[*_SOURCES, "store"], where=where
        )
    ((command, value),) = entry.items()
    if command == "store":
        return DataSource(command=None, settings={}, store=str(Path(root or ".") / str(value)))
    settings = dict(_named(value, f"data {name!r}", where))
    if command == "prepare":
        settings = _rooted(name, settings, where, root)
    elif "seed" in settings:
        raise ConfigError(f"data {name!r} sets a seed of its own", where=where, do="use data_seeds")
    _check_settings(_SOURCES[command], {**settings, "out": "."}, f"{where}: data {name}")
    return DataSource(command=command, settings=settings)


def _rooted(name: str, settings: dict[str, Any], where: Path, root: str | Path | None) -> dict[str, Any]:
    """Absolute folders, and the CSV of a split from beside the recipe where it lies there."""
    if root is None:
        raise ConfigError(f"data {name!r} needs the folder of your files", where=where, do="give it with --root FOLDER")
    settings["root"] = str((Path(root) / str(settings.get("root", "."))).resolve())
    beside = where.parent / str(settings.get("split"))
    if beside.is_file():
        settings["split"] = str(beside.resolve())
    return settings


def _arm(name: str, entry: Any, common: Settings, data: Settings, where: Path) -> Arm:
    if entry in ("random", "imagenet"):
        return Arm(settings=None, init=entry)
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"arm {name!r} has no settings", got=entry, expected="settings, random or imagenet", where=where
        )
    settings = {**common, **entry}
    _refuse_reserved(settings, ("out", "seed", "threads"), f"arm {name!r}", where)
    _one_of(settings["data"], data, f"data of arm {name!r}", where)
    _check_settings(PretrainConfig, {**settings, "out": "."}, f"{where}: arm {name}")
    return Arm(data=settings.pop("data"), settings=settings)


def _task(name: str, entry: Any, common: Settings, data: Settings, where: Path) -> Settings:
    settings = {**common, **_mapping(entry, f"task {name!r}", where, tuple(TransferConfig.__dataclass_fields__))}
    _refuse_reserved(settings, ("out", "checkpoint", "init", "threads"), f"task {name!r}", where)
    _check_settings(TransferConfig, {"data": "", **settings, "out": "."}, f"{where}: task {name}")
    _one_of(settings.get("data"), data, f"data of task {name!r}", where)
    return settings


def _pair(entry: Any, arms: Settings, where: Path) -> tuple[str, str]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise ConfigError("a comparison is a pair of arms", got=entry, expected="[arm, arm]", where=where)
    for name in entry:
        _one_of(name, arms, "compared arm", where)
    return str(entry[0]), str(entry[1])


def _promise(entry: Any, arms: Settings, tables: Iterable[str], where: Path) -> Promise:
    fields = tuple(Promise.__dataclass_fields__)
    entry = _mapping(entry, "a promise", where, fields, required=tuple(f for f in fields if f != "minus"))
    _one_of(entry["table"], tables, "table of a promise", where)
    for name in filter(None, (entry["arm"], entry.get("minus"))):
        _one_of(name, arms, "arm of a promise", where)
    if type(entry["at_least"]) not in (int, float):
        raise ConfigError("at_least of a promise is a number of percent points", got=entry["at_least"], where=where)
    return Promise(**{**entry, "at_least": float(entry["at_least"])})


def _require_something_to_do(recipe: Recipe, where: Path) -> None:
    if not recipe.splits and not recipe.tasks:
        raise ConfigError("the recipe scores nothing", where=where, do="give scoring splits or transfer tasks")
    seeds: Sequence[Any]
    for name, seeds in (("data_seeds", recipe.data_seeds), ("pretraining seeds", recipe.pretrain_seeds)):
        if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and s >= 0 for s in seeds):
            raise ConfigError(f"{name} must be different whole numbers from 0 on", got=seeds, where=where)
    if len(recipe.data_seeds) > 1 and all(source.command != "synthesize" for source in recipe.data.values()):
        raise ConfigError(
            "data_seeds make synthetic data; other data would be the same each time, and count as independent runs",
            got=recipe.data_seeds,
            where=where,
            do="leave data_seeds out",
        )


def _check_settings(kind: type, settings: Settings, where: str) -> None:
    """Names and types of the settings, as the command itself will read them. Raises ConfigError."""
    from_mapping(kind, settings, where=where)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    try:
        parser.parse_object(dict(settings))
    except argparse.ArgumentError as error:
        got = " ".join(str(error).split())
        raise ConfigError("a setting of the recipe is of the wrong type", got=got, where=where) from None


def _named(value: Any, what: str, where: Path) -> Mapping[str, Any]:
    """`name: value` lines with any names; nothing at all is no lines."""
    return _mapping(value or {}, what, where, value or ())


def _several(value: Any, what: str, where: Path) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple, type(None))):
        raise ConfigError(f"{what} of a recipe are a list", got=value, expected="[..., ...]", where=where)
    return tuple(value or ())


def _mapping(
    value: Any, what: str, where: Path, allowed: Iterable[str], required: Iterable[str] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} must hold `name: value` lines", got=type(value).__name__, where=where)
    for key in value:
        _one_of(key, allowed, f"name in {what}", where)
    absent = [key for key in required if key not in value]
    if absent:
        raise ConfigError(f"{what} is incomplete", got=list(value), expected=absent, where=where)
    return value


def _one_of(name: Any, known: Iterable[str], what: str, where: Path) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise ConfigError(f"unknown {what}", got=name, expected=", ".join(known), where=where, do=hint)


def _refuse_reserved(settings: Settings, reserved: Iterable[str], what: str, where: Path) -> None:
    found = [key for key in reserved if key in settings]
    if found:
        raise ConfigError(f"{what} sets what the benchmark itself sets", got=found, where=where, do="remove it")
