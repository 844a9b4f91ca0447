"""Which sensors a set has: s1 and s2 by their own settings, others as the section `sensors` of prepare defines them.

In: the settings of prepare. Out: a `SensorPlan` a sensor: what it measures, where its files lie, which bands are kept.

    sensors:
      dem: {files: "dem/{id}.tif", unit: m, bands: [elevation, slope], valid_min: -500, valid_max: 9000}
    band_names:
      s2: {blue: B2, green: B3, red: B4}      or the name of a YAML file of such lines

A sensor needs unit, bands (in the order of its files), valid_min, valid_max, and files, unless the section of the
layout (stac, cube) lists its images. It may have: title; keep (bands to put into the store); band_names (what the files
call them); no_data (`any` or `all`: how many bands of a pixel hold no-data where the pixel has none); dtype (that the
store keeps, float32); mean and std, a number a band kept, where they shall not be measured.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cromss.config import PrepareConfig
from cromss.data.band_names import read_band_names, with_names
from cromss.data.sources.cube import cube_entries
from cromss.data.sources.opening import default_of, known_names
from cromss.data.sources.stac_section import plan_stac
from cromss.errors import ArgumentError, BandError, ConfigError
from cromss.geo.bands import SENSORS, band_name, nearest, resolve_bands
from cromss.geo.sensor import Sensor

__all__ = ["SensorPlan", "plan_sensors"]

_NEEDED = ("unit", "bands", "valid_min", "valid_max")
_OPTIONAL = ("files", "title", "keep", "band_names", "no_data", "dtype", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class SensorPlan:
    """A sensor of the set. keep: the bands that go into the store, in that order.

    files: its pattern, from root; None where the section of the layout lists its images.
    """

    sensor: Sensor
    files: str | None
    keep: tuple[str, ...]


def plan_sensors(config: PrepareConfig) -> dict[str, SensorPlan]:
    """Every sensor of the set by name: s1 and s2 where they have files, then those of the section, in its order.

    Raises ConfigError for a section that cannot be read, BandError for bands that a sensor does not have.
    """
    plans = {}
    rules = plan_stac(config.stac, known_names(config)).rules if config.layout == "stac" else {}
    section: Container[str] | None = rules if config.layout == "stac" else None  # None: the layout goes by patterns
    if config.layout == "cube":
        section = cube_entries(config.cube, known_names(config))
    listed = () if section is None else section
    for name, files, bands in (("s1", config.s1, config.s1_bands), ("s2", config.s2, config.s2_bands)):
        left = files == default_of(name)
        if files is not None and (section is None or name in section or not left):
            names = read_band_names(config.band_names.get(name), config.root, f"band_names of {name}")
            sensor = with_names(SENSORS[name], names)
            pattern = None if name in listed and left else files
            plans[name] = SensorPlan(sensor=sensor, files=pattern, keep=resolve_bands(sensor, bands))
    strange = [name for name in config.band_names if name not in plans]
    if strange:
        raise ConfigError(
            "band_names speaks of a sensor that has no files of its own setting",
            got=strange,
            expected=f"some of {', '.join(plans) or 's1, s2'}",
            do="give band_names of another sensor in its entry of the section sensors",
        )
    for name, entry in config.sensors.items():
        plans[name] = _plan(config, str(name), entry, listed)
    for name, plan in plans.items():
        if name in rules:
            _require_bands(plan.sensor, rules[name].assets)
    unscaled = [name for name, plan in plans.items() if not plan.sensor.statistics]
    if unscaled and config.edition == "uint8":
        raise ConfigError(
            "edition uint8 scales images while they are read, before their mean and std can be measured",
            got=f"no mean and std of {', '.join(unscaled)}",
            do="use edition native, or give mean and std in the section sensors",
        )
    if not plans:
        raise ConfigError("a set needs a sensor", got="s1 null, s2 null, no sensors", do="give the files of one")
    return plans


def _require_bands(sensor: Sensor, assets: Mapping[str, str]) -> None:
    """Raise ConfigError for an asset of a catalogue that stands for a band which the sensor does not have."""
    for asset, band in assets.items():
        if band and band_name(sensor, band) is None:
            raise ConfigError(
                f"an asset stands for a band that {sensor.title} does not have",
                got=f"{asset}: {band}",
                expected=", ".join(sensor.bands),
                where=f"stac: {sensor.name}",
                do=f"did you mean {nearest(band, sensor.bands)!r}?",
            )


def _plan(config: PrepareConfig, name: str, entry: Any, listed: Container[str]) -> SensorPlan:
    where = f"sensors: {name}"
    if name in SENSORS:
        raise ConfigError(
            f"a sensor of the section has the name of {SENSORS[name].title}",
            got=name,
            expected=f"another name; {name} has settings of its own",
            do=f"use {name}, {name}_bands and {name}_product, or choose another name",
        )
    _check_keys(entry, where)
    if (entry.get("files") is None) != (name in listed):
        raise ConfigError(
            "the images of a sensor lie in files, or where the section of the layout says",
            got=f"files {entry.get('files')}, and {'a' if name in listed else 'no'} line {name} there",
            expected="one of them",
            where=where,
            do=f'for example {name}: {{files: "{name}/{{id}}.tif", ...}}',
        )
    names = read_band_names(entry.get("band_names"), config.root, where)
    bands = _words(entry["bands"], where)
    try:
        sensor = Sensor(
            name=name,
            title=str(entry.get("title", name)),
            unit=str(entry["unit"]),
            bands=bands,
            valid_min=float(entry["valid_min"]),
            valid_max=float(entry["valid_max"]),
            missing=str(entry.get("no_data", "any")),
            dtype=str(entry.get("dtype", "float32")),
        )
        sensor = with_names(sensor, names)
        keep = resolve_bands(sensor, _words(entry["keep"], where) if "keep" in entry else "all")
        return SensorPlan(
            sensor=_with_given(sensor, keep, entry), files=None if name in listed else str(entry["files"]), keep=keep
        )
    except (ArgumentError, BandError) as error:
        raise ConfigError(error.what, got=error.got, expected=error.expected, where=where, do=error.do) from None
    except (TypeError, ValueError) as error:
        raise ConfigError("a number of the section is none", got=error, where=where) from None


def _check_keys(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError("a sensor is defined by `setting: value` lines", got=entry, expected=_NEEDED, where=where)
    known = [*_NEEDED, *_OPTIONAL]
    for key in entry:
        if key not in known:
            do = f"did you mean {nearest(str(key), known)!r}?"
            raise ConfigError("a sensor has no such setting", got=key, expected=", ".join(known), where=where, do=do)
    absent = [key for key in _NEEDED if entry.get(key) is None]
    if absent:
        raise ConfigError(
            "the definition of a sensor is incomplete",
            got=sorted(entry),
            expected=f"also {', '.join(absent)}",
            where=where,
            do="say what its values mean: nothing can be checked otherwise",
        )


def _words(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, Sequence):
        raise ConfigError("bands are a list of names", got=value, expected="[elevation, slope]", where=where)
    return tuple(str(name) for name in value)


def _with_given(sensor: Sensor, keep: Sequence[str], entry: Mapping[str, Any]) -> Sensor:
    """The sensor with mean and std, where the section gives them."""
    given = {key: entry.get(key) for key in ("mean", "std")}
    if given["mean"] is None and given["std"] is None:
        return sensor
    lists = {
        key: [float(number) for number in value] for key, value in given.items() if isinstance(value, list | tuple)
    }
    if any(len(lists.get(key, ())) != len(keep) for key in given) or not min(lists["std"]) > 0:
        raise ArgumentError(
            "mean and std do not fit the bands", got=given, expected=f"lists, a number for each of {', '.join(keep)}"
        )
    table = {band: (mean, std) for band, mean, std in zip(keep, lists["mean"], lists["std"], strict=True)}
    return sensor.with_statistics({sensor.name: table})
