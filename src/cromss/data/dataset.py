"""From the training store to a sample that a network takes: cut, turned, normalised, with its label prior.

In: a (epoch, place, season) key. Out: images in the network's scale, labels, prior and truth of one season.

    season, geometry   drawn from a generator keyed by (seed, epoch, place), nothing else: any process gives the same
    annotator          drawn likewise, by a generator of its own, of those that have labels at the place
    images             Normalization.apply(values); pixels without data become the scaled band mean (0.5 or 0)
    labels             255 (ignored) where there is no class, and where the images have no data
    probabilities      levels of each class, where the store has any; 0 where the label is ignored. They are those of
                       the annotator that was drawn, all of its label's class where that one gave none
    prior              label_prior of the window with its surroundings (data/label_window), or the labels for it:
                       probabilities of annotators that gave them, labels of the others
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cromss.data.augment import Geometry, draw_geometry
from cromss.data.label_window import PriorMaker, shares_of
from cromss.data.sampling import SampleKey
from cromss.data.soft_labels import levels_of_labels
from cromss.data.store.layout import PROBABILITIES, soft_layer
from cromss.data.store.reader import Store
from cromss.errors import ArgumentError, BandError, MissingDataError
from cromss.geo.bands import Normalization
from cromss.geo.legend import IGNORE

__all__ = ["LABEL_SOURCES", "PRIOR_ON", "PatchDataset", "Sample", "collate", "count_unscored"]

Sample = dict[str, Any]
"""Sensor -> float32 (B, h, w); "labels" uint8 (h, w), 255 ignored; "probabilities" uint8 (C, h, w), levels of
`soft_labels`, where the store has any; "prior" float32 (C, h, w) where one is asked for, or what the device makes it
of: "prior_labels" uint8 (T, [C,] h + 2 m, w + 2 m), "season" int64 (), the entry of T that was drawn; "truth" uint8
(h, w) if the store has any, all 255 where this place has none; "id", a str."""

LABEL_SOURCES = ("labels", "truth")

PRIOR_ON = ("worker", "device")

FILL: Mapping[str, float] = {"paper": 0.5, "standard": 0.0}
"""Network input of a pixel without data, by kind of normalization: the mean of the band."""


class PatchDataset:
    """Samples of a store by (epoch, place, season); season -1 stands for one drawn at random.

    normalizations: sensor -> its bands and scaling; other sensors of the store are not read. crop: pixels, None for the
    whole tile. flip, rotate: probabilities, see `draw_geometry`. prior: "ts", "t", "s" or None; sigma is in pixels and
    truncate in sigmas; prior_on: "worker" makes it here, "device" hands on what it is made of (`prior_maker`).
    label_source: what goes by the name "labels", the store's "labels" or its exact "truth". Of several annotators one
    is drawn for each sample; evaluation takes the first, and all is ignored where that one has no labels. soft: hand on
    class probabilities, and make priors of them, where the store has any.
    training False: no augmentation, and whole tiles. Raises ArgumentError, BandError or MissingDataError when the store
    cannot give this.
    """

    def __init__(
        self,
        store: Store,
        normalizations: Mapping[str, Normalization],
        *,
        crop: int | None = None,
        flip: float = 0.5,
        rotate: float = 0.2,
        prior: str | None = None,
        sigma: float = 3.0,
        truncate: float = 4.0,
        prior_on: str = "worker",
        label_source: str = "labels",
        soft: bool = False,
        seed: int = 0,
        training: bool,
    ) -> None:
        if prior_on not in PRIOR_ON:
            raise ArgumentError("unknown place to make priors", got=prior_on, expected=PRIOR_ON)
        if label_source not in LABEL_SOURCES:
            raise ArgumentError("unknown source of labels", got=label_source, expected=LABEL_SOURCES)
        if not (0 <= flip <= 1 and 0 <= rotate <= 1) or (crop is not None and crop < 1):
            raise ArgumentError(
                "this augmentation cannot be",
                got=f"crop {crop}, flip {flip}, rotate {rotate}",
                expected="crop >= 1, 0..1",
            )
        if not store.has(label_source):
            raise MissingDataError(f"no place of the store has {label_source}", where=store.path)
        self.store, self.seed, self.training = store, seed, training
        self.num_classes = store.legend.num_classes
        self._crop, self._flip, self._rotate = (crop, flip, rotate) if training else (None, 0.0, 0.0)
        self.prior_maker: PriorMaker | None = None
        if prior is not None:
            self.prior_maker = PriorMaker(num_classes=self.num_classes, kind=prior, sigma=sigma, truncate=truncate)
        self._prior_on, self._source = prior_on, label_source
        self.soft = soft and store.soft and label_source == "labels"
        self._with_truth = store.has("truth")
        self._scalers = {name: _Scaler(store, normalization) for name, normalization in normalizations.items()}
        self._scratch = np.empty(0, np.uint8)

    def __getitem__(self, key: SampleKey) -> Sample:
        _, place, _ = key
        season, geometry = self._draw(key)
        source = self._layer(key)
        sensors, layers = tuple(self._scalers), self._layers(source)
        raw = self.store.read(place, season, sensors=sensors, layers=layers, scratch=self._scratch_for(place))
        products = self.store.products(place)
        missing = ~geometry.apply(raw["valid"])
        complete = not missing.any()  # most are: then nothing is to be filled
        sample: Sample = {}
        for name, scaler in self._scalers.items():
            values = scaler(geometry.apply(raw[name]), products[name])
            if not complete:
                values[:, missing] = scaler.fill
            sample[name] = torch.from_numpy(values)
        if source not in raw and (self._source != "labels" or not self.store.labels_of(place)):
            raise MissingDataError(f"a place has no {self._source}", got=self.store.id(place), where=self.store.path)
        for name, array in {"labels": source, **({"truth": "truth"} if self._with_truth else {})}.items():
            layer = geometry.apply(raw[array]) if array in raw else np.full(missing.shape, IGNORE, np.uint8)
            if not complete:
                layer[missing] = IGNORE
            sample[name] = torch.from_numpy(layer)
        if self.soft:
            level_CHW = self._levels(raw.get(soft_layer(source)), sample["labels"], geometry)
            if not complete:
                level_CHW[:, missing] = 0
            sample[PROBABILITIES] = torch.from_numpy(level_CHW)
        if self.prior_maker is not None:
            sample |= self._prior_parts(self.prior_maker, place, season, source, geometry)
        sample["id"] = self._name(place, season, source)
        return sample

    def labels_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What the pixels of a batch are labelled: probabilities (B, C, h, w) of soft labels, else hard (B, h, w)."""
        labels: Tensor = shares_of(batch[PROBABILITIES]) if self.soft else batch["labels"]
        return labels

    def prefetch(self, keys: Sequence[SampleKey]) -> None:
        """Bring what these samples take to this machine, all at once, where the store is remote."""
        if self.store.files.remote:
            samples = [(key[1], self._season(key, self._generator(key))) for key in keys]
            sources = {self._layer(key) for key in keys}
            layers = {layer: None for source in sorted(sources) for layer in self._layers(source)}
            kinds = {kind: None for key in keys for kind in self._prior_layers(key[1])}
            self.store.prefetch(
                samples,
                sensors=tuple(self._scalers),
                layers=tuple(layers),
                kinds=tuple(kinds) if self.prior_maker is not None else (),
            )

    def describe(self, key: SampleKey) -> str:
        """The id "<place>/<season>" of the sample that `key` gives, without reading it.

        Where several annotators have labels, theirs is added: "<place>/<season>/<annotator>".
        """
        return self._name(key[1], self._season(key, self._generator(key)), self._layer(key))

    def _generator(self, key: SampleKey) -> np.random.Generator:
        epoch, place, _ = key
        return np.random.default_rng((self.seed, epoch, place))

    def _season(self, key: SampleKey, generator: np.random.Generator) -> int:
        _, place, season = key
        drawn = int(generator.integers(self.store.num_seasons(place)))
        if season != -1:
            return season
        if not self.training:
            raise ArgumentError("evaluation does not draw seasons", got=key, expected="a season of 0 or more")
        return drawn

    def _draw(self, key: SampleKey) -> tuple[int, Geometry]:
        place = key[1]
        generator = self._generator(key)
        season = self._season(key, generator)
        height, width = self.store.shape(place)
        if self._crop is not None and self._crop > min(height, width):
            raise ArgumentError(
                "a place is smaller than the crop",
                got=f"{height} x {width} px",
                expected=f"at least {self._crop} x {self._crop} px",
                where=self.describe(key),
                do="choose a smaller crop",
            )
        return season, draw_geometry(generator, height, width, crop=self._crop, flip=self._flip, rotate=self._rotate)

    def _annotators(self, place: int) -> tuple[str, ...]:
        """The layers that labels of this place can be drawn from."""
        return self.store.labels_of(place) if self._source == "labels" else (self._source,)

    def _layer(self, key: SampleKey) -> str:
        """The layer that "labels" are taken from: of one annotator, drawn, or the first for evaluation."""
        epoch, place, _ = key
        there = self._annotators(place)
        if not self.training or len(there) < 2:
            return there[0] if self.training and there else self._source
        return there[int(np.random.default_rng((self.seed, epoch, place, 1)).integers(len(there)))]

    def _layers(self, source: str) -> tuple[str, ...]:
        """The arrays beside images that a sample with labels of layer `source` takes."""
        return (source, *(["truth"] if self._with_truth else []), *self._soft_layers(source))

    def _soft_layers(self, source: str) -> tuple[str, ...]:
        """The array of probabilities beside labels of layer `source`; none where they are hard, or taken so."""
        return (soft_layer(source),) if self.soft and soft_layer(source) in self.store.soft_layers else ()

    def _levels(self, level_CHW: NDArray[np.uint8] | None, labels_HW: Tensor, geometry: Geometry) -> NDArray[np.uint8]:
        """The probabilities of a sample (C, h, w): stored ones (C, H, W) turned, or those of its hard labels (h, w)."""
        if level_CHW is None:
            return levels_of_labels(labels_HW.numpy(), self.num_classes)
        return geometry.apply(level_CHW)

    def _prior_parts(self, maker: PriorMaker, place: int, season: int, source: str, geometry: Geometry) -> Sample:
        """The prior of a window, or, for the device, the labels and the entry of T that it is made of."""
        windows = [maker.window(self.store.read_labels(place, layer), geometry) for layer in self._prior_layers(place)]
        entry = self._annotators(place).index(source) * len(windows[0]) + season
        if self.soft:
            windows = [part if part.ndim == 4 else levels_of_labels(part, self.num_classes) for part in windows]
        window_THW = windows[0] if len(windows) == 1 else np.concatenate(windows)
        if self._prior_on == "device":
            return {"prior_labels": torch.from_numpy(window_THW), "season": torch.tensor(entry)}
        return {"prior": maker.prior_of_one(window_THW, entry)}

    def _prior_layers(self, place: int) -> tuple[str, ...]:
        """What the prior of a place is made of: the probabilities, or else the label map, of each annotator."""
        return tuple((*self._soft_layers(layer), layer)[0] for layer in self._annotators(place))

    def _name(self, place: int, season: int, source: str) -> str:
        name = f"{self.store.id(place)}/{self.store.season_name(place, season)}"
        if len(self.store.annotators) < 2 or source not in self.store.label_layers:
            return name
        return f"{name}/{self.store.annotators[self.store.label_layers.index(source)]}"

    def _scratch_for(self, place: int) -> NDArray[np.uint8]:
        """A buffer that a read of this place fits in, kept from sample to sample."""
        size = self.store.season_bytes(place)
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch


class _Bytes(NamedTuple):
    """What the 8-bit values of a product stand for, band by band: 0..1 over mean +- 2 std, as in the paper."""

    as_wanted: bool
    """They are scaled by the statistics that the network's input is."""
    mean_B11: NDArray[np.float32]
    std_B11: NDArray[np.float32]


class _Scaler:
    """Stored values of one sensor -> network input, for the store's edition."""

    def __init__(self, store: Store, normalization: Normalization) -> None:
        name = normalization.sensor
        stored = store.sensors.get(name, ())
        missing = [band for band in normalization.bands if band not in stored]
        if missing:
            raise BandError(
                f"the store lacks bands of {name}",
                got=stored or f"no {name}",
                expected=normalization.bands,
                where=store.path,
            )
        if normalization.unit != store.definitions[name].unit:
            raise BandError(
                f"the store holds {name} in another unit than the network takes it in",
                got=store.definitions[name].unit,
                expected=normalization.unit,
                where=store.path,
                do="prepare the store again from files in that unit",
            )
        everything = normalization.bands == stored
        self._bands = slice(None) if everything else [stored.index(band) for band in normalization.bands]
        self._normalization = normalization
        self.fill = np.float32(FILL[normalization.kind])
        scaling, self._steps = store.scaling(name), store.steps(name)
        self._stored: dict[str, _Bytes | None] = {}
        for product in store.product_names(name):
            # a product without statistics is found now, not in the middle of an epoch
            normalization.apply(np.empty((len(normalization.bands), 0, 0), np.float32), product)
            self._stored[product] = None if scaling is None else self._bytes(scaling, product)

    def __call__(self, values_BHW: NDArray[Any], product: str) -> NDArray[np.float32]:
        values_BHW, stored = values_BHW[self._bands], self._stored[product]
        if stored is None:
            return self._normalization.apply(self._steps.undo(values_BHW) if self._steps else values_BHW, product)
        unit_BHW = np.divide(values_BHW, np.float32(255), dtype=np.float32)
        if stored.as_wanted:
            return unit_BHW if self._normalization.kind == "paper" else _deviations(unit_BHW)
        return self._normalization.apply(stored.mean_B11 + _deviations(unit_BHW) * stored.std_B11, product)

    def _bytes(self, scaling: Normalization, product: str) -> _Bytes:
        stored = {name: self._pick(numbers) for name, numbers in scaling.statistics[product].items()}
        wanted = {name: tuple(numbers) for name, numbers in self._normalization.statistics[product].items()}
        mean_B11, std_B11 = (np.array(stored[name], np.float32)[:, None, None] for name in ("mean", "std"))
        return _Bytes(stored == wanted, mean_B11, std_B11)

    def _pick(self, numbers: Sequence[float]) -> tuple[float, ...]:
        return tuple(numbers) if isinstance(self._bands, slice) else tuple(numbers[i] for i in self._bands)


def _deviations(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0..1 over mean +- 2 std to standard deviations from the mean."""
    deviations: NDArray[np.float32] = unit * np.float32(4) - np.float32(2)
    return deviations


def count_unscored(store: Store, places: Iterable[int], label_source: str = "labels") -> int:
    """How many of these places have no labels of the first annotator, by whom they would be scored."""
    if label_source != "labels":
        return 0
    return sum("labels" not in store.labels_of(place) for place in places)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples of one shape into a batch: tensors get a leading B, "id" becomes a list of names.

    Raises ArgumentError, naming the samples, when their parts or shapes differ.
    """
    batch: dict[str, Any] = {"id": [sample["id"] for sample in samples]}
    names = samples[0].keys() - {"id"}
    for sample in samples:
        differing = [n for n in names & sample.keys() if sample[n].shape != samples[0][n].shape]
        if sample.keys() != samples[0].keys() or differing:
            raise ArgumentError(
                "samples of one batch differ",
                got=f"{sample['id']}: {_shapes(sample)}",
                expected=f"{samples[0]['id']}: {_shapes(samples[0])}",
                do="set a crop that fits all places, and give all of them the same kinds of labels",
            )
    for name in samples[0]:
        if name != "id":
            batch[name] = torch.stack([sample[name] for sample in samples])
    return batch


def _shapes(sample: Sample) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in sample.items() if name != "id")
