"""The settings of every command: one frozen dataclass a command, flat, with the paper's values as defaults.

In: nothing, a YAML file, or flags. Out: plain values; constructors below the commands take those, never a config.
The docstring of a class says what each setting means and in which unit; `cromss COMMAND --help` prints the same text.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from cromss.errors import ConfigError

__all__ = [
    "BenchmarkConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ImportConfig",
    "LabelsConfig",
    "PredictConfig",
    "PrepareConfig",
    "PretrainConfig",
    "SynthesizeConfig",
    "TransferConfig",
    "VerifyConfig",
    "from_mapping",
    "require_at_least",
    "to_mapping",
]

Edition = Literal["native", "uint8"]
Layout = Literal[
    "geotiff_folders",
    "ssl4eo_s12",
    "ssl4eo_s12_v1_1",
    "noldo_s12_nol",
    "noldo_s12_dw",
    "noldo_s12_osm",
    "dfc2020",
    "sen12ms",
    "bigearthnet",
    "cromss_lmdb",
    "dfc2020_lmdb",
]
Decoder = Literal["unet", "pspnet", "deeplabv3plus", "fpn", "upernet"]
Optimizer = Literal["adam", "adamw", "sgd"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
LossName = Literal["ce", "dice", "focal"]


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Make scenes with known truth and labels that err as Dynamic World does, and put them into a training store.

    Args:
        out: folder of the new store.
        train: places for training.
        validation: places for validation.
        test: places for testing.
        size: side of a scene in pixels of 10 m.
        seasons: images a place, one a season.
        seed: everything follows from it.
        world: `pretrain`, or `shifted` (other parcels, class mix, spectra and legend: an exact-label task).
        design: `systematic` (labels err as a function of the image) or `idiosyncratic` (blobs relabelled at random).
        edition: `native` keeps dB and DN; `uint8` the authors' 8-bit scaling.
        workers: processes that make scenes; the result is the same for any number.
    """

    out: str
    train: int = 40
    validation: int = 16
    test: int = 0
    size: int = 128
    seasons: int = 4
    seed: int = 0
    world: Literal["pretrain", "shifted"] = "pretrain"
    design: Literal["systematic", "idiosyncratic"] = "systematic"
    edition: Edition = "native"
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Make noisy label maps for images: by rules on colours, from polygons, maps, probabilities, or several fused.

    Args:
        source: `rules` (spectral indices of Sentinel-2 against thresholds); `polygons` (OpenStreetMap, or any areas
            with a class); `maps` (label GeoTIFFs of any grid); `stac` (the same, found in a STAC catalogue);
            `probabilities` (soft labels on the images' grids); `fuse` (several label maps into one); `earth_engine`
            (Dynamic World).
        out: folder for labels/<id>.tif, confidence/<id>.tif where the source has it, and labels-report.json.
        root: folder that the patterns images, probabilities, fuse and confidences start from.
        images: pattern of the images that want labels, e.g. `s2/{id}.tif` or `s2/{id}/{season}.tif`; their grids
            are used.
        legend: class scheme of the labels to write, by name or JSON file.
        s2_product: rules: `L1C` or `L2A`; null reads the tag LEVEL of each image.
        sun_zenith: rules: degrees between sun and zenith over L1C images; null computes it from tag DATE and place.
        polygons: polygons: GeoPackage, Shapefile, GeoJSON, FlatGeobuf or .osm.pbf extract.
        layer: polygons: layer of that file; null takes the only one, or `multipolygons`.
        tags: polygons: YAML file of `column: {value: class}`; null takes the built-in table of OpenStreetMap's tags.
        overlap: polygons: where several classes lie over each other, the `smallest` polygon wins, or `ignore` them.
        maps: maps: the tiles, a path with * and ?; the first in the order of names wins where they overlap.
        map_legend: maps, stac and fuse: class scheme of those maps; null: that of the labels.
        remap: maps, stac and fuse: YAML file of `source_class: target_class` lines, `-` for none; null takes the
            built-in table.
        stac: stac: address or path of a catalogue or API.
        collection: stac: id of the collection; null takes every item (of a static catalogue).
        asset: stac: name of the asset that holds the map.
        start: stac and earth_engine: first day, as 2021-01-01; null for no limit (stac) or date - days (earth_engine).
        end: stac and earth_engine: last day; null likewise.
        days: earth_engine: days before and after the date of the image (its tag DATE), where start and end are null.
        project: earth_engine: the Google Cloud project to work under.
        probabilities: probabilities: pattern of rasters with one band a class, 0..1 or percent.
        fuse: fuse: patterns of the label maps, e.g. `["rules/labels/{id}.tif", "osm/labels/{id}.tif"]`.
        confidences: fuse: patterns of their confidences in percent, one each, as weights of `majority`; empty for none.
        fuse_by: fuse: `agree` (all that have a label), `majority`, `dawid_skene` (weights by fitted error rates).
        votes: fuse: labels that `agree` asks for at least.
        min_confidence: labels below this confidence become 255, in percent.
        write_probabilities: also write probabilities/<id>.tif, a band a class, where the source has them.
        on_existing: `stop`, or `keep` what is there and make the rest; nothing is ever overwritten.
        on_bad: `stop` at the first image that cannot be labelled, or `skip` such images, counted and listed.
    """

    source: Literal["rules", "polygons", "maps", "stac", "probabilities", "fuse", "earth_engine"]
    out: str
    root: str = "."
    images: str = "s2/{id}.tif"
    legend: str = "dynamic_world"
    s2_product: Literal["L1C", "L2A"] | None = None
    sun_zenith: float | None = None
    polygons: str | None = None
    layer: str | None = None
    tags: str | None = None
    overlap: Literal["smallest", "ignore"] = "smallest"
    maps: str | None = None
    map_legend: str | None = None
    remap: str | None = None
    stac: str | None = None
    collection: str | None = None
    asset: str = "map"
    start: str | None = None
    end: str | None = None
    days: int = 15
    project: str | None = None
    probabilities: str | None = None
    fuse: tuple[str, ...] = ()
    confidences: tuple[str, ...] = ()
    fuse_by: Literal["agree", "majority", "dawid_skene"] = "agree"
    votes: int = 2
    min_confidence: int = 0
    write_probabilities: bool = False
    on_existing: Literal["stop", "keep"] = "stop"
    on_bad: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Read co-registered GeoTIFFs, or a published data set, check everything, and put it into a training store.

    Args:
        out: folder of the new store.
        root: folder that the patterns below start from; of a published layout the folder, or zip file, that holds it.
        layout: how the files lie: `geotiff_folders` (as the patterns say), or as published, from root alone:
            `ssl4eo_s12` (v1.0), `ssl4eo_s12_v1_1` (Zarr shards), `noldo_s12_nol` (v1.0 images with noisy labels, whose
            folder or zip `labels` may name), `noldo_s12_dw`, `noldo_s12_osm` (exact labels; folder or zip; the second
            needs legend `osm13`), `dfc2020` and `sen12ms` (folders of regions), `bigearthnet` (v2), `cromss_lmdb` and
            `dfc2020_lmdb` (what the authors train from; s1, s2, labels may name the files of the first). There a
            pattern is null (leave out) or left as it is.
        s1: pattern of the Sentinel-1 files, e.g. `s1/{id}.tif` or `s1/{id}/{season}.tif`; null for none.
        s2: pattern of the Sentinel-2 files; null for none.
        labels: pattern of the label maps; null for none.
        truth: pattern of exact label maps of the same scenes, where known (for scoring only).
        s1_bands: bands to keep, by name or set (`all`, `2`).
        s2_bands: bands to keep, by name or set (`all`, `13`, `12`, `10`, `9`, `3`).
        s1_product: `GRD`.
        s2_product: `L1C` or `L2A`; null reads the tag LEVEL of each file.
        legend: name or JSON file of the class scheme of the label maps.
        split: pattern of rasters whose values name splits, or a CSV with columns id, split; null puts all into train.
        split_values: the value of each split in those rasters; other values belong to no split.
        validation_share: share of places drawn for validation where no split is given, 0 to 1.
        test_share: share of places drawn for testing where no split is given, 0 to 1.
        seed: seed of that draw, keyed by place.
        tile: cut scenes into square patches of this many pixels; null keeps them whole.
        edition: `native` keeps dB and DN; `uint8` the authors' 8-bit scaling.
        on_bad: `stop` refuses everything if one scene is bad; `skip` leaves bad scenes out, counted and listed.
        shard_places: places a shard file.
    """

    out: str
    root: str = "."
    layout: Layout = "geotiff_folders"
    s1: str | None = "s1/{id}.tif"
    s2: str | None = "s2/{id}.tif"
    labels: str | None = "labels/{id}.tif"
    truth: str | None = None
    s1_bands: str = "all"
    s2_bands: str = "all"
    s1_product: str = "GRD"
    s2_product: Literal["L1C", "L2A"] | None = None
    legend: str = "dynamic_world"
    split: str | None = None
    split_values: dict[str, int] = field(default_factory=lambda: {"train": 1, "test": 2, "validation": 3})
    validation_share: float = 0.0
    test_share: float = 0.0
    seed: int = 0
    tile: int | None = None
    edition: Edition = "native"
    on_bad: Literal["stop", "skip"] = "stop"
    shard_places: int = 64


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Read every byte of a training store or a checkpoint and compare it with its checksums.

    Args:
        path: folder of a store, a checkpoint or a run.
    """

    path: str


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain one encoder a sensor on noisy label maps; defaults are the paper's late fusion with 13 bands.

    Args:
        data: the training store: a folder, or its address (https://..., s3://...).
        out: folder of the run; an unfinished run found there is continued.
        method: `cromss`; `no_selection` (two sensors, plain sum of losses and consistency); `single` (one sensor).
        sensor: the sensor of method `single`.
        fusion: `late` (two whole networks) or `middle` (two encoders, one shared decoder).
        branches: 2, or 3 with an encoder on the stacked sensors.
        encoder: any encoder name of segmentation_models_pytorch; `tu-cromss_narrow` for small machines.
        decoder_channels: channels of the U-Net decoder, deepest first.
        s1_bands: bands by name or set.
        s2_bands: bands by name or set: `13`, `12`, `10`, `9`, `3`.
        normalization: `paper` (mean +- 2 std to 0..1, clipped) or `standard` (zero mean, unit std).
        label_source: `labels` (the noisy ones) or `truth` (an upper bound where the truth is known).
        crop: side of the random crop in pixels; null keeps whole tiles.
        flip: probability of each of the two flips.
        rotate: probability of a turn by 90, 180 or 270 degrees.
        prior: spatial-temporal prior: `ts`, `t`, `s`, or null for uniform smoothing alone.
        prior_weight: share of the prior in a smoothed label (first factor).
        uniform_weight: share of the uniform distribution (second factor).
        sigma: standard deviation of the prior's Gaussian, in pixels.
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
    sensor: Literal["s1", "s2"] = "s2"
    fusion: Literal["late", "middle"] = "late"
    branches: Literal[2, 3] = 2
    encoder: str = "resnet50"
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    s1_bands: str = "all"
    s2_bands: str = "13"
    normalization: Literal["paper", "standard"] = "paper"
    label_source: Literal["labels", "truth"] = "labels"
    crop: int | None = 256
    flip: float = 0.5
    rotate: float = 0.2
    prior: Literal["ts", "t", "s"] | None = "ts"
    prior_weight: float = 0.15
    uniform_weight: float = 0.05
    sigma: float = 3.0
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
        data: store with train and test splits and exact labels: a folder, or its address.
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
    sensor: Literal["s1", "s2"] = "s2"
    bands: str | None = None
    missing_bands: Literal["error", "zero"] = "error"
    extra_bands: Literal["error", "mean"] = "error"
    normalization: Literal["paper", "standard"] | None = None
    encoder: str = "resnet50"
    decoder: Decoder = "unet"
    decoder_channels: tuple[int, ...] | None = None
    mode: Literal["frozen", "frozen_adapt", "fine_tuned"] = "frozen_adapt"
    label_source: Literal["labels", "truth"] = "labels"
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


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Show the whole method on synthetic scenes: pretraining, transfer, a map and a report, in a few minutes.

    Args:
        out: folder of all results; finished parts found there are kept.
        jobs: jobs at a time.
        threads: CPU threads a job.
    """

    out: str = "demo"
    jobs: int = 2
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Map a scene of any size: class and confidence GeoTIFFs on the scene's own grid.

    Args:
        checkpoint: checkpoint or run folder.
        out: folder for class.tif and confidence.tif.
        s1: Sentinel-1 GeoTIFF in dB; null where the network does not need it.
        s2: Sentinel-2 GeoTIFF in DN; null where the network does not need it.
        branch: which branch of the network maps; null: the fused one if it can, else the mean of those with an image.
        window: side of a window in pixels.
        overlap: share of a window that it shares with its neighbour, 0 to below 1.
        batch_size: windows a step.
        s2_product: `L1C` or `L2A`; null reads the tag LEVEL of the file.
        probabilities: also write the probability of each class.
        accelerator: `auto`, `cpu`, `gpu`.
        threads: CPU threads; null leaves the default.
        overwrite: replace maps that exist.
    """

    checkpoint: str
    out: str
    s1: str | None = None
    s2: str | None = None
    branch: str | None = None
    window: int = 256
    overlap: float = 0.5
    batch_size: int = 4
    s2_product: Literal["L1C", "L2A"] | None = None
    probabilities: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the encoder of a checkpoint so that it loads without this package.

    Args:
        checkpoint: checkpoint or run folder.
        sensor: whose encoder.
        out: folder for encoder.safetensors and card.json.
        layout: key names of `smp`, `timm` or `torchvision`.
    """

    checkpoint: str
    sensor: Literal["s1", "s2", "fused"]
    out: str
    layout: Literal["smp", "timm", "torchvision"] = "smp"


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Read a published checkpoint file without running anything in it, and write it as a checkpoint of this package.

    Args:
        file: the `.ckpt`, `.pth` or `.pt` file; its layout (CromSS, MoCo, DINO, DeCUR, Satlas) is recognised.
        out: folder of the new checkpoint.
        s1_bands: bands of its Sentinel-1 encoder, by name or set; null where it has none.
        s2_bands: bands of its Sentinel-2 encoder: `13`, `12`, `9`, `3`; null where it has none.
        encoder: the encoder's name.
        legend: class scheme of a whole network.
        normalization: how its input was scaled: `paper`, `standard` (same statistics) or `unknown`.
    """

    file: str
    out: str
    s1_bands: str | None = None
    s2_bands: str | None = None
    encoder: str = "resnet50"
    legend: str = "dynamic_world"
    normalization: Literal["paper", "standard", "unknown"] = "paper"


T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as plain JSON types, field by field."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str | None = None) -> T:
    """Build a config from plain values, e.g. of a YAML file.

    Raises ConfigError for a key that `kind` does not have, naming the nearest, for a required key that is absent, and
    for null where a value is needed. Other types are checked where the values enter, by the command line.
    """
    known = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown setting {key!r} for {kind.__name__}",
                got=key,
                expected=f"one of {', '.join(known)}",
                where=where,
                do=f"did you mean {near[0]!r}?",
            )
    required = [
        name
        for name, entry in known.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in values]
    if absent:
        raise ConfigError(f"{kind.__name__} lacks required settings", got=sorted(values), expected=absent, where=where)
    hints = get_type_hints(kind)
    empty = [name for name, value in values.items() if value is None and type(None) not in get_args(hints[name])]
    if empty:
        raise ConfigError(f"{kind.__name__} needs a value where there is none", got="null", expected=empty, where=where)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def require_at_least(config: Any, **lowest: float) -> None:
    """Raise ConfigError for the first named setting that is below its lowest value or not finite; null is no number."""
    for name, least in lowest.items():
        value = getattr(config, name)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise ConfigError(f"{name} is out of range", got=value, expected=f"at least {least:g}")
