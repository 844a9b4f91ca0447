"""Each formula of the method once more, slowly: float64 NumPy, loops over pixels and classes, nothing shared with src.

Ignored pixels carry the label 255. Every function takes and returns arrays; a gradient is not computed here, the tests
take it by central differences of the losses.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import expit, log_softmax, softmax, xlogy

IGNORE = 255


def label_confidence(logits, labels):
    probs = softmax(np.asarray(logits, np.float64), axis=1)
    confidence = np.zeros(labels.shape)
    for b, h, w in np.ndindex(labels.shape):
        if labels[b, h, w] != IGNORE:
            confidence[b, h, w] = probs[b, labels[b, h, w], h, w]
    return confidence


def prediction_confidence(logits, kind="entropy"):
    probs = softmax(np.asarray(logits, np.float64), axis=1)
    if kind == "gini":
        return (probs**2).sum(axis=1)
    return 1.0 + xlogy(probs, probs).sum(axis=1) / math.log(probs.shape[1])


def entangle(confidence, other):
    return (confidence + confidence * other) / 2


def ramp(epoch, length=80, shape="exp"):
    if shape == "none" or epoch > length:
        return 1.0
    return epoch / length if shape == "linear" else math.exp(-5 * (1 - epoch / length) ** 2)


def label_weights(confidence, labels, ratio, num_classes, class_balanced=True):
    """Class by class: sort, take the k-th largest, divide. A zero threshold selects what is above 0, and the first."""
    weights = np.zeros(labels.shape)
    if ratio == 1.0:
        return (labels != IGNORE).astype(float)
    groups = [labels == c for c in range(num_classes)] if class_balanced else [labels != IGNORE]
    for group in groups:
        values = confidence[group]
        if values.size == 0:
            continue
        count = max(1, int(values.size * ratio))
        threshold = np.sort(values)[::-1][count - 1]
        weights[group] = np.minimum(1.0, values / threshold) if threshold > 0 else (values > 0)
        first = np.flatnonzero(group)[np.argmax(values)]
        weights.flat[first] = 1.0
    return weights


def prediction_weights(confidence, ramp_value):
    return np.maximum((1 - ramp_value) + ramp_value * confidence, 1e-12)


def one_hot(labels, num_classes):
    return np.stack([(labels == c).astype(np.float64) for c in range(num_classes)], axis=-3)


def shares_of(labels, num_classes):
    """What stands for onehot(y): soft labels themselves, or the one-hot of hard ones, over one more axis."""
    return np.asarray(labels, np.float64) if np.issubdtype(labels.dtype, np.floating) else one_hot(labels, num_classes)


def label_prior(labels, season, num_classes, kind="ts", sigma=3.0, truncate=4.0):
    """One Gaussian filter for each class and each of space and time; both masses are added before the division."""
    priors = []
    for stack, drawn in zip(labels, season, strict=True):
        shares = shares_of(stack, num_classes)
        space, time = shares[drawn], shares.mean(axis=0)
        mass = {"s": space, "t": time, "ts": (space + time) / 2}[kind]
        blurred = np.stack([gaussian_filter(plane, sigma, truncate=truncate, mode="reflect") for plane in mass])
        total = blurred.sum(axis=0)
        priors.append(np.where(total > 0, blurred / np.where(total > 0, total, 1), 1 / num_classes))
    return np.stack(priors)


def smooth_labels(labels, num_classes, prior=None, prior_weight=0.15, uniform_weight=0.05):
    if prior is None:
        prior = 1 / num_classes
    own = shares_of(labels, num_classes)
    target = (1 - prior_weight - uniform_weight) * own + prior_weight * prior + uniform_weight / num_classes
    return target * (own.sum(axis=1, keepdims=True) > 0)


def _weighted_mean(values, weight):
    return (values * weight).sum() / weight.sum() if weight.sum() > 0 else 0.0


def _weight(target, weight):
    labelled = (target.sum(axis=1) > 0).astype(np.float64)
    return labelled if weight is None else weight * labelled


def soft_cross_entropy(logits, target, weight=None):
    values = -(target * log_softmax(np.asarray(logits, np.float64), axis=1)).sum(axis=1)
    return _weighted_mean(values, _weight(target, weight))


def soft_dice_loss(logits, target, weight=None, kind="paper"):
    probs, weight = softmax(np.asarray(logits, np.float64), axis=1), _weight(target, weight)
    losses = []
    for c in range(target.shape[1]):
        q, z = probs[:, c], target[:, c]
        mass = (weight * (q + z)).sum()
        if z.sum() == 0 or mass == 0:
            continue
        distance = mass - 2 * (weight * q * z).sum() if kind == "paper" else (weight * abs(q - z)).sum()
        losses.append(distance / mass)
    return float(np.mean(losses)) if losses else 0.0


def focal_loss(logits, target, weight=None, gamma=2.0):
    probs = expit(np.asarray(logits, np.float64))
    binary = -xlogy(target, probs) - xlogy(1 - target, 1 - probs)
    return _weighted_mean(((1 - np.exp(-binary)) ** gamma * binary).sum(axis=1), _weight(target, weight))


def consistency_loss(logits, other_logits, weight, kind="ce"):
    log_q = log_softmax(np.asarray(logits, np.float64), axis=1)
    log_p = log_softmax(np.asarray(other_logits, np.float64), axis=1)
    p = np.exp(log_p)
    values = {"ce": -p * log_q, "kl": p * (log_p - log_q), "mse": (np.exp(log_q) - p) ** 2}[kind].sum(axis=1)
    return _weighted_mean(values, np.ones_like(values) if weight is None else weight)


def multi_branch_loss(
    logits,
    labels,
    target,
    epoch,
    confidence="entropy",
    ramp_shape="exp",
    final_ratio=0.5,
    class_balanced=True,
    losses=("ce", "dice"),
    consistency="ce",
    dice="paper",
    consistency_weight=1.0,
):
    """The whole, by the formulas above; returns the loss only."""
    names, classes, valid = list(logits), target.shape[1], labels != IGNORE
    r = ramp(epoch, shape=ramp_shape)
    in_labels = {n: label_confidence(logits[n], labels) for n in names}
    in_predictions = {n: prediction_confidence(logits[n], confidence) for n in names}
    mean_of_others = lambda of, n: np.mean([of[m] for m in names if m != n], axis=0)  # noqa: E731
    loss, pairs = 0.0, []
    for n in names:
        label_weight, prediction_weight = valid.astype(float), valid.astype(float)
        if len(names) > 1:
            own = entangle(in_labels[n], mean_of_others(in_labels, n))
            label_weight = label_weights(own, labels, 1 - r * (1 - final_ratio), classes, class_balanced)
            own = entangle(in_predictions[n], mean_of_others(in_predictions, n))
            prediction_weight = prediction_weights(own, r) * valid
        parts = {
            "ce": lambda z, w: soft_cross_entropy(z, target, w),
            "dice": lambda z, w: soft_dice_loss(z, target, w, dice),
            "focal": lambda z, w: focal_loss(z, target, w),
        }
        loss += sum(parts[part](logits[n], label_weight) for part in losses)
        pairs += [
            consistency_loss(logits[m], logits[n], prediction_weight, consistency)
            for m in names
            if m != n and consistency != "none"
        ]
    return loss + consistency_weight * 2 * (np.mean(pairs) if pairs else 0.0)
