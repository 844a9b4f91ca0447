"""What a user should know before training, said in words: from the figures of the prepare report.

In: the figures of a set (JSON types). Out: findings, the gravest first: what was found, and what to do about it.
Nothing here refuses anything: these are faults of a whole set, which no single file proves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cromss.data.survey.clouds import told_by
from cromss.data.survey.shift_survey import ALARM_PX
from cromss.geo.sensor import SENSORS

__all__ = ["findings"]

_FEW = 0.02  # share of images that may look otherwise: cloud, snow and desert do
_EIGHT_BITS = 255
_CLOUDY = 0.05  # share of the pixels of a split under cloud
_FEW_SHIFTED = 0.05  # share of measurable places that may lie off


def findings(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Findings as {"what": ..., "do": ...}; figures: of `summarize` and `SetStatistics.summary`."""
    found = [
        *_offsets(figures["images"]),
        *_products(figures["images"]),
        *_units(figures["images"]),
        *_unscaled(figures),
        *_shifts(figures),
        *_splits(figures["splits"]),
        *_clouds(figures.get("clouds", {})),
    ]
    return [{"what": what, "do": do} for what, do in found]


def _offsets(images: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for entry in images:
        count, total = entry.get("looks_offset_by_1000", 0), entry["images"]
        if count > _FEW * total:
            yield (
                f"{count} of {total} Sentinel-2 {entry['product']} images look as if 1000 DN were added to every value "
                f"(processing baseline 04.00 and later), such as {entry['examples']['offset'][0]}",
                "If so, prepare again with s2_offset=1000; where only some of the files have it, set their tag "
                "RADIO_ADD_OFFSET or BOA_ADD_OFFSET to -1000.",
            )


def _products(images: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for entry in images:
        for look, count in entry.get("looks_like", {}).items():
            if look not in (entry["product"], "unknown") and count > _FEW * entry["images"]:
                yield (
                    f"{count} of {entry['images']} Sentinel-2 images that are declared as {entry['product']} look like "
                    f"{look}, such as {entry['examples'][look][0]}",
                    "Check the tag LEVEL of these files, or the setting s2_product: the statistics of both differ.",
                )


def _units(images: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Values that a single image may have, and a whole set has not."""
    for entry in images:
        bands = {row["band"]: row for row in entry["bands"]}
        if entry["sensor"] == "s1" and {"VV", "VH"} <= set(bands) and bands["VH"]["mean"] > bands["VV"]["mean"]:
            yield (
                f"VH is brighter than VV in the Sentinel-1 images: {bands['VH']['mean']:.1f} and "
                f"{bands['VV']['mean']:.1f} dB on average, where it lies some 7 dB below",
                "Check which band is which; give their order by s1_bands, or correct their names in the files.",
            )
        if entry["sensor"] == "s2" and all(row["percentile_98"] <= _EIGHT_BITS for row in bands.values()):
            yield (
                f"Sentinel-2 {entry['product']} values hardly exceed {_EIGHT_BITS} DN, a reflectance of "
                f"{_EIGHT_BITS / 10000:.4f}, in any band: they look scaled to 8 bits",
                "If so, take the images as they were delivered: the statistics are of DN = reflectance * 10000.",
            )


def _unscaled(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Sensors that no training pixel shows, so that the store can not say how they are scaled."""
    for entry in figures["images"]:
        if entry["sensor"] not in (*SENSORS, *figures["scaling"]):
            yield (
                f"the set has no training split to take mean and std of {entry['title']} from",
                "It can be scored on with a checkpoint that has them; to train on it, prepare it with a train split.",
            )


def _shifts(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    titles = {entry["sensor"]: entry["title"] for entry in figures["images"]}
    for kind, entry in figures["shifts"].items():
        if entry["shifted"] <= _FEW_SHIFTED * entry["measurable"]:
            continue
        first, second = kind.split("-")
        lies = "the labels lie" if second == "labels" else f"{titles[second]} lies"
        worst = next(row for row in figures["shifted_places"] if row["pair"] == kind)
        yield (
            f"{lies} off {titles[first]} by {ALARM_PX:g} px or more in {entry['shifted']} of the "
            f"{entry['measurable']} images in which a shift can be measured (of {entry['measured']} tried); most in "
            f"{worst['id']}: {worst['length']:.1f} px",
            "Look at such places in the report; if they are really off, register them again, or leave them out.",
        )


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Classes that are scored but can not be learnt."""
    taught = splits.get("train", {}).get("class_shares", {})
    if not any(taught.values()):
        return
    for split, entry in splits.items():
        absent = [name for name, share in entry["class_shares"].items() if share and not taught.get(name)]
        if split not in ("train", "") and absent:
            yield (
                f"the {split} split holds classes that training never sees: {', '.join(absent)}",
                "Draw other splits, or add such places to training; their scores will be 0.",
            )


def _clouds(clouds: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Splits of which much is hidden, unless labels there were left out: a label says what the image does not show."""
    if clouds.get("labels_left_out"):
        return
    for split, entry in clouds.get("splits", {}).items():
        share = entry["cloud_share"]
        if share is not None and share > _CLOUDY:
            ground = "; B10 sees the ground, too, where that lies above some 1500 m" if "B10" in clouds["by"] else ""
            yield (
                f"{share:.1%} of the pixels of {split or 'no split'} are under cloud by {told_by(clouds)}",
                f"Leave labels there out (cloud_mask with mask_clouds=true), or choose clearer images{ground}.",
            )
