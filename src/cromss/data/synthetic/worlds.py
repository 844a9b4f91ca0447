"""Two worlds: the one to pretrain in, and another to transfer to. A world is the law that all its scenes obey.

In: a name, a size, a number of seasons and a seed. Out: the numbers that landscape, images and labels are drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cromss.errors import ArgumentError
from cromss.geo.legend import Legend, LegendClass
from cromss.geo.legends import get_legend

__all__ = ["SHIFTED_LEGEND", "SyntheticWorld", "World", "months", "season_names", "world_of"]

MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip

# The exact-label legend of the shifted world: a map of land use, so gardens belong to the settlement around them, and
# what is without plants is one class. Ids follow the land; the first seven colours are those of the nearest Dynamic
# World class.
SHIFTED_LEGEND = Legend(
    name="synthetic_land_use",
    classes=(
        LegendClass(id=0, name="open water", color="#419bdf"),
        LegendClass(id=1, name="woodland", color="#397d49"),
        LegendClass(id=2, name="grassland", color="#88b053"),
        LegendClass(id=3, name="wetland", color="#7a87c6"),
        LegendClass(id=4, name="cropland", color="#e49635"),
        LegendClass(id=5, name="scrubland", color="#dfc35a"),
        LegendClass(id=6, name="settlement", color="#c4281b"),
        LegendClass(id=7, name="open ground", color="#a59b8f"),
    ),
    codes={code: code for code in range(8)},
)


@dataclass(frozen=True, kw_only=True)
class World:
    """The numbers of a world. Lengths are in pixels of 10 m; thresholds are of noise of unit variance."""

    parcel: float  # px, across a field; fields are `stretch` times as long
    stretch: tuple[float, float]
    crops: float  # log odds of a farmed parcel's class, against 0 for grass
    shrub: float
    fallow: float
    woods: float  # threshold above which land is wooded
    lakes: float
    towns: float
    highlands: float  # mean of the relief: how much rock and snow there is
    wetness: float
    gardens: float  # threshold above which a pixel of a town is green
    offsets: float  # factor on the parcels' spectral and radar offsets
    brightness: tuple[float, ...]  # log units, added to all reflectances: visible, red edge + near infrared, short wave
    decibels: tuple[float, float]  # added to VV and VH
    cloud: float  # probability that a season has clouds


PRETRAIN = World(
    parcel=22.0, stretch=(1.0, 2.4), crops=0.9, shrub=-0.9, fallow=-1.9, woods=0.38, lakes=1.25, towns=1.35,
    highlands=-0.15, wetness=0.0, gardens=0.45, offsets=1.0, brightness=(0.0, 0.0, 0.0), decibels=(0.0, 0.0),
    cloud=0.55,
)  # fmt: skip
SHIFTED = World(
    parcel=14.0, stretch=(1.4, 3.6), crops=0.0, shrub=-0.35, fallow=-1.4, woods=0.65, lakes=1.35, towns=1.05,
    highlands=-0.25, wetness=0.25, gardens=0.25, offsets=1.15, brightness=(0.10, -0.07, 0.12), decibels=(1.0, -0.8),
    cloud=0.0,
)  # fmt: skip
WORLDS = {"pretrain": PRETRAIN, "shifted": SHIFTED}


@dataclass(frozen=True, kw_only=True)
class SyntheticWorld:
    """Which places to make: name of the world, side in pixels of 10 m, seasons, and the seed of the world's labeller.

    `pretrain` has the nine classes of Dynamic World and labels that err; `shifted` has other parcels, class mix,
    spectra and radar levels, no clouds, and exact labels in a land-use legend of eight classes.
    """

    name: Literal["pretrain", "shifted"] = "pretrain"
    size: int = 128
    seasons: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in WORLDS:
            raise ArgumentError("there is no such world", got=self.name, expected=" or ".join(WORLDS))
        if self.size < 16:
            raise ArgumentError("a scene is at least 16 pixels wide", got=self.size)
        if not 1 <= self.seasons <= 12:
            raise ArgumentError("a place has 1 to 12 seasons, spread over the year", got=self.seasons)
        if self.seed < 0:
            raise ArgumentError("a seed is not negative", got=self.seed)

    @property
    def legend(self) -> Legend:
        """The legend of labels and truth."""
        return SHIFTED_LEGEND if self.name == "shifted" else get_legend("dynamic_world")


def world_of(world: SyntheticWorld) -> World:
    """The numbers of a world."""
    return WORLDS[world.name]


def months(seasons: int) -> tuple[int, ...]:
    """The month (0 = January) of each season: evenly over the year from January, or July where there is only one."""
    return (6,) if seasons == 1 else tuple(round(12 * season / seasons) for season in range(seasons))


def season_names(seasons: int) -> tuple[str, ...]:
    """The months of the seasons by name, e.g. january, april, july, october."""
    return tuple(MONTHS[month] for month in months(seasons))
