"""Settings of the commands that train and score networks; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BenchmarkConfig", "EvaluateConfig", "PretrainConfig", "TransferConfig"]

Decoder = Literal["unet", "pspnet", "deeplabv3plus", "fpn", "upernet"]
Optimizer = Literal["adam", "adamw", "sgd"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
LossName = Literal["ce", "dice", "focal"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain one encoder a sensor on noisy label maps; defaults are the paper's late fusion with 13 bands.

    Args:
        data: the training store.
        out: folder of the run; an unfinished run found there is continued.
        method: `cromss`; `no_selection` (the same sensors, plain sum of losses and consistency); `single` (one sensor).
        sensors: the sensors of the store to train on, two or more.
        sensor: the sensor of method `single`.
        fusion: `late` (a whole network a sensor) or `middle` (an encoder a sensor, one shared decoder).
        branches: null for one a sensor; one more (3 of two sensors) adds an encoder on the stacked sensors.
        encoder: any encoder name of segmentation_models_pytorch; `tu-cromss_narrow` for small machines.
        decoder_channels: channels of the U-Net decoder, deepest first.
        s1_bands: bands by name or set.
        s2_bands: bands by name or set: `13`, `12`, `10`, `9`, `3`.
        bands: bands by sensor, e.g. `{dem: elevation, s2: "9"}`; of another sensor than s1 and s2 all, where left out.
        normalization: `paper` (mean +- 2 std to 0..1, clipped) or `standard` (zero mean, unit std).
        label_source: `labels` (the noisy ones) or `truth` (an upper bound where the truth is known).
        soft_labels: use the class probabilities of the store, where it has any, in place of one-hot labels.
        crop: side of the random crop in pixels; null keeps whole tiles.
        flip: probability of each of the two flips.
        rotate: probability of a turn by 90, 180 or 270 degrees.
        prior: spatial-temporal prior: `ts`, `t`, `s`, or null for uniform smoothing alone.
        prior_weight: share of the prior in a smoothed label (first factor).
        uniform_weight: share of the uniform distribution (second factor).
        sigma: standard deviation of the prior's Gaussian, in pixels.
        prior_on: where the prior is made: `worker` (with the sample) or `device` (in the step; needs equally many
            seasons and annotators of each place); null: the device, if that is an accelerator and the places allow it.
        losses: any of `ce`, `dice`, `focal`, summed.
        dice: `paper`, or `calibrated` (0 where the prediction equals a soft target).
        confidence: prediction confidence by `entropy` or `gini`.
        ramp: shape of the ramp: `exp`, `linear`, `none`.
        ramp_epochs: epochs until the ramp reaches 1.
        final_ratio: selection ratio at the end of the ramp.
        class_balanced: select within each class rather than over all pixels.
        select_labels: weight labels by selection (method `cromss`).
        select_predictions: weight the consistency loss by prediction confidence (method `cromss`).
        consistency: `ce`, `kl`, `mse` or `none`.
        consistency_weight: factor of the consistency loss.
        optimizer: `adam`, `adamw` or `sgd`.
        lr: learning rate.
        weight_decay: as the optimizer defines it.
        schedule: `plateau`, `exponential`, `cosine` or `constant`.
        plateau_factor: factor on the rate at a plateau of the validation loss.
        plateau_patience: validations without gain before that.
        exponential_gamma: factor on the rate an epoch.
        cosine_final_lr: rate at the end of the cosine.
        epochs: passes over the places, one random season each.
        steps: total optimizer steps; overrides epochs where given.
        batch_size: places a step and device.
        validation_share: share of the training places held out where the store has no validation split.
        validate_every: epochs between validations, at least 1; validation_share 0 is for none.
        seed: seed of weights, order, augmentation.
        workers: data worker processes a device.
        worker_timeout: seconds without a sample before a worker counts as hanging.
        accelerator: `auto` (a CUDA GPU where there is one), `cpu`, `gpu`.
        devices: devices a machine.
        nodes: machines.
        precision: `32-true`, `16-mixed` or `bf16-mixed`.
        threads: CPU threads of the main process; null leaves the default.
        deterministic: refuse operations without a deterministic form.
        channels_last: layout of images and weights in memory; null: yes on accelerators, no on CPUs. With the narrow
            encoder it is faster on CPUs too.
        compile: compile the network with torch.compile.
        checkpoint_every: steps between checkpoints; null saves at each validation.
        keep_checkpoints: newest checkpoints kept.
        resume: `auto` continues a run found in `out`; `never` refuses to touch one.
        allow_change: names of settings that may differ from the run being continued.
        log_every: steps between log rows.
        pictures_every: epochs between sample pictures; 0 for none.
    """

    data: str
    out: str
    method: Literal["cromss", "no_selection", "single"] = "cromss"
    sensors: tuple[str, ...] = ("s1", "s2")
    sensor: str = "s2"
    fusion: Literal["late", "middle"] = "late"
    branches: int | None = None
    encoder: str = "resnet50"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    s1_bands: str = "all"
    s2_bands: str = "13"
    bands: dict[str, Any] = field(default_factory=dict)
    normalization: Literal["paper", "standard"] = "paper"
    label_source: Literal["labels", "truth"] = "labels"
    soft_labels: bool = True
    crop: int | None = 256
    flip: float = 0.5
    rotate: float = 0.2
    prior: Literal["ts", "t", "s"] | None = "ts"
    prior_weight: float = 0.15
    uniform_weight: float = 0.05
    sigma: float = 3.0
    prior_on: Literal["worker", "device"] | None = None
    losses: tuple[LossName, ...] = ("ce", "dice")
    dice: Literal["paper", "calibrated"] = "paper"
    confidence: Literal["entropy", "gini"] = "entropy"
    ramp: Literal["exp", "linear", "none"] = "exp"
    ramp_epochs: int = 80
    final_ratio: float = 0.5
    class_balanced: bool = True
    select_labels: bool = True
    select_predictions: bool = True
    consistency: Literal["ce", "kl", "mse", "none"] = "ce"
    consistency_weight: float = 1.0
    optimizer: Optimizer = "adam"
    lr: float = 5e-3
    weight_decay: float = 1e-8
    schedule: Literal["plateau", "exponential", "cosine", "constant"] = "plateau"
    plateau_factor: float = 0.5
    plateau_patience: int = 30
    exponential_gamma: float = 0.99
    cosine_final_lr: float = 1e-5
    epochs: int = 200
    steps: int | None = None
    batch_size: int = 128
    validation_share: float = 0.01
    validate_every: int = 1
    seed: int = 0
    workers: int = 2
    worker_timeout: float = 120.0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Precision = "32-true"
    threads: int | None = None
    deterministic: bool = False
    channels_last: bool | None = None
    compile: bool = False
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    resume: Literal["auto", "never"] = "auto"
    allow_change: tuple[str, ...] = ()
    log_every: int = 10
    pictures_every: int = 10


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Train a decoder on a pretrained encoder, frozen or fine-tuned, with exact labels, and score it on the test split.

    Args:
        data: store with train and test splits and exact labels.
        out: folder of the results.
        checkpoint: checkpoint, run folder or exported encoder; null with init `random` or `imagenet`.
        init: where the encoder's weights come from: `checkpoint`, `random`, `imagenet`.
        sensor: the sensor of the task.
        bands: bands by name or set; null takes the checkpoint's, or the store's where there is no checkpoint.
        missing_bands: what to do with bands that the encoder knows and the data lack: `error` or `zero`.
        extra_bands: what to do with bands of the data that the encoder does not know: `error` or `mean`.
        normalization: `paper` or `standard`; null takes the checkpoint's, or `paper`.
        encoder: encoder name for init `random` and `imagenet`.
        decoder: `unet`, `pspnet`, `deeplabv3plus`, `fpn`, `upernet`.
        decoder_channels: channels of a U-Net decoder; null takes the library's.
        mode: `frozen` (weights and BatchNorm statistics fixed), `frozen_adapt` (weights fixed, BatchNorm statistics
            follow the new data, as in the paper), `fine_tuned`.
        label_source: `labels` or `truth`.
        soft_labels: learn from the class probabilities of the store, where it has any, in place of one-hot labels;
            scores are taken against the hard label.
        train_tiles: few-shot: so many training tiles, drawn by (draw); null uses all.
        draws: how many such draws, each trained with each seed.
        seeds: seeds of decoder weights, order, augmentation.
        losses: any of `ce`, `dice`, `focal`, summed.
        optimizer: `adam`, `adamw`, `sgd`.
        lr: learning rate.
        final_lr: learning rate at the end of the cosine.
        schedule_share: share of the training over which the cosine falls (the paper: 40 of 50 epochs).
        weight_decay: as the optimizer defines it.
        epochs: passes over the training tiles.
        steps: total optimizer steps; overrides epochs where given.
        batch_size: tiles a step and device.
        crop: side of the random crop; null keeps whole tiles.
        flip: probability of each of the two flips.
        rotate: probability of a turn by 90, 180 or 270 degrees.
        workers: data worker processes.
        accelerator: `auto`, `cpu`, `gpu`.
        devices: devices a machine.
        nodes: machines.
        precision: `32-true`, `16-mixed`, `bf16-mixed`.
        threads: CPU threads; null leaves the default.
        channels_last: layout in memory; null: yes on accelerators, no on CPUs.
        save_networks: keep a checkpoint of each trained network.
    """

    data: str
    out: str
    checkpoint: str | None = None
    init: Literal["checkpoint", "random", "imagenet"] = "checkpoint"
    sensor: str = "s2"
    bands: str | None = None
    missing_bands: Literal["error", "zero"] = "error"
    extra_bands: Literal["error", "mean"] = "error"
    normalization: Literal["paper", "standard"] | None = None
    encoder: str = "resnet50"
    decoder: Decoder = "unet"
    decoder_channels: tuple[int, ...] | None = None
    mode: Literal["frozen", "frozen_adapt", "fine_tuned"] = "frozen_adapt"
    label_source: Literal["labels", "truth"] = "labels"
    soft_labels: bool = True
    train_tiles: int | None = None
    draws: int = 1
    seeds: tuple[int, ...] = (0,)
    losses: tuple[LossName, ...] = ("ce", "dice")
    optimizer: Optimizer = "adam"
    lr: float = 5e-4
    final_lr: float = 1e-5
    schedule_share: float = 0.8
    weight_decay: float = 1e-8
    epochs: int = 50
    steps: int | None = None
    batch_size: int = 32
    crop: int | None = None
    flip: float = 0.5
    rotate: float = 0.2
    workers: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Precision = "32-true"
    threads: int | None = None
    channels_last: bool | None = None
    save_networks: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a checkpoint on a split of a store, from one confusion matrix over every pixel.

    Args:
        checkpoint: checkpoint or run folder.
        data: store.
        out: folder for scores.json, scores.csv and the table.
        split: `test`, `validation` or `train`.
        label_source: `labels` or `truth`.
        batch_size: tiles a step; label weights, where they are judged, are relative to the tiles of a step.
        threads: CPU threads; null leaves the default.
    """

    checkpoint: str
    data: str
    out: str
    split: Literal["train", "validation", "test"] = "test"
    label_source: Literal["labels", "truth"] = "labels"
    batch_size: int = 16
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Run a recipe of pretraining arms and transfer tasks with paired seeds, and write the table and the report.

    Args:
        recipe: YAML file that names data, arms and tasks.
        out: folder of jobs, table and report; finished jobs found there are kept.
        root: folder that the recipe's data patterns start from; null where the recipe needs none.
        jobs: jobs at a time.
        threads: CPU threads a job.
    """

    recipe: str
    out: str
    root: str | None = None
    jobs: int = 2
    threads: int = 1
