"""What editions "uint8" and "int16" lose against "native": error by band in the sensor's unit, on a native store.

    python benchmarks/edition_error.py STORE

For each product and band: the step of the 8-bit scale (4 std / 255), the mean and the root mean square of (read back -
native) over the valid pixels inside mean +- 2 std, and the share of valid pixels outside, which are clipped. Then the
same of edition "int16", which clips nothing, over all valid pixels.
"""

from __future__ import annotations

import argparse

import numpy as np

from cromss.data.store import Store
from cromss.data.store.whole_steps import steps_of
from cromss.geo.bands import SENSORS, published_normalization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    with Store.open(parser.parse_args().store) as store:
        for sensor, bands in store.sensors.items():
            scale = published_normalization(sensor, bands)
            unit, steps = SENSORS[sensor].unit, steps_of(SENSORS[sensor])
            for product in store.product_names(sensor):
                errors: list[list[np.ndarray]] = [[] for _ in bands]
                whole: list[list[np.ndarray]] = [[] for _ in bands]
                pixels = 0
                for place in range(len(store)):
                    if store.products(place)[sensor] != product:
                        continue
                    for season in range(store.num_seasons(place)):
                        raw = store.read(place, season)
                        values = raw[sensor][:, raw["valid"]].astype(np.float64)[..., None]
                        unit_scale = scale.apply(values, product)
                        stored = np.floor(unit_scale * np.float32(255)) / 255  # as the writer does, read back
                        back = scale.undo(stored, product)[..., 0]
                        inside = ((unit_scale > 0) & (unit_scale < 1))[..., 0]
                        pixels += values.shape[1]
                        stepped = steps.undo(steps.apply(values[..., 0], np.ones(values.shape[:2], bool), sensor))
                        for i in range(len(bands)):
                            whole[i].append(stepped[i] - values[i, :, 0])
                            errors[i].append((back[i] - values[i, :, 0])[inside[i]])
                print(f"{sensor} {product}: {pixels} pixels, errors in {unit}")
                deviations = scale.statistics[product]["std"]
                for name, parts, others, std in zip(bands, errors, whole, deviations, strict=True):
                    error, other = np.concatenate(parts), np.concatenate(others)
                    rms = np.sqrt((error**2).mean())
                    print(
                        f"  {name:4} step {4 * std / 255:7.3f}   mean {error.mean():8.3f}   rms {rms:7.3f}"
                        f"   clipped {1 - error.size / pixels:6.2%}"
                        f"   int16: step {steps.step:g}   mean {other.mean():8.5f}"
                        f"   rms {np.sqrt((other**2).mean()):7.5f}   largest {np.abs(other).max():7.5f}"
                    )


if __name__ == "__main__":
    main()
