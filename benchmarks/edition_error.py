"""What edition "uint8" loses against "native": error by band in the sensor's unit, on the places of a native store.

    python benchmarks/edition_error.py STORE

For each product and band: the step of the 8-bit scale (4 std / 255), the mean and the root mean square of (read back -
native) over the valid pixels inside mean +- 2 std, and the share of valid pixels outside, which are clipped.
"""

from __future__ import annotations

import argparse

import numpy as np

from cromss.data.store import Store
from cromss.geo.bands import SENSORS, published_normalization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    with Store.open(parser.parse_args().store) as store:
        for sensor, bands in store.sensors.items():
            scale = published_normalization(sensor, bands)
            unit = SENSORS[sensor].unit
            for product in store.product_names(sensor):
                errors: list[list[np.ndarray]] = [[] for _ in bands]
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
                        for i in range(len(bands)):
                            errors[i].append((back[i] - values[i, :, 0])[inside[i]])
                print(f"{sensor} {product}: {pixels} pixels, errors in {unit}")
                for name, parts, std in zip(bands, errors, scale.statistics[product]["std"], strict=True):
                    error = np.concatenate(parts)
                    rms = np.sqrt((error**2).mean())
                    print(
                        f"  {name:4} step {4 * std / 255:7.3f}   mean {error.mean():8.3f}   rms {rms:7.3f}"
                        f"   clipped {1 - error.size / pixels:6.2%}"
                    )


if __name__ == "__main__":
    main()
