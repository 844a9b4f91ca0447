"""Label maps that err: as a function of the image, as Dynamic World does, or by chance, patch by patch.

In: Sentinel-2 images, skies, truth. Out: uint8 labels (T, H, W), about 29% of them wrong, half of these in several
seasons.

systematic: scores = Gaussian discriminant of the pixel and its 3x3 neighbourhood, fitted on a few scenes
            + bias[class] of the world, the place and the season;  labels = argmax of the blurred softmax.
            Clouds become snow or built, shadows water, and small objects vanish. A second sensor can find such errors.
idiosyncratic: blobs take a class at random, some for all seasons and some for one. No image explains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cromss.data.synthetic.fields import Array, cells, correlated, scramble, uniform
from cromss.data.synthetic.landscape import BUILT, CLASSES, FLOODED, GRASS, SNOW, TREES, WATER, Labels
from cromss.data.synthetic.sky import Sky
from cromss.data.synthetic.spectra import BANDS

__all__ = ["Labeller", "fit_labeller", "label_at_random", "label_from_image"]

SEEN = tuple(BANDS.index(name) for name in ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"))  # as Dynamic World
GRAINY = tuple(SEEN.index(BANDS.index(name)) for name in ("B3", "B8", "B11"))  # bands whose local spread is a feature
STRIDE = 7  # px: every 7th pixel of the fitting scenes is used, few enough to be nearly independent
BORROWED = 100.0  # pixels of common spread that each class takes in
PLACE_PX = 128  # px: the biases of a larger scene change over it as they change from place to place
BLUR_PX = 1.0  # standard deviation of the blur of the probabilities
# Standard deviations of the biases, in units of a score (log odds): most errors are those of one place or season.
WORLD_BIAS = 0.2
PLACE_BIAS = 1.6
SEASON_BIAS = 1.2
LENIENT = {GRASS: 0.7, FLOODED: 0.4, TREES: 0.15}  # log odds; classes that the labeller hands out too freely
OPAQUE = 0.4  # opacity above which cloud or shadow decides the label

BLOB_PX = 6.0
LASTING_SHARE = 0.115  # share of the blobs relabelled for all seasons, and for one
PASSING_SHARE = 0.20


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """Gaussians of the classes in the discriminant plane of the features.

    score_c = offset_c - |(features - mean) @ plane @ shape_c - centre_c|^2 / 2
    """

    mean: Array  # (features,)
    plane: Array  # (features, axes)
    shapes: Array  # (classes, axes, axes)
    centres: Array  # (classes, axes)
    offsets: Array  # (classes,) log odds

    def scores(self, image: npt.NDArray[np.uint16]) -> Array:
        """Log odds of each class, (classes, H, W), of an image (13, H, W)."""
        features = _features(image) - self.mean[:, None, None]
        axes = np.einsum("fa,fhw->ahw", self.plane, features)
        scores = np.empty((CLASSES, *image.shape[1:]))
        for label in range(CLASSES):
            away = np.einsum("ab,ahw->bhw", self.shapes[label], axes) - self.centres[label][:, None, None]
            scores[label] = self.offsets[label] - 0.5 * np.einsum("bhw,bhw->hw", away, away)
        return scores


def _features(image: npt.NDArray[np.uint16]) -> Array:
    """What the labeller sees of an image (13, H, W): (features, H, W) logs of pixels, of 3x3 means, and 3x3 spreads."""
    logs = np.log(image[list(SEEN)].astype(np.float64))
    means = ndimage.uniform_filter(logs, (0, 3, 3), mode="nearest")
    grainy = list(GRAINY)
    squares = ndimage.uniform_filter(logs[grainy] ** 2, (0, 3, 3), mode="nearest")
    spreads = np.sqrt(np.maximum(squares - means[grainy] ** 2, 0.0) + 1e-6)
    return np.concatenate([logs, means, np.log(spreads)])


def _plane(centred: Array, labels: Labels, means: Array) -> Array:
    """The axes along which the classes lie apart most, against their spread; (features, axes)."""
    within = centred - means[labels].T
    covariance = np.einsum("fn,gn->fg", within, within) / labels.size + 1e-3 * np.eye(len(centred))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    _, _, axes = np.linalg.svd(means @ whiten, full_matrices=False)
    return np.asarray(whiten @ axes[: CLASSES - 1].T)


def fit_labeller(
    rng: np.random.Generator, images: Sequence[npt.NDArray[np.uint16]], truths: Sequence[Labels]
) -> Labeller:
    """Fit the labeller on a few images (13, H, W) and their truth (H, W), and draw the world's bias.

    The numbers are rounded, so that the last bits of a platform's linear algebra hardly ever change a label.
    """
    grids = [_features(image)[:, ::STRIDE, ::STRIDE] for image in images]
    features = np.concatenate([grid.reshape(len(grid), -1) for grid in grids], 1)
    labels = np.concatenate([truth[::STRIDE, ::STRIDE].ravel() for truth in truths])
    mean = features.mean(1)
    counts = np.bincount(labels, minlength=CLASSES)
    centred = features - mean[:, None]
    means = np.stack([centred[:, labels == c].sum(1) / max(counts[c], 1) for c in range(CLASSES)])
    plane = _plane(centred, labels, means)
    points = np.einsum("fa,fn->an", plane, centred)
    shapes, centres, offsets = [], [], []
    for label, count in enumerate(counts):
        away = points[:, labels == label] - (means[label] @ plane)[:, None]
        # a class of few pixels borrows the common spread, which is 1 along every axis
        covariance = (np.einsum("an,bn->ab", away, away) + BORROWED * np.eye(len(points))) / (count + BORROWED)
        shapes.append(np.linalg.inv(np.linalg.cholesky(covariance)).T)
        centres.append(means[label] @ plane @ shapes[-1])
        offsets.append(np.log(max(count, 1) / labels.size) - 0.5 * np.linalg.slogdet(covariance)[1])
    bias = WORLD_BIAS * rng.standard_normal(CLASSES)
    for label, extra in LENIENT.items():
        bias[label] += extra
    return Labeller(
        mean=mean.round(6),
        plane=plane.round(6),
        shapes=np.stack(shapes).round(6),
        centres=np.stack(centres).round(6),
        offsets=(np.array(offsets) + bias).round(6),
    )


def _bias_field(rng: np.random.Generator, size: int) -> Array:
    """A bias of each class, (classes, size, size), of unit variance everywhere; the same all over a single place."""
    places = -(-size // PLACE_PX)
    centres = np.clip((np.arange(size) + 0.5) * places / size - 0.5, 0, places - 1)
    share = np.maximum(1 - np.abs(centres[:, None] - np.arange(places)), 0.0)
    share /= np.sqrt((share**2).sum(1, keepdims=True))
    return np.asarray(np.einsum("yi,cij,xj->cyx", share, rng.standard_normal((CLASSES, places, places)), share))


def label_from_image(
    rng: np.random.Generator, labeller: Labeller, images: npt.NDArray[np.uint16], skies: Sequence[Sky]
) -> Labels:
    """Labels (T, H, W) that the labeller gives to images (T, 13, H, W) under their skies."""
    here = PLACE_BIAS * _bias_field(rng, images.shape[2])
    labels = np.empty((len(images), *images.shape[2:]), np.uint8)
    for season, (image, sky) in enumerate(zip(images, skies, strict=True)):
        scores = labeller.scores(image) + here + SEASON_BIAS * _bias_field(rng, image.shape[1])
        odds = np.exp(scores - scores.max(0))
        odds = ndimage.gaussian_filter(odds / odds.sum(0), (0, BLUR_PX, BLUR_PX), mode="nearest")
        labels[season] = np.argmax(odds, 0)
        built = correlated(rng, image.shape[1], 12.0) > 0.6
        labels[season][sky.cloud > OPAQUE] = np.where(built, BUILT, SNOW)[sky.cloud > OPAQUE]
        labels[season][sky.shadow > OPAQUE] = WATER
    return labels


def label_at_random(rng: np.random.Generator, truth: Labels) -> Labels:
    """Labels (T, H, W) in which blobs of the truth took another class at random, for all seasons or for one."""
    size = truth.shape[1]
    row, column = np.mgrid[:size, :size] + np.stack([2.0 * correlated(rng, size, 3.0) for _ in range(2)])
    blobs = cells(column / BLOB_PX, row / BLOB_PX, int(rng.integers(2**62)), jitter=0.9)
    salts = rng.integers(2**62, size=len(truth) + 1)
    labels = truth.copy()
    for salts_of_season in zip(salts[1:], labels, strict=True):
        salt, layer = salts_of_season
        for key, share in (
            (scramble(blobs, int(salt)), PASSING_SHARE),
            (scramble(blobs, int(salts[0])), LASTING_SHARE),
        ):
            hit = uniform(key) < share
            step = 1 + (uniform(scramble(key, 1)) * (CLASSES - 1)).astype(np.uint8)
            layer[hit] = ((layer + step) % CLASSES)[hit]
    return labels
