"""The paper's recipe written as the equations read, in torch and scipy: what the speed of the package is measured by.

Two Gaussian filters a class and sample, a loop of top-k over the classes, one-hot labels as float tensors, contiguous
float32 NCHW, Adam as it comes, one thing after the other. It is correct where no pixel is ignored and every class of
the batch has at least two pixels, and it is not made slow on purpose.
"""

from __future__ import annotations

import math

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

CLASSES = 9
RAMP_LENGTH = 80


def label_prior(labels_THW: np.ndarray, season: int, sigma: float = 3.0, truncate: float = 4.0) -> np.ndarray:
    """Spatial-temporal prior of one sample, (C, H, W): 18 filters for 9 classes."""
    onehot_TCHW = np.stack([labels_THW == c for c in range(CLASSES)], axis=1).astype(np.float32)
    priors = []
    for mass_CHW in (onehot_TCHW[season], onehot_TCHW.mean(axis=0)):
        blurred_CHW = np.stack([gaussian_filter(plane, sigma, truncate=truncate) for plane in mass_CHW])
        priors.append(blurred_CHW / blurred_CHW.sum(axis=0))
    return (priors[0] + priors[1]) / 2


def smooth_labels(labels_BHW: Tensor, prior_BCHW: Tensor) -> Tensor:
    onehot_BCHW = F.one_hot(labels_BHW, CLASSES).permute(0, 3, 1, 2).float()
    return 0.8 * onehot_BCHW + 0.15 * prior_BCHW + 0.05 / CLASSES


def ramp(epoch: float) -> float:
    return 1.0 if epoch > RAMP_LENGTH else math.exp(-5 * (1 - epoch / RAMP_LENGTH) ** 2)


def label_weights(confidence_BHW: Tensor, labels_BHW: Tensor, ratio: float) -> Tensor:
    weight_BHW = torch.zeros_like(confidence_BHW)
    for c in range(CLASSES):
        of_class_BHW = labels_BHW == c
        count = int(of_class_BHW.sum())
        if count == 0:
            continue
        confidence_N = confidence_BHW[of_class_BHW]
        threshold = confidence_N.topk(int(ratio * count)).values[-1]
        weight_BHW[of_class_BHW] = (confidence_N / threshold).clamp(max=1.0)
    return weight_BHW


def dice_loss(logits_BCHW: Tensor, target_BCHW: Tensor, weight_BHW: Tensor) -> Tensor:
    probs_BCHW = F.softmax(logits_BCHW, dim=1)
    weight_B1HW = weight_BHW.unsqueeze(1)
    losses = []
    for c in range(CLASSES):
        q, z, w = probs_BCHW[:, c], target_BCHW[:, c], weight_B1HW[:, 0]
        if z.sum() > 0:
            losses.append(1 - 2 * (w * q * z).sum() / (w * (q + z)).sum())
    return torch.stack(losses).mean()


def loss(logits_s1: Tensor, logits_s2: Tensor, labels_BHW: Tensor, target_BCHW: Tensor, epoch: float) -> Tensor:
    """The total loss of the recipe: CE + Dice on selected labels, and consistency both ways."""
    r = ramp(epoch)
    logits = (logits_s1, logits_s2)
    with torch.no_grad():
        probs = [F.softmax(tensor, dim=1) for tensor in logits]
        in_label = [p.gather(1, labels_BHW.unsqueeze(1)).squeeze(1) for p in probs]
        entropy = [-torch.special.xlogy(p, p).sum(dim=1) for p in probs]
        in_prediction = [1 - h / math.log(CLASSES) for h in entropy]
        both = in_label[0] * in_label[1]
        in_label = [(f + both) / 2 for f in in_label]
        both = in_prediction[0] * in_prediction[1]
        in_prediction = [(f + both) / 2 for f in in_prediction]
        label_weight = [label_weights(f, labels_BHW, 1 - r * 0.5) for f in in_label]
        prediction_weight = [(1 - r) + r * f for f in in_prediction]
    total = logits_s1.new_zeros(())
    for tensor, weight in zip(logits, label_weight, strict=True):
        cross_entropy_BHW = F.cross_entropy(tensor, target_BCHW, reduction="none")
        total = total + (weight * cross_entropy_BHW).sum() / weight.sum() + dice_loss(tensor, target_BCHW, weight)
    for own, other, weight in ((0, 1, prediction_weight[1]), (1, 0, prediction_weight[0])):
        cross_entropy_BHW = F.cross_entropy(logits[own], probs[other], reduction="none")
        total = total + (weight * cross_entropy_BHW).sum() / weight.sum()
    return total


def networks(encoder: str = "resnet50", bands: tuple[int, int] = (2, 13)) -> nn.ModuleList:
    """Late fusion: a whole U-Net for each sensor."""
    return nn.ModuleList(
        smp.Unet(encoder, encoder_weights=None, in_channels=channels, classes=CLASSES) for channels in bands
    )


def step(nets: nn.ModuleList, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], epoch: float) -> float:
    """One training step from images, labels and priors."""
    optimizer.zero_grad()
    target_BCHW = smooth_labels(batch["labels"].long(), batch["prior"])
    total = loss(nets[0](batch["s1"]), nets[1](batch["s2"]), batch["labels"].long(), target_BCHW, epoch)
    total.backward()
    optimizer.step()
    return float(total.detach())
