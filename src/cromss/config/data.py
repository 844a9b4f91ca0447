"""Settings of the commands that make data: scenes, labels, stores, downloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["DownloadConfig", "LabelsConfig", "Layout", "PrepareConfig", "SynthesizeConfig", "VerifyConfig"]

Edition = Literal["native", "int16", "uint8"]
Layout = Literal[
    "geotiff_folders",
    "stac",
    "cube",
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
        edition: `native` keeps dB and DN; `int16` steps of 0.005 dB and of 1 DN; `uint8` the authors' 8-bit scaling.
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
        s2_offset: rules: DN that were added to all values, and are taken off, e.g. 1000; null reads each image's tags.
        band_names: rules: what the images call their bands, e.g. `{s2: {blue: B2, red: B4}}`, or `{s2: FILE}` with a
            YAML file of such lines.
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
        workers: processes that label, one of them without Dask; files and report are the same for any number.
        dask_scheduler: address of a Dask scheduler whose workers are used instead; they need the same files under the
            same paths.
    """

    source: Literal["rules", "polygons", "maps", "stac", "probabilities", "fuse", "earth_engine"]
    out: str
    root: str = "."
    images: str = "s2/{id}.tif"
    legend: str = "dynamic_world"
    s2_product: Literal["L1C", "L2A"] | None = None
    s2_offset: int | None = None
    band_names: dict[str, Any] = field(default_factory=dict)
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
    workers: int = 1
    dask_scheduler: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Read GeoTIFFs, STAC items, a cube or a published data set, check everything, and put it into a training store.

    Beside the store it leaves prepare-report.html: shifts, bands, classes, examples, and all that was left out.

    Args:
        out: folder of the new store.
        root: folder that the patterns below start from; of a published layout the folder, or zip file, that holds it.
        layout: how the files lie: `geotiff_folders` (as the patterns say), `stac` or `cube` (as those sections say), or
            as published, from root alone: `ssl4eo_s12` (v1.0), `ssl4eo_s12_v1_1` (tar shards, or the Zarr shards before
            them), `noldo_s12_nol` (v1.0 images with noisy labels, whose folder or zip `labels` may name),
            `noldo_s12_dw`, `noldo_s12_osm` (exact labels; folder or zip; the second needs legend `osm13`), `dfc2020`
            and `sen12ms` (folders of regions), `bigearthnet` (v2), `cromss_lmdb` and `dfc2020_lmdb` (what the authors
            train from; s1, s2, labels may name the files of the first). There a pattern is null (leave out) or left as
            it is.
        s1: pattern of the Sentinel-1 files, e.g. `s1/{id}.tif` or `s1/{id}/{season}.tif`; null for none.
        s2: pattern of the Sentinel-2 files; null for none.
        sensors: further sensors, by name, e.g. `{dem: {files: "dem/{id}.tif", unit: m, bands: [elevation, slope],
            valid_min: -500, valid_max: 9000}}`; without {season} in its pattern an image serves all seasons of a place
            (docs/sensors.md has all that an entry may say).
        band_names: what the files of s1 or s2 call their bands, e.g. `{s2: {blue: B2, red: B4}}`, or the name of a YAML
            file of such lines, `{s2: names.yaml}`.
        stac: layout stac: items of a catalogue or API, e.g. `{catalog: catalog.json, s2: {collection: s2, assets:
            {blue: B2, red: B4}}, bbox: [11, 47, 12, 48], start: 2021-05-01, place: "grid:code", season: month}`; roles
            are sensors, labels, truth, probabilities, clouds, and annotators by name (docs/stac-and-cubes.md).
        cube: layout cube: variables of one Zarr store as xarray writes it, e.g. `{path: cube.zarr, s2: {variable: s2,
            bands: {B02: B2}}, labels: {variable: map}}`; roles as above; cut it by `tile`.
        labels: pattern of the label maps; null for none.
        label_rules: label images that have no labels by the spectral rules of `cromss labels rules`, each season by its
            own Sentinel-2 image; the bands that the rules look at are read besides s2_bands, and not kept.
        annotators: patterns of the label maps of several annotators, kept apart, in place of labels, e.g.
            `{dw: "dw/{id}.tif", osm: "osm/{id}.tif"}`, after those of the section stac or cube; scores are taken
            against the first; null for one who gives probabilities alone (docs/labels.md).
        probabilities: pattern of soft labels, rasters with a band a class, 0..1 or percent; where labels is null, or
            left as it is and no such folder is there, the likeliest class is the label. Of annotators a pattern by
            name, for some or all, e.g. `{dw: "soft/{id}.tif"}`.
        truth: pattern of exact label maps of the same scenes, where known (for scoring only).
        cloud_mask: pattern of masks of clouds on the same grid, for the share of cloud in the report; without one, B10
            of L1C shows cirrus.
        cloud_values: what means cloud in them: `scl` (8, 9, 10), `qa60` (bits 10, 11), `s2cloudless` (40 % or more),
            or values such as `1`, `3,8,9,10` or `>=65`; of layout ssl4eo_s12_v1_1 in the masks of its shards.
        mask_clouds: make labels under cloud 255, counted; the truth stays.
        s1_bands: bands to keep, by name or set (`all`, `2`).
        s2_bands: bands to keep, by name or set (`all`, `13`, `12`, `10`, `9`, `3`).
        s1_product: `GRD`.
        s2_product: `L1C` or `L2A`; null reads the tag LEVEL of each file.
        s2_offset: DN that were added to all Sentinel-2 values, and are taken off: 1000 for files as the agency delivers
            them since 2022 (baseline 04.00), else 0; null reads the tags RADIO_ADD_OFFSET, BOA_ADD_OFFSET of each file.
        legend: name or JSON file of the class scheme of the label maps.
        split: pattern of rasters whose values name splits, or a CSV with columns id, split; null puts all into train.
        split_values: the value of each split in those rasters; other values belong to no split.
        validation_share: share of places drawn for validation where no split is given, 0 to 1.
        test_share: share of places drawn for testing where no split is given, 0 to 1.
        split_blocks: side in pixels of square blocks of ground that are drawn instead of places, so that patches of
            different splits share no pixel, also of overlapping scenes; null draws places. Several times `tile`.
        split_buffer: pixels that patches of different splits are apart at least; what lies nearer is left out, counted.
        seed: seed of that draw, keyed by place or block.
        tile: cut scenes into square patches of this many pixels; null keeps them whole.
        align_to: the sensor, e.g. `s2`, whose grid all files of a place are warped onto, classes by the nearest pixel,
            each counted; null refuses files that are not on one grid.
        resampling: how images are warped then: `bilinear` or `cubic`; a pixel that touches no-data has none.
        edition: `native` keeps dB and DN; `int16` steps of 0.005 dB and of 1 DN; `uint8` the authors' 8-bit scaling.
        on_bad: `stop` refuses everything if one scene is bad; `skip` leaves bad scenes out, counted and listed.
        shard_places: places a shard file.
        shift_samples: images whose shifts are measured for the report, spread evenly over the set; 0 for none.
        max_shift: refuse a scene of which a further sensor or the labels are measured to lie more than so many pixels
            off its first image, e.g. 3; all images are then measured. null refuses none.
        workers: processes that read and write, one of them without Dask; the store is the same for any number.
        dask_scheduler: address of a Dask scheduler, e.g. `tcp://10.0.0.5:8786`, whose workers are used instead; they
            need the same files under the same paths.
    """

    out: str
    root: str = "."
    layout: Layout = "geotiff_folders"
    s1: str | None = "s1/{id}.tif"
    s2: str | None = "s2/{id}.tif"
    sensors: dict[str, Any] = field(default_factory=dict)
    band_names: dict[str, Any] = field(default_factory=dict)
    stac: dict[str, Any] = field(default_factory=dict)
    cube: dict[str, Any] = field(default_factory=dict)
    labels: str | None = "labels/{id}.tif"
    label_rules: bool = False
    annotators: dict[str, str | None] = field(default_factory=dict)
    probabilities: dict[str, str] | str | None = None
    truth: str | None = None
    cloud_mask: str | None = None
    cloud_values: str | None = None
    mask_clouds: bool = False
    s1_bands: str = "all"
    s2_bands: str = "all"
    s1_product: str = "GRD"
    s2_product: Literal["L1C", "L2A"] | None = None
    s2_offset: int | None = None
    legend: str = "dynamic_world"
    split: str | None = None
    split_values: dict[str, int] = field(default_factory=lambda: {"train": 1, "test": 2, "validation": 3})
    validation_share: float = 0.0
    test_share: float = 0.0
    split_blocks: int | None = None
    split_buffer: int = 0
    seed: int = 0
    tile: int | None = None
    align_to: str | None = None
    resampling: Literal["bilinear", "cubic"] = "bilinear"
    edition: Edition = "native"
    on_bad: Literal["stop", "skip"] = "stop"
    shard_places: int = 64
    shift_samples: int = 400
    max_shift: float | None = None
    workers: int = 1
    dask_scheduler: str | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Read every byte of a training store or a checkpoint and compare it with its checksums.

    Args:
        path: folder of a store, a checkpoint or a run.
        workers: processes that read, one of them without Dask.
        dask_scheduler: address of a Dask scheduler whose workers are used instead; they need the same files.
    """

    path: str
    workers: int = 1
    dask_scheduler: str | None = None


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Fetch a published data set, check every byte, and unpack it; the same command goes on after any interruption.

    Args:
        name: the data set; the setting list shows all, with size and licence.
        out: folder for its files; null: a folder of the data set's name, here.
        files: only these files or archives of it; empty takes all.
        list: show the known data sets and do nothing.
        unpack: unpack the archives into folders beside them.
        keep_archives: keep the archives that were unpacked.
        max_ratio: refuse an archive that unpacks to more than so many times its size.
        mirror: another server with the same paths, e.g. `https://mirror.example`; null: the publisher's.
        retries: tries in a row that bring no new byte, until giving up.
        timeout: seconds without a byte until a connection counts as lost.
    """

    name: str | None = None
    out: str | None = None
    files: tuple[str, ...] = ()
    list: bool = False
    unpack: bool = True
    keep_archives: bool = True
    max_ratio: float = 20.0
    mirror: str | None = None
    retries: int = 5
    timeout: float = 60.0
