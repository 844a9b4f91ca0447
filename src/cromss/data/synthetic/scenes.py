"""Synthetic places with known truth, one after another or one by one.

In: a SyntheticWorld, a seed, an index. Out: PlaceRecords with S1 (dB), S2 (DN), labels that err, and truth. A place
depends on (world, seed, index, design) alone, so that places can be made in any order and by any number of processes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS

from cromss.data.record import PlaceRecord
from cromss.data.synthetic import radar, spectra
from cromss.data.synthetic.fields import generator
from cromss.data.synthetic.landscape import (
    BARE,
    BUILT,
    CROPS,
    FLOODED,
    GRASS,
    SHRUB,
    SNOW,
    TREES,
    WATER,
    Labels,
    Landscape,
    grow,
)
from cromss.data.synthetic.noise import Labeller, fit_labeller, label_at_random, label_from_image
from cromss.data.synthetic.sky import Sky, draw_sky
from cromss.data.synthetic.worlds import SyntheticWorld, months, season_names, world_of
from cromss.errors import ArgumentError
from cromss.geo.raster import Grid

__all__ = ["Design", "make_place", "place_id", "recipe", "synthesize", "synthesize_scene"]

Design = Literal["systematic", "idiosyncratic"]
DESIGNS = ("systematic", "idiosyncratic")

FITTING_SCENES = 10  # few, so that the labeller is as partial as one trained on little
FITTING_SIZE = 128

# Where synthetic land lies: nowhere. A plausible UTM grid of 10 m pixels, for software only.
SCENE_EPSG = 32633
SCENE_TRANSFORM = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_400_000.0)

# From the classes of Dynamic World to SHIFTED_LEGEND; the green of towns is settlement too.
LAND_USE = np.zeros(9, np.uint8)
LAND_USE[[WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW]] = (0, 1, 2, 3, 4, 5, 6, 7, 7)
SETTLEMENT = 6


@dataclass(frozen=True, kw_only=True)
class _Scene:
    place: Landscape
    s1: npt.NDArray[np.float32]
    s2: npt.NDArray[np.uint16]
    skies: tuple[Sky, ...]


def _render(world: SyntheticWorld, *key: int | str) -> _Scene:
    """Everything about a place but its labels."""
    law, calendar = world_of(world), months(world.seasons)

    def draw(what: str, season: int = 0) -> np.random.Generator:
        return generator(world.name, *key, what, season)

    place = grow(draw("land"), law, world.size, calendar)
    ground = spectra.draw_ground(draw("ground"), law, place)
    echoes = radar.draw_echoes(draw("echoes"), law, place)
    s1, s2, skies = [], [], []
    for season, (month, truth) in enumerate(zip(calendar, place.truth, strict=True)):
        skies.append(draw_sky(draw("sky", season), law, world.size))
        s2.append(spectra.see(draw("s2", season), law, place, ground, skies[-1], truth, month))
        s1.append(radar.listen(draw("s1", season), law, place, ground, echoes, truth, month))
    return _Scene(place=place, s1=np.stack(s1), s2=np.stack(s2), skies=tuple(skies))


@functools.lru_cache(maxsize=8)
def _labeller(name: Literal["pretrain", "shifted"], seasons: int, seed: int) -> Labeller:
    """The labeller of a world: fitted on scenes of its own, which are never among those that it labels."""
    world = SyntheticWorld(name=name, size=FITTING_SIZE, seasons=seasons, seed=seed)
    scenes = [_render(world, seed, "fitting", index) for index in range(FITTING_SCENES)]
    images = [image for scene in scenes for image in scene.s2]
    truths = [truth for scene in scenes for truth in scene.place.truth]
    return fit_labeller(generator(name, seed, "labeller"), images, truths)


def _labels(world: SyntheticWorld, scene: _Scene, design: Design, *key: int | str) -> tuple[Labels, Labels]:
    """Labels and truth in the legend of the world."""
    truth = scene.place.truth
    if world.name == "shifted":
        exact = np.where(scene.place.town, SETTLEMENT, LAND_USE[truth]).astype(np.uint8)
        return exact, exact
    rng = generator(world.name, *key, design)
    if design == "idiosyncratic":
        return label_at_random(rng, truth), truth
    labeller = _labeller(world.name, world.seasons, world.seed)
    return label_from_image(rng, labeller, scene.s2, scene.skies), truth


def make_place(
    world: SyntheticWorld, index: int, *, design: Design = "systematic", seed: int = 0, split: str = ""
) -> PlaceRecord:
    """Make place number `index` of a seed; the shifted world has exact labels, whatever the design.

    images: s1 (T, 2, H, W) float32 dB, -54 to 26; s2 (T, 13, H, W) uint16 DN of level L1C, 1 to 16000; labels and truth
    (T, H, W) uint8 ids of `world.legend`. Raises ArgumentError for an unknown design or a negative index or seed.
    """
    if design not in DESIGNS:
        raise ArgumentError("there is no such design of label noise", got=design, expected=" or ".join(DESIGNS))
    if index < 0 or seed < 0:
        raise ArgumentError("index and seed are not negative", got=(index, seed))
    return _record(world, place_id(index), design, split, seed, index)


def _record(
    world: SyntheticWorld, name: str, design: Design, split: str, seed: int, key: int | str, grid: Grid | None = None
) -> PlaceRecord:
    scene = _render(world, seed, key)
    labels, truth = _labels(world, scene, design, seed, key)
    return PlaceRecord(
        id=name,
        seasons=season_names(world.seasons),
        images={"s1": scene.s1, "s2": scene.s2},
        products={"s1": "GRD", "s2": "L1C"},
        labels=labels,
        truth=truth,
        valid=np.ones(truth.shape, bool),
        split=split,
        grid=grid,
        notes={"made": recipe(world, design, seed)},
    )


def place_id(index: int) -> str:
    """The id of place number `index`, e.g. synthetic-0000012."""
    return f"synthetic-{index:07d}"


def recipe(world: SyntheticWorld, design: Design, seed: int) -> str:
    """All that the places of a series depend on, in words; kept with each place."""
    return (
        f"{world.name} world, seed {world.seed}; {design} noise, seed {seed}; {world.size} px, {world.seasons} seasons"
    )


def synthesize(
    world: SyntheticWorld, count: int, *, design: Design = "systematic", seed: int = 0, start: int = 0
) -> Iterator[PlaceRecord]:
    """Make `count` places, from number `start` on; see `make_place`."""
    for index in range(start, start + count):
        yield make_place(world, index, design=design, seed=seed)


def synthesize_scene(world: SyntheticWorld, size: int, seed: int = 0) -> PlaceRecord:
    """Make one scene of `size` x `size` pixels, on a nominal UTM grid; it is not among the places of `synthesize`.

    Arrays are as in `make_place`, with systematic label noise. Raises ArgumentError for a size below 16 px.
    """
    grid = Grid(height=size, width=size, transform=SCENE_TRANSFORM, crs=CRS.from_epsg(SCENE_EPSG))
    return _record(replace(world, size=size), f"synthetic-scene-{seed}", "systematic", "", seed, "scene", grid)
