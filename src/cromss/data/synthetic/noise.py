"""Label maps that err: as a function of the image, as Dynamic World does, or by chance, patch by patch.

In: Sentinel-2 images, skies, truth. Out: uint8 labels (T, H, W), about 29% of them wrong, half of these in several
seasons.

systematic: scores = linear discriminant of the pixel and its 3x3 neighbourhood, fitted on a few scenes
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
from cromss.data.synthetic.landscape import BUILT, CLASSES, GRASS, SNOW, WATER, Labels
from cromss.data.synthetic.sky import Sky
from cromss.data.synthetic.spectra import BANDS

__all__ = ["Labeller", "fit_labeller", "label_at_random", "label_from_image"]

SEEN = tuple(BANDS.index(name) for name in ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"))  # as Dynamic World
GRAINY = tuple(SEEN.index(BANDS.index(name)) for name in ("B3", "B8", "B11"))  # bands whose local spread is a feature
STRIDE = 7  # px: every 7th pixel of the fitting scenes is used, few enough to be nearly independent
SOFTNESS = 1.5  # temperature of the softmax
BLUR_PX = 1.3  # standard deviation of the blur of the probabilities
WORLD_BIAS = 0.5  # standard deviations of the biases, in units of a score (log odds)
PLACE_BIAS = 0.9
SEASON_BIAS = 0.9
LENIENT = {GRASS: 1.0}  # classes that the labeller hands out too freely
OPAQUE = 0.4  # opacity above which cloud or shadow decides the label

BLOB_PX = 6.0
LASTING_SHARE = 0.19  # share of the blobs relabelled for all seasons, and for one
PASSING_SHARE = 0.16


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """A linear discriminant: scores = (features - mean) @ weights + bias; weights (features, classes)."""

    mean: Array
    weights: Array
    bias: Array


def _features(image: npt.NDArray[np.uint16]) -> Array:
    """What the labeller sees of an image (13, H, W): (features, H, W) logs of pixels, of 3x3 means, and 3x3 spreads."""
    logs = np.log(image[list(SEEN)].astype(np.float64))
    means = ndimage.uniform_filter(logs, (0, 3, 3), mode="nearest")
    grainy = list(GRAINY)
    squares = ndimage.uniform_filter(logs[grainy] ** 2, (0, 3, 3), mode="nearest")
    spreads = np.sqrt(np.maximum(squares - means[grainy] ** 2, 0.0) + 1e-6)
    return np.concatenate([logs, means, np.log(spreads)])


def fit_labeller(
    rng: np.random.Generator, images: Sequence[npt.NDArray[np.uint16]], truths: Sequence[Labels]
) -> Labeller:
    """Fit the discriminant on a few images (13, H, W) and their truth (H, W), and draw the world's bias.

    The numbers are rounded, so that the last bits of a platform's linear algebra cannot change a label.
    """
    features = np.concatenate(
        [_features(image)[:, ::STRIDE, ::STRIDE].reshape(2 * len(SEEN) + 3, -1) for image in images], 1
    )
    labels = np.concatenate([truth[::STRIDE, ::STRIDE].ravel() for truth in truths])
    mean = features.mean(1)
    centred = features - mean[:, None]
    counts = np.bincount(labels, minlength=CLASSES)
    present = counts > 0
    means = np.stack([centred[:, labels == c].mean(1) if present[c] else np.zeros(len(mean)) for c in range(CLASSES)])
    within = centred - means[labels].T
    covariance = np.einsum("fn,gn->fg", within, within) / labels.size + 1e-3 * np.eye(len(mean))
    weights = np.linalg.solve(covariance, means.T)
    bias = -0.5 * np.einsum("cf,fc->c", means, weights) + np.log(np.maximum(counts, 1) / labels.size)
    bias = np.where(present, bias, -50.0) + WORLD_BIAS * rng.standard_normal(CLASSES)
    for label, extra in LENIENT.items():
        bias[label] += extra
    return Labeller(mean=mean.round(6), weights=weights.round(6), bias=bias.round(6))


def label_from_image(
    rng: np.random.Generator, labeller: Labeller, images: npt.NDArray[np.uint16], skies: Sequence[Sky]
) -> Labels:
    """Labels (T, H, W) that the labeller gives to images (T, 13, H, W) under their skies."""
    here = PLACE_BIAS * rng.standard_normal(CLASSES)
    labels = np.empty((len(images), *images.shape[2:]), np.uint8)
    for season, (image, sky) in enumerate(zip(images, skies, strict=True)):
        bias = labeller.bias + here + SEASON_BIAS * rng.standard_normal(CLASSES)
        centred = _features(image) - labeller.mean[:, None, None]
        scores = (np.einsum("fc,fhw->chw", labeller.weights, centred) + bias[:, None, None]) / SOFTNESS
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
