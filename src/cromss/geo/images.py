"""Satellite images by band name: the bands that a file holds, its product, its unit, and which pixels have data.

In: an open raster of a sensor. Out: the asked bands in the asked order, in the sensor's own type and unit, with
validity; or an error that names the file: no names, no such band in the product, no product, numbers in another unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from cromss.errors import BandError, DataError, RangeError
from cromss.geo.bands import band_name, check_values, get_sensor
from cromss.geo.offsets import offset_of, take_off
from cromss.geo.raster import Raster, open_raster, read_pixels
from cromss.geo.sensor import Sensor

__all__ = ["ImageFacts", "describe_image", "read_image"]


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a file of a sensor says about itself.

    names: band name -> index in the file from 0. listed: every band as the file names it, in its order.
    absent: bands that are in the file but hold nothing, as B10 of an L2A file. offset: DN that its producer added.
    renamed: the file names its bands, but none as the sensor does, so that their order tells which is which.
    """

    sensor: Sensor
    product: str
    names: Mapping[str, int]
    absent: frozenset[str]
    listed: tuple[str, ...]
    offset: int = 0
    renamed: bool = False


def describe_image(
    dataset: rasterio.DatasetReader,
    sensor: str | Sensor,
    *,
    product: str | None = None,
    file_bands: Sequence[str] | None = None,
    offset: int | None = None,
) -> ImageFacts:
    """Read bands, product, type and scale from the header of an open raster.

    product: what the user says it is; None reads the tag LEVEL (s2), or takes the only one that there is.
    file_bands: the file's bands in order, for files that do not name them; None takes those of an ordered sensor.
    offset: DN added to all s2 values, where no tag says so (`cromss.geo.offsets`).
    Raises BandError, DataError (no product, or a contradiction), RangeError (type, scale or unit).
    """
    known, where, tags = get_sensor(sensor), dataset.name, dataset.tags()
    listed = _listed(known, dataset, tags, file_bands)
    names: dict[str, int] = {}
    for index, text in enumerate(listed):
        name = band_name(known, text)
        if name in names:
            raise BandError("a band name stands twice in a file", got=list(listed), expected="each once", where=where)
        if name is not None:
            names[name] = index
    _check_storage(known, dataset, tags)
    found = _product(known, tags, product, where)
    declared = {band_name(known, text) for text in re.split(r"[,; ]+", tags.get("ABSENT_BANDS", ""))}
    absent = {name for name in names if name in declared or name not in known.products[found]}
    return ImageFacts(
        sensor=known,
        product=found,
        names=names,
        absent=frozenset(absent),
        listed=tuple(listed),
        offset=offset_of(tags, offset, where) if known.name == "s2" else 0,
        renamed=any(dataset.descriptions) and tuple(listed) != tuple(text or "" for text in dataset.descriptions),
    )


def _listed(
    known: Sensor, dataset: rasterio.DatasetReader, tags: Mapping[str, str], file_bands: Sequence[str] | None
) -> list[str]:
    """The file's bands in order: its descriptions and tag BAND_ORDER, which must agree, or else what the user says."""
    described = [text or "" for text in dataset.descriptions]
    ordered = [part for part in re.split(r"[,; ]+", tags.get("BAND_ORDER", "")) if part]
    named = any(band_name(known, text) for text in described)
    sources = {"its band descriptions": described if named else [], "its tag BAND_ORDER": ordered}
    given = {title: names for title, names in sources.items() if names}
    if not given and file_bands:
        given = {"the settings": list(file_bands)}
    if not given and known.ordered:
        given = {"its definition": list(known.bands)}
    if not given:
        raise BandError(
            f"the bands of a {known.title} file have no names",
            got=f"{dataset.count} bands, described as {described}",
            expected=f"names of {', '.join(known.bands)} in the band descriptions or the tag BAND_ORDER",
            where=dataset.name,
            do=_how_to_name(known, dataset),
        )
    for title, names in given.items():
        if len(names) != dataset.count:
            raise BandError(
                f"a {known.title} file has another number of bands than {title} say",
                got=f"{dataset.count} bands",
                expected=f"{len(names)}: {', '.join(names)}",
                where=dataset.name,
                do="correct the names, or the file",
            )
    (first, names), *others = given.items()
    for title, other in others:
        if [band_name(known, a) for a in names] != [band_name(known, b) for b in other]:
            raise BandError(
                f"a {known.title} file contradicts itself: {first} and {title} differ",
                got=f"{', '.join(names)} and {', '.join(other)}",
                expected="one order",
                where=dataset.name,
                do="correct the one that is wrong; nothing else can tell which band is which",
            )
    return names


def _how_to_name(known: Sensor, dataset: rasterio.DatasetReader) -> str:
    """What to do about a file none of whose bands is named as the sensor's are."""
    if dataset.count > len(known.bands):
        return f"give a file of {known.title}: this one has more bands than there are"
    order = ",".join(known.bands)
    if any(dataset.descriptions):
        return (
            "say what the file calls its bands (cromss prepare, cromss labels rules: band_names="
            f"{{{known.name}: {{{dataset.descriptions[0]}: {known.bands[0]}, ...}}}}), or name them in the file, "
            f"all in its order: gdal_edit.py -mo BAND_ORDER={order} FILE"
        )
    return (
        f"name the bands in the file, all in its order: gdal_edit.py -mo BAND_ORDER={order} FILE "
        f"(or, for cromss prepare alone: {known.name}_bands={order})"
    )


def _product(known: Sensor, tags: Mapping[str, str], setting: str | None, where: str) -> str:
    if setting is not None and setting not in known.products:
        raise BandError(f"unknown {known.title} product", got=setting, expected=list(known.products), where=where)
    if len(known.products) == 1:
        return setting or next(iter(known.products))
    text = tags.get("LEVEL", tags.get("PROCESSING_LEVEL", ""))
    match = re.search(r"(1C|2A)", text.upper())
    tagged = f"L{match.group(1)}" if match else None
    if tagged and setting and tagged != setting:
        raise DataError(
            "a file says that it is another product than the setting",
            got=f"tag LEVEL = {text}",
            expected=f"s2_product = {setting}",
            where=where,
            do="leave s2_product out to use the tags, or take the file out",
        )
    found = tagged or setting
    if found is None:
        raise DataError(
            "nothing says which Sentinel-2 product a file is",
            got=f"tag LEVEL = {text!r}" if text else "no tag LEVEL",
            expected="L1C (top of the atmosphere) or L2A (surface); their statistics differ",
            where=where,
            do="give s2_product=L1C or s2_product=L2A",
        )
    return found


def _check_storage(known: Sensor, dataset: rasterio.DatasetReader, tags: Mapping[str, str]) -> None:
    types = set(dataset.dtypes)
    if not all(known.takes(name) for name in types):
        unit = {"s1": "backscatter in dB", "s2": "DN = reflectance * 10000"}.get(known.name, known.unit)
        raise RangeError(
            f"a {known.title} file has the wrong type",
            got=", ".join(sorted(types)),
            expected=f"{unit}, as {' or '.join(known.file_dtypes or (known.dtype,))}",
            where=dataset.name,
            do=f"convert the values to {unit} and write {known.dtype}",
        )
    scales = set(zip(dataset.scales, dataset.offsets, strict=True))
    # scale 0.0001 says "divide by 10000 for reflectance", which is just what DN means
    allowed = {(1.0, 0.0)} | ({(0.0001, 0.0)} if known.name == "s2" else set())
    if not scales <= allowed:
        raise RangeError(
            f"a {known.title} file carries a scale or offset",
            got="; ".join(f"scale {scale:g}, offset {offset:g}" for scale, offset in sorted(scales)),
            expected=f"values that are {known.unit} as they stand",
            where=dataset.name,
            do="apply scale and offset, write the result, and remove the tags",
        )
    unit = tags.get("UNITS", "")
    if known.name != "s2" and unit and unit.strip().casefold() != known.unit.casefold():
        do = "convert it with 10 * log10(power) and set the tag" if known.name == "s1" else None
        raise RangeError(
            f"a {known.title} file is in another unit",
            got=f"tag UNITS = {unit}",
            expected=known.unit,
            where=dataset.name,
            do=do or f"convert the file, or correct its tag or the unit of {known.name}",
        )


def read_image(
    source: str | Path | rasterio.DatasetReader,
    facts: ImageFacts | Sensor | str,
    bands: Sequence[str],
    window: tuple[int, int, int, int] | None = None,
    *,
    fill: bool = False,
) -> Raster:
    """Read `bands` by name, in that order, from a file or an open raster; `facts`: from `describe_image`, or a sensor.

    values_BHW: in the sensor's type and unit, as float32 dB (s1) or uint16 DN (s2). valid_HW: False where the file
    declares no data: in any band, or in all that it really holds (s2), as the sensor says. An offset of the file is
    taken off. window: row, column, height, width.
    fill: 0 in every band is no data, too, although the file does not declare it; otherwise such pixels are refused.
    Raises BandError for an absent band, RangeError for values that cannot be in the unit or an undeclared fill.
    """
    if isinstance(source, str | Path):
        with open_raster(source) as dataset:
            return read_image(dataset, facts, bands, window, fill=fill)
    if isinstance(facts, str | Sensor):
        facts = describe_image(source, facts)
    known = facts.sensor
    _require_bands(facts, bands, source.name)
    values_BHW, missing, grid = read_pixels(source, window)
    present = [index for name, index in facts.names.items() if name not in facts.absent]
    valid_HW = np.logical_not(missing.in_all(present) if known.missing == "all" else missing.in_any(present))
    if fill:
        valid_HW &= (_pick(values_BHW, present) != 0).any(axis=0)
    elif known.zero_is_fill:
        _refuse_undeclared_fill(known, _pick(values_BHW, present), valid_HW, source)
    chosen_BHW = _pick(values_BHW, [facts.names[name] for name in bands])
    check_values(known, chosen_BHW, valid_HW, bands, source.name)
    clipped_bands = 0
    if facts.offset:
        chosen_BHW, clipped_bands = take_off(chosen_BHW, valid_HW, facts.offset, source.name)
    return Raster(
        values_BHW=chosen_BHW.astype(known.dtype, copy=False),
        valid_HW=valid_HW,
        band_names=tuple(bands),
        grid=grid,
        tags=source.tags(),
        nodata=source.nodata,
        clipped_bands=clipped_bands,
    )


def _pick(values_BHW: NDArray[Any], bands: Sequence[int]) -> NDArray[Any]:
    """Bands by index; all of them in their order are not copied."""
    return values_BHW if list(bands) == list(range(len(values_BHW))) else values_BHW[bands]


def _require_bands(facts: ImageFacts, bands: Sequence[str], where: str) -> None:
    held = [name for name in facts.names if name not in facts.absent]
    lacking = [name for name in bands if name not in held]
    if not lacking:
        return
    known, product = facts.sensor, facts.product
    if known.ordered:
        raise BandError(
            f"a {known.title} file has no {', '.join(lacking)}",
            got=f"{', '.join(held)}; the file calls its bands {', '.join(facts.listed)}",
            expected=", ".join(bands),
            where=where,
            do=f"say with band_names what the file calls them, or leave them out of the bands of {known.name}",
        )
    never = [name for name in lacking if name not in known.products[product]]
    raise BandError(
        f"a {known.title} file of product {product} has no {', '.join(lacking)}"
        + (" (no file of this product has)" if never else ""),
        got=", ".join(held),
        expected=", ".join(bands),
        where=where,
        do=f"choose bands without {', '.join(lacking)}: {known.name}_bands="
        + ("12" if never == ["B10"] == lacking and len(held) == 12 else ",".join(b for b in bands if b in held))
        if set(bands) & set(held)
        else f"choose bands that the file has: {known.name}_bands={','.join(held)}, or another file",
    )


def _refuse_undeclared_fill(
    known: Sensor, values_BHW: NDArray[Any], valid_HW: NDArray[np.bool_], source: rasterio.DatasetReader
) -> None:
    """For sensors of which 0 in every band is no measurement, whatever else a file declares as no data."""
    if source.nodata is not None and len(values_BHW) == 1:
        return  # one band alone may be 0
    zero_HW = valid_HW
    for values_HW in values_BHW:  # most images have a value everywhere, as the first band or two show
        zero_HW = zero_HW & (values_HW == 0)
        if not zero_HW.any():
            return
    raise RangeError(
        f"a {known.title} file has pixels that are 0 in every band, and declares "
        + ("no no-data value" if source.nodata is None else f"only {source.nodata:g} as no data"),
        got=f"{int(zero_HW.sum())} of {valid_HW.size} pixels",
        expected="a declared no-data value: 0 in every band is no measurement",
        where=source.name,
        do="declare it: gdal_edit.py -a_nodata 0 FILE",
    )
