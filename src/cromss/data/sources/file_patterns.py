"""Find the files of scenes by pattern, and join them by id.

In: a pattern for each role, such as "/data/s1/{id}/{season}.tif". Out: scenes, each with its files by role and season,
and orphans: files whose partners are absent. Order plays no part: two files belong together when their ids are equal.

{id} and {season} stand for a part of one name, without "/"; a repeated {id} must be equal; * and ? are wildcards.
A pattern without {id} names one scene. Hidden files are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cromss.data.sources.source import Orphan, Scene
from cromss.errors import ConfigError, MissingDataError

__all__ = ["find_files", "join_by_id"]

ONLY_SEASON = "0"
"""The name of the season where patterns have no {season}."""

Found = dict[tuple[str, str | None], Path]


def find_files(role: str, pattern: str) -> Found:
    """(id, season) -> path of every file that fits; id "" and season None where the pattern has none.

    Raises ConfigError for an unknown placeholder or two files for one key, MissingDataError where nothing fits.
    """
    unknown = set(re.findall(r"{([^{}]*)}", pattern)) - {"id", "season"}
    if unknown:
        raise ConfigError(
            f"the pattern of {role} has an unknown placeholder",
            got=", ".join(f"{{{name}}}" for name in sorted(unknown)) + f" in {pattern}",
            expected="{id}, {season}",
            do=f"correct the pattern {role}: small letters, {{id}} for the part of a name that partners share",
        )
    wild = re.search(r"[{*?]", pattern)
    fixed = pattern if wild is None else pattern[: wild.start()]
    folder = Path(fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "."))
    rest = pattern[len(fixed.rpartition("/")[0]) :].lstrip("/")
    if not folder.is_dir():
        raise MissingDataError(
            f"the folder of {role} does not exist",
            got=folder,
            expected=f"files {pattern}",
            do=f"correct root or the pattern {role}",
        )
    fits = re.compile(_expression(rest))
    found: Found = {}
    for path in sorted(folder.glob(re.sub(r"{[^{}]*}", "*", rest.replace("[", "[[]")))):
        match = fits.fullmatch(path.relative_to(folder).as_posix())
        if match is None or not path.is_file():
            continue
        groups = match.groupdict()
        key = (groups.get("id", ""), groups.get("season"))
        if key in found:
            raise ConfigError(
                f"two files of {role} have one id", got=f"{found[key]}, {path}", expected=pattern, where=key[0]
            )
        found[key] = path
    if not found:
        raise MissingDataError(
            f"no file of {role} is there",
            got=f"{sum(1 for _ in folder.iterdir())} entries in {folder}, none that fits",
            expected=f"files {pattern}",
            where=folder,
            do=f"correct root or the pattern {role}",
        )
    return found


def _expression(pattern: str) -> str:
    """The regular expression of a pattern; names never start with a dot."""
    seen: set[str] = set()
    parts = []
    for part in re.split(r"({id}|{season}|\*|\?)", pattern):
        name = part.strip("{}")
        if part in ("{id}", "{season}"):
            parts.append(f"(?P={name})" if name in seen else rf"(?P<{name}>(?!\.)[^/]+)")
            seen.add(name)
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)))
    return "".join(parts)


def join_by_id(
    found: Mapping[str, Found],
    images: Sequence[str],
    optional: Sequence[str] = (),
    constant: Sequence[str] = (),
    one_of: Sequence[tuple[str, ...]] = (),
) -> tuple[list[Scene], list[Orphan]]:
    """Scenes for which every role is there, in the order of their ids, and orphans.

    images: the roles that make seasons; other roles without {season} serve all seasons of their place.
    optional: roles that a scene may lack; they are kept only where all its seasons have them.
    one_of: groups of roles of which a scene needs one, whole; what is left of the others' files for want of images, of
    the rest of their group, or of files for all seasons, is an orphan.
    constant: images that may be without {season} where others have it, and serve all seasons of their place then.
    Raises ConfigError where patterns differ in {season}, MissingDataError when no scene is complete.
    """
    seasonal = {role: any(season is not None for _, season in files) for role, files in found.items()}
    leading = [role for role in images if role not in constant or seasonal[role] or not any(seasonal.values())]
    if len({seasonal[role] for role in leading}) > 1:
        raise ConfigError("the patterns of the sensors must agree on {season}", got=seasonal, expected="all or none")
    with_season = bool(leading) and seasonal[leading[0]]
    if not with_season and any(seasonal.values()):
        raise ConfigError(
            "only the sensors' patterns can bring in {season}", got=seasonal, expected="sensors with {season}"
        )
    choice = [role for group in one_of for role in group]
    required = [role for role in found if role not in (*optional, *choice)]
    seasons: dict[str, set[str | None]] = {}
    for role in (*required, *choice):
        for place, season in found[role]:
            seasons.setdefault(place, set()).update([season] if seasonal[role] == with_season else [])
    scenes, orphans = [], []
    for place in sorted(seasons):
        complete = []
        for season in sorted(seasons[place] or {None}, key=lambda name: name or ""):
            lookup = {role: found[role].get((place, season if seasonal[role] else None)) for role in found}
            missing = tuple(role for role in required if lookup[role] is None)
            if missing:
                there = tuple(str(path) for path in lookup.values() if path is not None)
                orphans.append(Orphan(id=place, season=season, missing=missing, found=there))
            else:
                complete.append((season or ONLY_SEASON, lookup))
        if complete:
            files = _files_of_all_seasons(complete)
            broken = [group for group in one_of if not files.keys() >= {*group}]
            orphans += _partial(place, files, complete, broken)
            files = {role: paths for role, paths in files.items() if not any(role in group for group in broken)}
            if not one_of or len(broken) < len(one_of):
                name = place or _name_scene(complete[0][1], images[0])
                scenes.append(Scene(id=name, seasons=tuple(season for season, _ in complete), files=files))
            else:
                there = tuple(str(path) for paths in files.values() for path in paths)
                orphans.append(Orphan(id=place, season=None, missing=tuple(choice), found=there))
    if not scenes:
        raise MissingDataError(
            "no scene has all its files",
            got="; ".join(
                f"{role}: {len(files)} files, such as {next(iter(files.values()))}" for role, files in found.items()
            ),
            expected=f"the same {{id}} for {', '.join(required)}",
            do="correct the patterns so that {id} is the part of the names that partners share",
        )
    return scenes, orphans


def _partial(
    place: str,
    files: Mapping[str, object],
    complete: Sequence[tuple[str, Mapping[str, Path | None]]],
    broken: Sequence[tuple[str, ...]],
) -> Iterator[Orphan]:
    """The files of groups that are not there whole for every season of a scene, and so for none."""
    for group in broken:
        elsewhere = tuple(f"{role} of other seasons" for role in group if role not in files)
        for season, lookup in complete:
            missing = tuple(role for role in group if lookup[role] is None)
            there = tuple(str(lookup[role]) for role in group if role not in missing)
            if there:
                yield Orphan(id=place, season=season, missing=missing or elsewhere, found=there)


def _name_scene(lookup: Mapping[str, Path | None], image: str) -> str:
    """A scene without {id} is called like the folder that holds all its files, or else like its first image."""
    paths = {role: path.resolve() for role, path in lookup.items() if path is not None}
    folders = {path.parent for path in paths.values()}
    return folders.pop().name if len(folders) == 1 else paths[image].stem


def _files_of_all_seasons(
    complete: Sequence[tuple[str, Mapping[str, Path | None]]],
) -> dict[str, tuple[Path, ...]]:
    """Role -> a file a season, for roles that have one for each."""
    files = {}
    for role in complete[0][1]:
        paths = tuple(path for _, lookup in complete if (path := lookup[role]) is not None)
        if len(paths) == len(complete):
            files[role] = paths
    return files
