"""Settings of the commands that use networks: maps, the demonstration, encoders in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["DemoConfig", "ExportConfig", "ImportConfig", "PredictConfig"]


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
        images: GeoTIFFs by sensor, e.g. `{dem: dem.tif}`, of any sensor that the network knows; joins s1 and s2.
        branch: which branch of the network maps; null: the fused one if it can, else the mean of those with an image.
        window: side of a window in pixels.
        overlap: share of a window that it shares with its neighbour, 0 to below 1.
        batch_size: windows a step.
        s2_product: `L1C` or `L2A`; null reads the tag LEVEL of the file.
        s2_offset: DN that were added to all Sentinel-2 values, and are taken off, e.g. 1000 (baseline 04.00); null
            reads the file's tags.
        probabilities: also write the probability of each class.
        accelerator: `auto`, `cpu`, `gpu`.
        threads: CPU threads; null leaves the default.
        overwrite: replace maps that exist.
    """

    checkpoint: str
    out: str
    s1: str | None = None
    s2: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    branch: str | None = None
    window: int = 256
    overlap: float = 0.5
    batch_size: int = 4
    s2_product: Literal["L1C", "L2A"] | None = None
    s2_offset: int | None = None
    probabilities: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write the encoder of a checkpoint so that it loads without this package.

    Args:
        checkpoint: checkpoint or run folder.
        sensor: whose encoder: a sensor of the checkpoint, or `fused`.
        out: folder for encoder.safetensors and card.json.
        layout: key names of `smp`, `timm` or `torchvision`.
    """

    checkpoint: str
    sensor: str
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
        bands: bands of its encoder of another sensor, e.g. `{landsat: "blue,green,red"}`, in the order of its inputs.
        encoder: the encoder's name.
        legend: class scheme of a whole network.
        normalization: how its input was scaled: `paper`, `standard` (same statistics) or `unknown`.
    """

    file: str
    out: str
    s1_bands: str | None = None
    s2_bands: str | None = None
    bands: dict[str, Any] = field(default_factory=dict)
    encoder: str = "resnet50"
    legend: str = "dynamic_world"
    normalization: Literal["paper", "standard", "unknown"] = "paper"
