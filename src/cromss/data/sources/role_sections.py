"""What the sections `stac` and `cube` have in common: the roles that they may name, and errors for wrong lines.

In: a section of the settings. Out: role -> what the section says of it. Roles are sensors, maps and probabilities. The
maps of several annotators are kept apart:

    annotators:
      dw: {...}          role "labels", as the first
      osm: {...}         role "labels.osm"
      rules: null        no maps, but probabilities
    probabilities:       of annotators by their names
      rules: {...}       role "probabilities.rules"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cromss.data.store.layout import is_label_layer, label_layers, soft_layer
from cromss.errors import ConfigError
from cromss.geo.bands import SENSORS, nearest

__all__ = [
    "NO_NAMES",
    "Entry",
    "Known",
    "annotators_of",
    "check_annotators",
    "check_keys",
    "is_map",
    "require_owners",
    "role_entries",
]

_MAPS = ("labels", "truth", "clouds")
_LABELS = ("labels", "annotators", "probabilities")


@dataclass(frozen=True, kw_only=True)
class Known:
    """The names that settings outside of the section define: sensors beside s1 and s2, and annotators."""

    sensors: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()


NO_NAMES = Known()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The lines of one role, and where they stand, for messages."""

    lines: Mapping[str, Any]
    where: str


def is_map(role: str) -> bool:
    """Whether the files of a role are maps: one band, read as it is."""
    return role in _MAPS or is_label_layer(role)


def role_entries(
    section: Any,
    known: Known,
    *,
    title: str,
    own: tuple[str, ...],
    lines: tuple[str, ...],
    example: str,
) -> dict[str, Entry]:
    """Role -> its entry, for all roles that a section names. Raises ConfigError for keys that are not known.

    own: the keys of the section that are no roles, of which it needs the first. lines: the keys that the entry of a
    role may have.
    """
    images = (*SENSORS, *known.sensors)
    check_keys(section, (*own, *images, *_MAPS, *_LABELS), title)
    entries = {
        role: Entry(lines=section[role], where=f"{title}: {role}")
        for role in (*images, *_MAPS, "probabilities")
        if section.get(role) is not None
    }
    if not section.get(own[0]) or not set(images) & set(entries):
        raise ConfigError(
            f"the section {title} needs a {own[0]} and images",
            got=sorted(map(str, section)),
            expected=f"{own[0]}, and {' or '.join(images)}",
            do=f"for example {title}: {example}",
        )
    if known.annotators or section.get("annotators"):
        entries = {role: entry for role, entry in entries.items() if role not in _LABELS}
        entries |= _of_annotators(section, known.annotators, title)
    for entry in entries.values():
        check_keys(entry.lines, lines, entry.where)
    return entries


def annotators_of(section: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the annotators that a section lists, in its order."""
    return tuple(map(str, section.get("annotators") or ()))


def check_annotators(names: Iterable[str], where: str | None = None) -> None:
    """Raise ConfigError for a name that cannot be that of an array of a store."""
    strange = [name for name in names if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", name)]
    if strange:
        raise ConfigError(
            "an annotator has a name that cannot be used", got=strange, expected="letters, digits, _, -", where=where
        )


def require_owners(soft: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raise ConfigError for probabilities of somebody who is no annotator."""
    strange = [name for name in soft if name not in names]
    if strange:
        raise ConfigError(
            "beside annotators, probabilities are by the name of theirs",
            got=", ".join(strange),
            expected=f"some of {', '.join(names)}, each with its own",
            where=where,
            do=f"write probabilities: {{{names[0]}: ...}}",
        )


def check_keys(section: Any, known: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for what is no mapping, and for a key that is not known."""
    if not isinstance(section, Mapping):
        raise ConfigError(
            "a section has `setting: value` lines",
            got="null" if section is None else section,
            expected=", ".join(known),
            where=where,
            do="give patterns of files outside of the section, by settings such as labels and annotators"
            if isinstance(section, str)
            else None,
        )
    for key in section:
        if key not in known:
            do = f"did you mean {nearest(str(key), known)!r}?"
            raise ConfigError("a section has no such setting", got=key, expected=", ".join(known), where=where, do=do)


def _of_annotators(section: Mapping[str, Any], further: Sequence[str], title: str) -> dict[str, Entry]:
    """Role -> entry of the maps and the probabilities of each annotator. further: those of other settings."""
    maps, soft = _by_name(section, "annotators", title), _by_name(section, "probabilities", title)
    check_annotators(maps, f"{title}: annotators")
    names = (*maps, *further)
    if section.get("labels") is not None:
        raise ConfigError(
            "several annotators stand in the place of labels",
            got=f"labels, and annotators {', '.join(names)}",
            expected="one of them",
            where=title,
            do="give the labels a name among the annotators",
        )
    require_owners(soft, names, f"{title}: probabilities")
    entries = {}
    for name, layer in zip(names, label_layers(names), strict=True):
        if maps.get(name) is not None:
            entries[layer] = Entry(lines=maps[name], where=f"{title}: annotators: {name}")
        if soft.get(name) is not None:
            entries[soft_layer(layer)] = Entry(lines=soft[name], where=f"{title}: probabilities: {name}")
    return entries


def _by_name(section: Mapping[str, Any], key: str, title: str) -> dict[str, Any]:
    named, like = section.get(key) or {}, {"annotators": "labels"}.get(key, key)
    if not isinstance(named, Mapping):
        raise ConfigError(
            "each annotator has a name",
            got=named,
            expected=f"NAME: {{...}} for each, with the lines that {like} would have without annotators",
            where=f"{title}: {key}",
            do=f"give patterns of files outside of the section, by the setting {key}",
        )
    return {str(name): lines for name, lines in named.items()}
