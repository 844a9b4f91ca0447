"""What several annotators say, each alone and against each other: figures of the prepare report.

In: records with the label maps of several annotators. Out: for each its places, labelled pixels and class shares, and
for each pair the share of the pixels with a label of both where both say the same.

Agreement is no accuracy: maps made from the same images, or from each other, agree where both are wrong.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cromss.data.record import PlaceRecord
from cromss.data.store.layout import label_layers
from cromss.geo.legend import IGNORE, Legend

__all__ = ["AnnotatorCounts", "summarize_annotators"]


@dataclass(kw_only=True)
class AnnotatorCounts:
    """Sums over places, by layer. pixels: of each layer and value; both and same: of each pair of layers."""

    total: int = 0
    places: Counter[str] = field(default_factory=Counter)
    pixels: Counter[tuple[str, int]] = field(default_factory=Counter)
    both: Counter[frozenset[str]] = field(default_factory=Counter)
    same: Counter[frozenset[str]] = field(default_factory=Counter)

    def add(self, record: PlaceRecord) -> None:
        """Count one place."""
        self.total += 1
        maps = record.label_maps
        for layer in maps:
            self.places[layer] += 1
            self.pixels.update({(layer, value): pixels for value, pixels in record.label_counts[layer].items()})
        for names in itertools.combinations(maps, 2):
            pair, (first, second) = frozenset(names), (maps[layer] for layer in names)
            both = (first != IGNORE) & (second != IGNORE)
            self.both[pair] += int(both.sum())
            self.same[pair] += int((both & (first == second)).sum())

    def merge(self, other: AnnotatorCounts) -> None:
        """Add the sums of other places."""
        self.total += other.total
        self.places.update(other.places)
        self.pixels.update(other.pixels)
        self.both.update(other.both)
        self.same.update(other.same)


def summarize_annotators(
    counts: Iterable[AnnotatorCounts], legend: Legend, names: Sequence[str], soft: Container[str] = ()
) -> dict[str, Any]:
    """The parts "annotators" and "agreement" of the report (JSON types); nothing where there are not several.

    soft: the layers of labels with class probabilities.
    """
    if len(names) < 2:
        return {}
    total = AnnotatorCounts()
    for count in counts:
        total.merge(count)
    layers = dict(zip(label_layers(names), names, strict=True))
    return {
        "annotators": {name: _describe(total, layer, legend, layer in soft) for layer, name in layers.items()},
        "agreement": [
            {"annotators": [layers[layer] for layer in pair], **_agreement(total, frozenset(pair))}
            for pair in itertools.combinations(layers, 2)
        ],
    }


def _agreement(total: AnnotatorCounts, pair: frozenset[str]) -> dict[str, Any]:
    both = total.both[pair]
    return {"pixels": both, "share": total.same[pair] / both if both else None}


def _describe(total: AnnotatorCounts, layer: str, legend: Legend, soft: bool) -> dict[str, Any]:
    pixels = [total.pixels[layer, index] for index in range(legend.num_classes)]
    labelled = sum(pixels)
    shares = {name: count / labelled for name, count in zip(legend.names, pixels, strict=True)} if labelled else {}
    return {
        "places": total.places[layer],
        "places_without": total.total - total.places[layer],
        "labelled_pixels": labelled,
        "probabilities": soft,
        "class_shares": shares,
    }
