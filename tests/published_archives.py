"""Small archives in the exact layout of published data sets, for the tests of their readers.

The pixels are drawn from the seed; names, sizes, types, boxes and folders are those of the publishers.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from cromss.geo.bands import SENSORS, published_normalization
from cromss.geo.raster import Grid
from small_scenes import grid, s1_values, s2_values, write

LON, LAT = 73.2925443, 30.4755733
PX_X, PX_Y = 1.0141e-4, 8.797e-5  # degrees of a pixel of 10 m there
PIXEL_M = {**dict.fromkeys(("VV", "VH", "B2", "B3", "B4", "B8"), 10), **dict.fromkeys(("B1", "B9", "B10"), 60)}
S2_SEASONS = (
    "20200604T054639_20200604T054831_T43RCP",
    "20200823T054639_20200823T055618_T43RCP",
    "20201126T055141_20201126T055140_T43RCP",
    "20210310T054641_20210310T055312_T43RCP",
)
# by name these do not stand in the order of their dates, nor do they share the days of Sentinel-2
S1_SEASONS = (
    "S1B_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457",
    "S1A_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C",
    "S1B_IW_GRDH_1SDV_20201120T010805_20201120T010830_035354_042165_1A2B",
    "S1A_IW_GRDH_1SDV_20210305T131212_20210305T131237_036895_0456AB_0C1D",
)
S2_FOLDER = {"L1C": "s2c", "L2A": "s2a"}


def box(side: int, metres: int, right: float = 0.0, down: float = 0.0) -> Grid:
    """The lat/lon box that a band of this pixel size carries, moved by `right` and `down` px of 10 m."""
    shift = (metres / 10 - 1) / 2
    corner = LON + (right - shift) * PX_X, LAT - (down - shift) * PX_Y
    place = Affine(PX_X * metres / 10, 0, corner[0], 0, -PX_Y * metres / 10, corner[1])
    return Grid(height=side, width=side, transform=place, crs=CRS.from_epsg(4326))


def band_values(rng: np.random.Generator, name: str, product: str) -> np.ndarray:
    """A band at its own size: smooth fields within 1.5 std of the published mean, in dB or DN."""
    sensor = "s1" if product == "GRD" else "s2"
    side = 2640 // PIXEL_M.get(name, 20)
    mean, std = SENSORS[sensor].statistics[product][name]
    coarse = rng.uniform(-1.5, 1.5, (11, 11)).repeat(side // 11, 0).repeat(side // 11, 1)
    values = mean + std * coarse + rng.normal(0, std / 50, (side, side))
    return values.astype(np.float32) if sensor == "s1" else np.maximum(values, 1).astype(np.uint16)


def write_season(folder: Path, product: str, seed: int, *, eight_bit: bool = False, right: float = 0.0) -> None:
    """All bands of one acquisition."""
    sensor = "s1" if product == "GRD" else "s2"
    rng = np.random.default_rng(seed)
    for name in SENSORS[sensor].products[product]:
        values = band_values(rng, name, product)
        if eight_bit:
            scaled = published_normalization(sensor, (name,)).apply(values[None].astype(np.float64), product)[0]
            values = (scaled * 255).astype(np.uint8)
        write(folder / f"{name}.tif", values, box(len(values), PIXEL_M.get(name, 20), right))


def write_ssl4eo(root: Path, places: int = 1, seasons: int = 4, product: str = "L1C", **options: Any) -> list[str]:
    """SSL4EO-S12 v1.0; returns the ids."""
    ids = [f"{200 + number:07d}" for number in range(places)]
    for number, place in enumerate(ids):
        for season in range(seasons):
            seed = 100 * number + season
            write_season(root / "s1" / place / S1_SEASONS[season], "GRD", seed, right=-3.0, **options)
            write_season(root / S2_FOLDER[product] / place / S2_SEASONS[season], product, seed + 50, **options)
    return ids


def write_nol(root: Path, ids: list[str], seasons: int = 4, *, side: int = 264, head: bool = True) -> None:
    """The noisy labels of SSL4EO-S12@NoL for these places: int16 maps, and the table of ids."""
    rows = ["ids,sub1,sub2,sub3,sub4"] if head else []
    for place in ids:
        rows.append(",".join([str(int(place)), *S2_SEASONS]))
        for number, season in enumerate(S2_SEASONS[:seasons]):
            rng = np.random.default_rng([int(place), number])
            labels = rng.integers(0, 9, (side // 8 + 1, side // 8 + 1)).repeat(8, 0).repeat(8, 1)[:side, :side]
            where = box(side, 10)
            write(root / "dw_noisy_labels" / place / season / "label.tif", labels.astype(np.int16), where)
    (root / "dw_complete_ids.csv").write_text("\n".join(rows) + "\n")


def write_tile(
    folder: Path, task: str, key: str, seed: int, side: int = 64, *, bands: int = 13, **changes: Any
) -> None:
    """One tile of SSL4EO-S12@DW or @OSM: files that name neither bands nor a no-data value."""
    rng = np.random.default_rng(seed)
    classes = {"dw": 9, "osm": 13}[task]
    labels = rng.integers(0, classes + 1, (side, side)).astype(np.uint8)
    labels[:2] = 0
    if task == "dw":
        labels[2, :4] = 10
    where = changes.get("where", grid(side))
    write(folder / "image_s1" / f"s1_{key}.tif", s1_values(rng, side), where)
    write(folder / "image_s2" / f"s2_{key}.tif", s2_values(rng, side)[:bands], where)
    write(folder / f"label_{task}" / f"{task}_{key}.tif", changes.get("labels", labels), changes.get("map", where))


def write_expert(root: Path, task: str, train: int = 3, test: int = 2, sides: tuple[int, int] = (64, 66)) -> None:
    """SSL4EO-S12@DW or @OSM; test names have "p" for the decimal point."""
    for number in range(train):
        key = f"-{number}.0520777954_32.9493499204-20190816"
        write_tile(root / f"{task}_train", task, key, number, sides[0])
    for number in range(test):
        key = f"-{number}p6481384406_6p8231873947-20190226"
        write_tile(root / f"{task}_test", task, key, 50 + number, sides[1])


def zip_folder(folder: Path, path: Path, prefix: str = "") -> Path:
    """Every file of a folder as a zip file, as a publisher would pack it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def write_shard(path: Path, product: str, places: list[str], scratch: Path, **changes: Any) -> Path:
    """One shard of SSL4EO-S12 v1.1 as xarray writes Zarr version 2, chunked by time; `changes` replace arrays."""
    samples = [sample_arrays(product, int(place), column) for column, place in enumerate(places)]
    stacked = {name: np.stack([sample[name] for sample in samples]) for name in samples[0] if name != "band"}
    arrays = {{"x": "x_", "y": "y_", "time": "time_"}.get(name, name): values for name, values in stacked.items()}
    arrays |= {"bands": offset(arrays["bands"]), "band": samples[0]["band"], "sample": np.array(places, "<U7")}
    arrays |= changes
    folder = scratch / path.name
    chunks = {"bands": (len(places), 1, *arrays["bands"].shape[2:])}
    write_zarr(folder, arrays, "seconds since 2020-03-01 10:00:00", chunks)
    path.parent.mkdir(parents=True, exist_ok=True)
    return zip_folder(folder, path)


def offset(bands: np.ndarray) -> np.ndarray:
    """The images as the Zarr edition has them: 1000 more for Sentinel-2."""
    return bands if bands.dtype.kind == "f" else bands + np.int16(1000)


def sample_arrays(product: str, number: int, column: int = 0) -> dict[str, np.ndarray]:
    """What one sensor holds of one sample of v1.1, by name, without offset; places of other columns lie apart."""
    sensor = "s1" if product == "GRD" else "s2"
    names, side = SENSORS[sensor].products[product], 264
    rng = np.random.default_rng([number, len(product), len(names)])
    table = SENSORS[sensor].statistics[product]
    mean, std = (np.array([table[name][part] for name in names])[:, None, None] for part in (0, 1))
    coarse = rng.uniform(-1, 1, (4, len(names), 8, 8)).repeat(33, 2).repeat(33, 3)
    images = np.maximum(mean + std * coarse, -40 if sensor == "s1" else 1)
    x = 340805.0 + 5000 * column + 10 * np.arange(side)
    y = 5314795.0 - 10 * np.arange(side)
    (lon,), (lat,) = transform("EPSG:32633", "EPSG:4326", [x[132] - 5], [y[132] + 5])
    days = np.array([0, 95, 190, 280]) * 86400 + (3600 if sensor == "s1" else 0)
    stamps = [str(time).replace("-", "").replace(":", "") for time in np.datetime64("2020-03-01T10:00:00") + days]
    form = "S1A_IW_GRDH_1SDV_{0}_{0}_032904_03CFBA_D457" if sensor == "s1" else "{0}_{0}_T33UWP"
    return {
        "bands": images.astype(np.float16 if sensor == "s1" else np.int16),
        "band": np.array([_long(name) for name in names]),
        "crs": np.array(32633, np.int64),
        "x": x,
        "y": y,
        "center_lon": np.array(lon),
        "center_lat": np.array(lat),
        "time": days,
        "file_id": np.array([form.format(stamp) for stamp in stamps]),
        **({} if sensor == "s1" else {"cloud_mask": cloud_mask(number)}),
    }


def cloud_mask(number: int) -> np.ndarray:
    """A mask of four times, where the left half of the third holds 1 and a quarter of it 2."""
    mask = np.zeros((4, 264, 264), np.uint8)
    mask[2, :, :132], mask[2, :132, 132:] = 1 + number % 2, 2
    return mask


def write_zarr(
    folder: Path, arrays: dict[str, Any], units: str, chunks: dict[str, tuple[int, ...]] | None = None
) -> None:
    """Arrays as xarray writes them in Zarr version 2, each in one chunk unless `chunks` says otherwise."""
    import zarr  # the tests of these layouts are skipped without it

    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    for name, values in arrays.items():
        size = (chunks or {}).get(name, values.shape)
        fill = "NaN" if values.dtype.kind == "f" else None
        array = group.create_array(name, shape=values.shape, chunks=size, dtype=values.dtype, fill_value=fill)
        array[...] = values
    for name in ("time", "time_"):
        if name in arrays:
            group[name].attrs["units"] = units


def _long(name: str) -> str:
    """B1 as B01, VV as vv: names as v1.1 has them."""
    return name.lower() if name.startswith("V") else f"B0{name[1]}" if len(name) == 2 else name


def write_v11(root: Path, scratch: Path, product: str = "L1C") -> None:
    """SSL4EO-S12 v1.1 with a shard of two samples for training and one for validation."""
    folder = {"L1C": "S2L1C", "L2A": "S2L2A"}[product]
    for split, places in (("train", ["0080717", "0060573"]), ("val", ["0000173", "0179869"])):
        name = f"ssl4eos12_{split}_seasonal_data_000001.zarr.zip"
        write_shard(root / split / "S1GRD" / name, "GRD", places, scratch / f"{split}1")
        write_shard(root / split / folder / name, product, places, scratch / f"{split}2")


def tar_member(product: str, number: int, scratch: Path, column: int = 0, **changes: Any) -> bytes:
    """One sample of one sensor as a member of the tar edition; `changes` replace arrays."""
    arrays = sample_arrays(product, number, column) | {"sample": np.array(f"{number:07d}")}
    arrays["time"] = (arrays["time"] + 1583056800) * 10**9  # 2020-03-01 10:00 after 1970
    folder = scratch / f"{product}-{number}"
    write_zarr(folder, arrays | changes, "nanoseconds since 1970-01-01")
    return zip_folder(folder, scratch / f"{product}-{number}.zip").read_bytes()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Members as the package webdataset packs them: with a PAX header each, for times of parts of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size, header.mtime = len(content), 1771286400.25
            file.addfile(header, io.BytesIO(content))
    return path


def write_v11_tar(root: Path, scratch: Path, product: str = "L1C") -> None:
    """The tar edition of SSL4EO-S12 v1.1 with two samples for training and two for validation, a shard each."""
    folder = {"L1C": "S2L1C", "L2A": "S2L2A"}[product]
    for split, numbers in (("train", (216839, 80717)), ("val", (173, 179869))):
        names = [f"ssl4eos12_{split}_seasonal_data_{number:07d}.zarr.zip" for number in (1, 2)]
        for modality, of in (("S1GRD", "GRD"), (folder, product)):
            contents = [tar_member(of, number, scratch / split, column) for column, number in enumerate(numbers)]
            write_tar(root / split / modality / "ssl4eos12_shard_000001.tar", dict(zip(names, contents, strict=True)))
