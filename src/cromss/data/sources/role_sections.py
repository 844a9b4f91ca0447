"""What the sections `stac` and `cube` have in common: the roles that they may name, and errors for wrong lines.

In: a section of the settings. Out: role -> what the section says of it. Roles are sensors, maps and probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cromss.data.store_layout import is_label_layer
from cromss.errors import ConfigError
from cromss.geo.bands import SENSORS, nearest

__all__ = ["Entry", "check_keys", "is_map", "role_entries"]

_MAPS = ("labels", "truth", "clouds")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The lines of one role, and where they stand, for messages."""

    lines: Mapping[str, Any]
    where: str


def is_map(role: str) -> bool:
    """Whether the files of a role are maps: one band, read as it is."""
    return role in _MAPS or is_label_layer(role)


def role_entries(
    section: Any, sensors: Iterable[str], *, title: str, own: tuple[str, ...], lines: tuple[str, ...], example: str
) -> dict[str, Entry]:
    """Role -> its entry, for all roles that a section names. Raises ConfigError for keys that are not known.

    sensors: those that the settings define, beside s1 and s2. own: the keys of the section that are no roles, of which
    it needs the first. lines: the keys that the entry of a role may have.
    """
    images = (*SENSORS, *sensors)
    roles = (*images, *_MAPS, "probabilities")
    check_keys(section, (*own, *roles), title)
    entries = {
        role: Entry(lines=section[role], where=f"{title}: {role}") for role in roles if section.get(role) is not None
    }
    if not section.get(own[0]) or not set(images) & set(entries):
        raise ConfigError(
            f"the section {title} needs a {own[0]} and images",
            got=sorted(map(str, section)),
            expected=f"{own[0]}, and {' or '.join(images)}",
            do=f"for example {title}: {example}",
        )
    for entry in entries.values():
        check_keys(entry.lines, lines, entry.where)
    return entries


def check_keys(section: Any, known: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for what is no mapping, and for a key that is not known."""
    if not isinstance(section, Mapping):
        raise ConfigError(
            "a section has `setting: value` lines",
            got="null" if section is None else section,
            expected=", ".join(known),
            where=where,
            do="give patterns of files outside of the section, by the setting of that name"
            if isinstance(section, str)
            else None,
        )
    for key in section:
        if key not in known:
            do = f"did you mean {nearest(str(key), known)!r}?"
            raise ConfigError("a section has no such setting", got=key, expected=", ".join(known), where=where, do=do)
