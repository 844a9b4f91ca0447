"""A scene of any size to a map: the class and the confidence of every pixel, on the scene's own grid.

In: a network with its card, and one GeoTIFF a sensor. Out: GeoTIFFs on exactly the same grid, tiled, with overviews:

    class.tif          0..C-1, 255 = no data, with colours and class names
    confidence.tif     probability of that class in percent, 0..100, 255 = no data
    probabilities.tif  the same for every class, a band each (on request)

    p = mean over branches of softmax(logits),    class = argmax_c p_c,    confidence = round(100 max_c p_c)

Where any image has no data the maps have none. Rows stream through: memory does not depend on the scene's height; it is
one strip of `window` rows (of the images as stored, and of C float32), a batch of windows, and one row of file blocks.
The files take their names only when complete; class.tif comes last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from cromss.config import PredictConfig
from cromss.errors import ConfigError, NonFiniteError
from cromss.geo.bands import Normalization, known_sensor, nearest
from cromss.geo.legend import Legend
from cromss.geo.raster import block_cache
from cromss.maps.blend import Strip, blended_strips
from cromss.maps.map_files import MapFiles, map_files, map_paths, map_row_of_blocks
from cromss.maps.scene import Scene, open_scene
from cromss.models.networks import FUSED, SegmentationNetwork, forward_any_size
from cromss.training.checkpoint import load_network
from cromss.training.devices import limit_threads

__all__ = ["choose_branches", "predict", "predict_probabilities", "predict_scene"]

_MEGABYTE = 1024**2


def predict(config: PredictConfig) -> dict[str, Any]:
    """Map one scene as the settings say, with progress on the terminal; return what `predict_scene` returns.

    Raises CheckpointError besides the errors of `predict_scene`.
    """
    limit_threads(config)
    network, card = load_network(config.checkpoint)
    given = {"s1": config.s1, "s2": config.s2}
    twice = [sensor for sensor in config.images if given.get(sensor) is not None]
    if twice:
        raise ConfigError("an image is given twice", got=twice, do="name it in images, or by its own setting")
    report = predict_scene(
        network.to(_device(config.accelerator)),
        card,
        {sensor: path for sensor, path in (given | config.images).items() if path is not None},
        config.out,
        branch=config.branch,
        window=config.window,
        overlap=config.overlap,
        batch_size=config.batch_size,
        s2_product=config.s2_product,
        s2_offset=config.s2_offset,
        probabilities=config.probabilities,
        overwrite=config.overwrite,
        show_progress=True,
    )
    Console().print(_summary(report))
    for sensor, what in report["renamed"].items():
        Console(soft_wrap=True, highlight=False, markup=False).print(f"look: bands of {sensor} by their order: {what}")
    return report


def predict_scene(
    network: SegmentationNetwork,
    card: Mapping[str, Any],
    images: Mapping[str, str | Path],
    out: str | Path,
    *,
    branch: str | None = None,
    window: int = 256,
    overlap: float = 0.5,
    batch_size: int = 4,
    s2_product: str | None = None,
    s2_offset: int | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Write class.tif and confidence.tif of a scene, {sensor: path}, into the folder `out`, on the network's device.

    Returns paths, size, branches, products, bands that are told by their order alone, pixels a class, mean confidence
    in percent, seconds. Raises ConfigError for settings and images that do not go together or maps that exist,
    NonFiniteError for a network that gives NaN, and the errors of `cromss.maps.scene.open_scene` and `Scene.read`.
    """
    began = time.monotonic()
    _require_window(window, overlap, batch_size)
    legend = Legend.from_dict(card["legend"])
    branches = choose_branches(network.spec.inputs, network.spec.branches, list(images), branch)
    normalizations = {sensor: Normalization.from_dict(card["inputs"][sensor]) for sensor in images}
    paths = map_paths(Path(out), probabilities, overwrite)
    defined = card.get("sensors", {})
    definitions = {sensor: known_sensor(sensor, defined.get(sensor)) for sensor in images}
    with open_scene(images, normalizations, s2_product, definitions, s2_offset) as scene:
        maps = _write_maps(
            scene,
            network,
            branches,
            legend,
            paths,
            window=window,
            overlap=overlap,
            batch_size=batch_size,
            tags={"BRANCHES": ",".join(branches), "IMAGES": ",".join(Path(path).name for path in images.values())},
            show_progress=show_progress,
        )
        return {
            "files": {name: str(path) for name, path in paths.items()},
            "height": scene.grid.height,
            "width": scene.grid.width,
            "branches": list(branches),
            "products": scene.products,
            "renamed": scene.renamed,
            "pixels": dict(zip(legend.names, maps.pixels, strict=True)),
            "no_data_pixels": maps.no_data_pixels,
            "mean_confidence": maps.mean_confidence,
            "seconds": time.monotonic() - began,
        }


def choose_branches(
    inputs: Mapping[str, int], branches: Sequence[str], given: Sequence[str], branch: str | None = None
) -> tuple[str, ...]:
    """Which of a network's branches map a scene, given the sensors that have an image.

    The one named; else the fused one where it has all its images; else those of the sensors given, to be averaged.
    Raises ConfigError for an unknown sensor or branch, and for an image that is missing or would go unused.
    """
    reads = {name: tuple(inputs) if name == FUSED else (name,) for name in branches}
    usable = [name for name in branches if set(reads[name]) <= set(given)]
    foreign = [sensor for sensor in given if sensor not in inputs]
    if not given:
        raise ConfigError(
            "no image is given",
            expected=f"images of {' or '.join(inputs)}",
            do='give a file, e.g. --s2 scene.tif or --images "{dem: dem.tif}"',
        )
    if foreign:
        raise ConfigError(
            "the network does not know these images",
            got=list(given),
            expected=f"some of {list(inputs)}",
            do=f"did you mean {nearest(foreign[0], list(inputs))!r}?",
        )
    if branch is not None and branch not in reads:
        raise ConfigError("the network has no such branch", got=branch, expected=", ".join(branches))
    if branch is not None:
        chosen: tuple[str, ...] = (branch,)
    elif FUSED in usable:
        chosen = (FUSED,)
    else:
        chosen = tuple(usable)
    needed = {sensor for name in chosen for sensor in reads[name]}
    if not chosen or needed - set(given):
        raise ConfigError(
            "an image is missing that the network needs",
            got=f"images of {', '.join(given)}",
            expected=f"images of {', '.join(sorted(needed) or inputs)}",
            do="give the other image, or choose a branch that needs this one alone: " + (", ".join(usable) or "none"),
        )
    if set(given) - needed:
        raise ConfigError(
            f"branch {', '.join(chosen)} does not look at an image that is given",
            got=f"images of {', '.join(given)}",
            expected=f"images of {', '.join(sorted(needed))}",
            do="leave the other image out, or choose another branch",
        )
    return chosen


@torch.inference_mode()
def predict_probabilities(
    network: SegmentationNetwork, branches: Sequence[str], images: Mapping[str, Tensor]
) -> Tensor:
    """Class probabilities (N, C, H, W) of scaled images (N, B, H, W) of any size: the mean over the branches.

    The network must be in evaluation mode. Raises NonFiniteError where a probability is not a number.
    """
    chosen = _Chosen(network, branches).train(network.training)
    per_branch = [logits_NCHW.float().softmax(dim=1) for logits_NCHW in forward_any_size(chosen, images).values()]
    mean_NCHW = per_branch[0] if len(per_branch) == 1 else torch.stack(per_branch).mean(dim=0)
    if not torch.isfinite(mean_NCHW).all():
        raise NonFiniteError(
            "the network gives probabilities that are not numbers",
            got=f"{int((~torch.isfinite(mean_NCHW)).sum())} of {mean_NCHW.numel()}",
            do="check the checkpoint's weights (cromss verify), and train again from an earlier one",
        )
    return mean_NCHW


class _Chosen(nn.Module):
    """Some branches of a network, so that those without an image are not run."""

    def __init__(self, network: SegmentationNetwork, branches: Sequence[str]) -> None:
        super().__init__()
        self.network, self.chosen = network, tuple(branches)
        self.size_multiple = network.size_multiple

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {branch: self.network.branch_logits(branch, images) for branch in self.chosen}


def _write_maps(
    scene: Scene,
    network: SegmentationNetwork,
    branches: Sequence[str],
    legend: Legend,
    paths: Mapping[str, Path],
    *,
    window: int,
    overlap: float,
    batch_size: int,
    tags: Mapping[str, str],
    show_progress: bool,
) -> MapFiles:
    """Stream the scene through the network into the maps; return what they counted."""
    device = next(network.parameters()).device
    network.eval()

    def classify(strips: list[Strip]) -> NDArray[np.float32]:
        scaled = [scene.scaled(strip) for strip in strips]
        images = {sensor: torch.from_numpy(np.stack([one[sensor] for one in scaled])) for sensor in scaled[0]}
        moved = {sensor: image.to(device) for sensor, image in images.items()}
        result: NDArray[np.float32] = predict_probabilities(network, branches, moved).cpu().numpy()
        return result

    height, width = scene.grid.shape
    # Enough for each block to be decoded or written once. GDAL's own limit is a twentieth of the machine's memory.
    cache = 2 * (scene.row_of_blocks() + map_row_of_blocks(paths, width, legend)) + 4 * _MEGABYTE
    with (
        block_cache(cache),
        map_files(paths, scene.grid, legend, tags) as maps,
        _progress(height, width, show_progress) as advance,
    ):
        strips = blended_strips(
            scene.read,
            classify,
            height=height,
            width=width,
            num_classes=legend.num_classes,
            window=window,
            overlap=overlap,
            batch_size=batch_size,
        )
        for top, probability_CHW, valid_HW in strips:
            maps.write(top, probability_CHW, valid_HW)
            advance(len(valid_HW))
    return maps


def _require_window(window: int, overlap: float, batch_size: int) -> None:
    if window < 1 or not 0 <= overlap < 1 or batch_size < 1:
        raise ConfigError(
            "these windows cannot cover a scene",
            got=f"window {window}, overlap {overlap}, batch_size {batch_size}",
            expected="a window and a batch of at least 1, an overlap from 0 to below 1",
        )


def _device(accelerator: str) -> torch.device:
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator == "gpu" and found is None:
        raise ConfigError("no GPU is available", got="accelerator gpu", do="use accelerator cpu or auto")
    return torch.device("cpu" if accelerator == "cpu" or found is None else found)


@contextmanager
def _progress(height: int, width: int, show: bool) -> Iterator[Any]:
    """Yield a function that is told how many rows are done; on a terminal it shows rate and time left."""
    columns = (
        TextColumn("mapping"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} rows"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task("", total=height, rate="")
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            rate = done * width / 1e6 / (time.monotonic() - began)
            progress.update(task, completed=done, rate=f"{rate:.2f} Mpx/s")

        yield advance


def _summary(report: Mapping[str, Any]) -> Table:
    pixels = report["height"] * report["width"]
    size, branches = f"{report['height']} x {report['width']} px", ", ".join(report["branches"])
    title = f"{size} in {report['seconds']:.1f} s, branch {branches}"
    table = Table("class", "pixels", "share", title=title, caption="\n".join(report["files"].values()))
    for name, count in [*report["pixels"].items(), ("no data", report["no_data_pixels"])]:
        table.add_row(name, f"{count:,}", f"{count / pixels:.1%}")
    return table
