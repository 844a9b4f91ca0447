"""What lies between the ground and the optical sensor: haze, clouds, and the shadows of the clouds.

In: a World, a size, a generator. Out: a Sky. About 4% of the pixels of the pretraining world are hidden by cloud or
shadow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cromss.data.synthetic.fields import Array, correlated, smoothstep
from cromss.data.synthetic.worlds import World

__all__ = ["Sky", "draw_sky"]

SHADOW_PX = (
    6.0,
    16.0,
)  # distance from a cloud to its shadow: a cloud base of 0.1-0.3 km under a low sun to 1 km under a high one


@dataclass(frozen=True, kw_only=True)
class Sky:
    """One season's sky. Arrays (H, W): cloud and shadow are opacities from 0 to 1, haze a density around 0.5."""

    cloud: Array
    shadow: Array
    haze: Array
    brightness: float  # factor on the reflectance of the clouds


def draw_sky(rng: np.random.Generator, world: World, size: int) -> Sky:
    """Draw one season's sky: always some haze, clouds in some seasons, shadows north-west of them."""
    haze = rng.gamma(1.5, 0.2) * np.exp(0.4 * correlated(rng, size, 30.0))
    brightness = float(np.exp(0.18 * rng.standard_normal()))
    if rng.random() >= world.cloud:
        clear = np.zeros((size, size))
        return Sky(cloud=clear, shadow=clear, haze=haze, brightness=brightness)
    density = 0.8 * correlated(rng, size, 8.0) + 0.35 * correlated(rng, size, 3.0) + 0.15 * correlated(rng, size, 1.2)
    start = rng.uniform(0.75, 1.95)
    cloud = smoothstep(density, start, start + 0.6)
    away = rng.uniform(*SHADOW_PX)
    moved = ndimage.shift(cloud, (-0.8 * away, -0.6 * away), order=1, mode="nearest")
    shadow = ndimage.gaussian_filter(moved, 0.7, mode="nearest") * (1 - cloud)
    return Sky(cloud=cloud, shadow=shadow, haze=haze, brightness=brightness)
