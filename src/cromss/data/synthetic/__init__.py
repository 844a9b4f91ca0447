"""Synthetic places with known truth: land, Sentinel-1, Sentinel-2, and label maps that err as Dynamic World's do.

In: a `SyntheticWorld` (which law, size, seasons, seed). Out: `PlaceRecord`s, a training store, or GeoTIFFs of one
scene. They exist so that the method's claims can be measured where the truth is known; they are no substitute for real
data.

    landscape -> spectra (under a sky) and radar -> noise -> scenes -> writing
"""

from __future__ import annotations

from cromss.data.synthetic.measures import LabelTally
from cromss.data.synthetic.scenes import make_place, synthesize, synthesize_scene
from cromss.data.synthetic.worlds import SHIFTED_LEGEND, SyntheticWorld
from cromss.data.synthetic.writing import synthesize_store, write_scene

__all__ = [
    "SHIFTED_LEGEND",
    "LabelTally",
    "SyntheticWorld",
    "make_place",
    "synthesize",
    "synthesize_scene",
    "synthesize_store",
    "write_scene",
]
