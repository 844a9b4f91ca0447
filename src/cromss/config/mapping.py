"""Between settings and plain values: a config to JSON types, and a mapping, as of a YAML file, to a checked config."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from cromss.errors import ConfigError

__all__ = ["from_mapping", "require_at_least", "to_mapping"]

T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as plain JSON types, field by field."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str | None = None) -> T:
    """Build a config from plain values, e.g. of a YAML file.

    Raises ConfigError for a key that `kind` does not have, naming the nearest, for a required key that is absent, and
    for null where a value is needed. Other types are checked where the values enter, by the command line.
    """
    known = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown setting {key!r} for {kind.__name__}",
                got=key,
                expected=f"one of {', '.join(known)}",
                where=where,
                do=f"did you mean {near[0]!r}?",
            )
    required = [
        name
        for name, entry in known.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in values]
    if absent:
        raise ConfigError(f"{kind.__name__} lacks required settings", got=sorted(values), expected=absent, where=where)
    hints = get_type_hints(kind)
    empty = [name for name, value in values.items() if value is None and type(None) not in get_args(hints[name])]
    if empty:
        raise ConfigError(f"{kind.__name__} needs a value where there is none", got="null", expected=empty, where=where)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def require_at_least(config: Any, **lowest: float) -> None:
    """Raise ConfigError for the first named setting that is below its lowest value or not finite; null is no number."""
    for name, least in lowest.items():
        value = getattr(config, name)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise ConfigError(f"{name} is out of range", got=value, expected=f"at least {least:g}")
