"""Several label maps of one image, made into one: by agreement, by majority, or by how often each map is right.

In: K maps on one grid, (K, H, W), class ids or 255. Out: a `LabelMap`.

    agree        the class that all maps with a label give, if at least `votes` do; else 255
    majority     the class with the largest sum of weights; 255 on a tie;  confidence = its share of all weights
    dawid_skene  p(c | votes) ~ prior_c prod_k error_k[c, vote_k],  prior and errors fitted by EM;  argmax and p

Dawid and Skene (1979) suppose that maps err independently of each other given the truth. Maps made from the same
image do not: their common errors count as evidence, and confidences come out too high. It takes three maps at least.
Equal votes are the same case, so the fit works on counts of distinct votes: as small for a country as for a tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cromss.data.labelling.soft import LabelMap
from cromss.errors import ArgumentError
from cromss.geo.legend import IGNORE

__all__ = [
    "Annotators",
    "agree",
    "count_map",
    "count_votes",
    "distinct_votes",
    "fit_annotators",
    "majority",
    "posterior",
    "shares_right",
]

_TIE = 1e-6  # sums of weights closer than this are equal
_SMOOTHING = 0.1  # pixels added to every cell of an error table, so that nothing is ever impossible
_MAX_ANNOTATORS = 6  # distinct votes are numbered with eight bits a map


def agree(votes_KHW: NDArray[np.uint8], votes: int = 2) -> LabelMap:
    """The class on which all maps with a label agree, where at least `votes` maps have one; else 255, counted."""
    known_KHW = votes_KHW != IGNORE
    lowest = votes_KHW.min(axis=0)  # 255 only where no map has a label
    highest = np.where(known_KHW, votes_KHW, 0).max(axis=0)
    enough = known_KHW.sum(axis=0) >= votes
    same = lowest == highest
    notes = Counter({"maps disagree": int((enough & ~same).sum()), "too few labels": int((~enough).sum())})
    return LabelMap(labels_HW=np.where(enough & same, lowest, IGNORE).astype(np.uint8), notes=notes)


def majority(votes_KHW: NDArray[np.uint8], num_classes: int, weight_KHW: NDArray[np.float32] | None = None) -> LabelMap:
    """The class with the most votes, each counted with its weight (0..1; None: 1); ties are 255, counted."""
    weights = np.ones(votes_KHW.shape, np.float32) if weight_KHW is None else weight_KHW
    sum_CHW = np.zeros((num_classes, *votes_KHW.shape[1:]), np.float32)
    for vote_HW, weight_HW in zip(votes_KHW, weights, strict=True):
        for number in range(num_classes):
            sum_CHW[number] += np.where(vote_HW == number, weight_HW, 0)
    total_HW = sum_CHW.sum(axis=0)
    best_HW = sum_CHW.max(axis=0)
    tied = (total_HW > 0) & ((sum_CHW >= best_HW - _TIE).sum(axis=0) > 1)
    decided = (total_HW > 0) & ~tied
    percent = np.rint(100 * best_HW / np.where(total_HW > 0, total_HW, 1))
    return LabelMap(
        labels_HW=np.where(decided, sum_CHW.argmax(axis=0), IGNORE).astype(np.uint8),
        confidence_HW=np.where(decided, percent, IGNORE).astype(np.uint8),
        notes=Counter({"tied": int(tied.sum()), "too few labels": int((total_HW == 0).sum())}),
    )


@dataclass(frozen=True, kw_only=True)
class Annotators:
    """Fitted maps: prior_C, the share of each class; error_KCL, how often map k says l where c is true (0..1)."""

    prior_C: NDArray[np.float64]
    error_KCL: NDArray[np.float64]
    steps: int


def count_votes(maps: Iterable[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct votes (N, K) of maps (K, H, W), and how many pixels gave each; those without a label left out."""
    counts: Counter[int] = Counter()
    width = 0
    for votes_KHW in maps:
        width = len(votes_KHW)
        counts.update(count_map(votes_KHW))
    return distinct_votes(counts, width)


def count_map(votes_KHW: NDArray[np.uint8]) -> Counter[int]:
    """How many pixels of one image gave each vote, by its number; the counts of images add up."""
    if len(votes_KHW) > _MAX_ANNOTATORS:
        raise ArgumentError("too many maps to fit", got=len(votes_KHW), expected=f"at most {_MAX_ANNOTATORS}")
    numbers, counts = np.unique(_numbers(votes_KHW), return_counts=True)
    return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def distinct_votes(counted: Mapping[int, int], width: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The votes (N, K) behind the counts of K = `width` maps, and the counts; the vote without a label left out."""
    counts = {number: count for number, count in counted.items() if number != 256**width - 1}  # 255 from every map
    numbers = sorted(counts)
    return _votes(np.array(numbers, np.int64), width), np.array([counts[number] for number in numbers], np.int64)


def fit_annotators(
    votes_NK: NDArray[np.uint8], count_N: NDArray[np.int64], num_classes: int, steps: int = 200, tolerance: float = 1e-6
) -> Annotators:
    """Fit prior and error tables by EM, from the majority; stops when no number moves by more than `tolerance`.

    Raises ArgumentError for fewer than three maps, or none with a label.
    """
    if votes_NK.shape[1] < 3 or not len(votes_NK):
        raise ArgumentError(
            "fitting how often maps are right takes three maps",
            got=f"{votes_NK.shape[1]} maps, {len(votes_NK)} distinct votes",
            expected="at least 3 maps with labels",
            do="use majority or agree",
        )
    known_NK = votes_NK != IGNORE
    truth_NC = np.stack([(votes_NK == c).sum(axis=1) for c in range(num_classes)], axis=1) / known_NK.sum(
        axis=1, keepdims=True
    )
    fitted = _tables(votes_NK, count_N, truth_NC, 0)
    for step in range(1, steps + 1):
        truth_NC = _truth(votes_NK, fitted)
        last, fitted = fitted, _tables(votes_NK, count_N, truth_NC, step)
        moved = max(np.abs(last.prior_C - fitted.prior_C).max(), np.abs(last.error_KCL - fitted.error_KCL).max())
        if moved < tolerance:
            break
    return fitted


def shares_right(annotators: Annotators) -> list[float]:
    """How often each map is right where it has a label, by the fit, 0..1."""
    right_KC = np.diagonal(annotators.error_KCL, axis1=1, axis2=2)
    return [float(share) for share in right_KC @ annotators.prior_C]


def posterior(votes_KHW: NDArray[np.uint8], annotators: Annotators) -> LabelMap:
    """The likeliest class of each pixel and its probability, given the votes; 255 where no map has a label."""
    number_M, place_HW = np.unique(_numbers(votes_KHW), return_inverse=True)
    votes_MK = _votes(number_M, len(votes_KHW))
    truth_MC = _truth(votes_MK, annotators)
    best_M = truth_MC.argmax(axis=1)
    known_M = (votes_MK != IGNORE).any(axis=1)
    labels_M = np.where(known_M, best_M, IGNORE).astype(np.uint8)
    percent_M = np.where(known_M, np.rint(100 * truth_MC.max(axis=1)), IGNORE).astype(np.uint8)
    place_HW = place_HW.reshape(votes_KHW.shape[1:])  # the shape that the library gives has changed between versions
    return LabelMap(
        labels_HW=labels_M[place_HW],
        confidence_HW=percent_M[place_HW],
        notes=Counter({"too few labels": int((~known_M)[place_HW].sum())}),
    )


def _numbers(votes_KHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """One number for the votes of each pixel, eight bits a map."""
    number_HW = np.zeros(votes_KHW.shape[1:], np.int64)
    for vote_HW in votes_KHW:
        number_HW = number_HW * 256 + vote_HW
    return number_HW


def _votes(number_M: NDArray[np.int64], maps: int) -> NDArray[np.uint8]:
    """The inverse of `_numbers`: (M, K)."""
    shifts = 8 * np.arange(maps - 1, -1, -1)
    return (number_M[:, None] >> shifts & 255).astype(np.uint8)


def _tables(
    votes_NK: NDArray[np.uint8], count_N: NDArray[np.int64], truth_NC: NDArray[np.float64], step: int
) -> Annotators:
    """The M step: weighted counts of what is true, and of what each map says where it is true."""
    weighted_NC = truth_NC * count_N[:, None]
    prior_C = weighted_NC.sum(axis=0)
    classes = truth_NC.shape[1]
    error_KCL = np.full((votes_NK.shape[1], classes, classes), _SMOOTHING)
    for k, vote_N in enumerate(votes_NK.T):
        for label in range(classes):
            error_KCL[k, :, label] += weighted_NC[vote_N == label].sum(axis=0)
    error_KCL /= error_KCL.sum(axis=2, keepdims=True)
    return Annotators(prior_C=prior_C / prior_C.sum(), error_KCL=error_KCL, steps=step)


def _truth(votes_NK: NDArray[np.uint8], annotators: Annotators) -> NDArray[np.float64]:
    """The E step: p(class | votes) of each distinct vote (N, C); a map without a label says nothing."""
    with np.errstate(divide="ignore"):  # a class that no map ever gives has prior 0, and log 0 is right
        score_NC = np.repeat(np.log(annotators.prior_C)[None], len(votes_NK), axis=0)
    for vote_N, error_CL in zip(votes_NK.T, annotators.error_KCL, strict=True):
        known_N = vote_N != IGNORE
        score_NC[known_N] += np.log(error_CL[:, vote_N[known_N]]).T
    score_NC -= score_NC.max(axis=1, keepdims=True)
    likelihood_NC = np.exp(score_NC)
    result: NDArray[np.float64] = likelihood_NC / likelihood_NC.sum(axis=1, keepdims=True)
    return result
