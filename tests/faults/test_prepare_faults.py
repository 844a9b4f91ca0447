"""Files that do not belong together, hold impossible values, or are not there: none of it reaches a store unnoticed."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from cromss.cli import main
from cromss.data.prepare import prepare
from cromss.data.sources.file_patterns import find_files, join_by_id
from cromss.data.sources.own_images import OwnImages
from cromss.data.store import Store
from cromss.errors import CromssError, DamagedFileError, GridError, LabelError, RangeError, StoreError
from cromss.geo.legend import IGNORE
from cromss.geo.legends import LEGENDS, get_legend
from records import contents
from small_scenes import S2_BANDS, grid, s1_values, s2_values, settings, write_labels, write_s1, write_s2, write_scene

ROLES = ("s1", "s2", "labels")


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate("abcd"):
        write_scene(tmp_path / "in", name, seed)
    return tmp_path / "in"


def rewrite(path: Path, values=None, where=None, **options):
    """Write the file of a role again, with changes."""
    values = read_values(path) if values is None else values
    {"s1": write_s1, "s2": write_s2, "labels": write_labels}[path.parent.name](path, values, where, **options)


def read_values(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


UPPER_LEFT = (340800, 5314800)
GRIDS = {
    "other CRS": ({"crs": CRS.from_epsg(32634)}, "EPSG:32634"),
    "flip": ({"transform": Affine(10, 0, 340800, 0, 10, 5314640)}, "flipped"),
    "rotation": ({"transform": Affine(9.9, 1.4, 340800, 1.4, -9.9, 5314800)}, "rotated"),
    "half a pixel": ({"transform": Affine(10, 0, 340805, 0, -10, 5314800)}, "0.5 px"),
    "one pixel": ({"transform": Affine(10, 0, 340800, 0, -10, 5314790)}, "1 px"),
    "pixel size": ({"transform": Affine(20, 0, 340800, 0, -20, 5314800)}, "pixel size"),
    "no georeference": ({"transform": Affine.identity(), "crs": None}, "missing"),
}


@pytest.mark.parametrize("mutation", GRIDS)
@pytest.mark.parametrize("role", ROLES)
def test_a_file_on_another_grid_is_refused_with_both_files_and_the_difference(role, mutation, root, tmp_path):
    change, words = GRIDS[mutation]
    rewrite(root / role / "b.tif", where=grid(**change))
    with pytest.raises(GridError) as caught:
        prepare(settings(root, tmp_path / "out"))
    assert words in str(caught.value.got)
    assert f"{role}/b.tif" in str(caught.value.where)
    assert str(caught.value.where).count("b.tif") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ROLES)
def test_a_file_of_another_size_is_refused(role, root, tmp_path):
    rewrite(root / role / "b.tif", np.ascontiguousarray(read_values(root / role / "b.tif")[:, :, :15]), grid(width=15))
    with pytest.raises(GridError, match=r"size 16 x 1(5|6) and 16 x 1(5|6) px"):
        prepare(settings(root, tmp_path / "out"))


def set_scale(path: Path) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = [0.5] * dataset.count


CONTENTS = {
    "one band too few": lambda s2: rewrite(s2, read_values(s2)[:12], band_names=S2_BANDS[:12]),
    "another band left out": lambda s2: rewrite(
        s2, np.delete(read_values(s2), 9, 0), band_names=S2_BANDS[:9] + S2_BANDS[10:]
    ),
    "one band too many": lambda s2: rewrite(s2, read_values(s2)[[*range(13), 0]], band_names=(*S2_BANDS, "SCL")),
    "another order": lambda s2: rewrite(s2, read_values(s2)[::-1], band_names=S2_BANDS[::-1]),
    "names that contradict": lambda s2: rewrite(s2, tags={"LEVEL": "L1C", "BAND_ORDER": ",".join(S2_BANDS[::-1])}),
    "no names": lambda s2: rewrite(s2, band_names=()),
    "float type": lambda s2: rewrite(s2, read_values(s2).astype(np.float32)),
    "8-bit type": lambda s2: rewrite(s2, (read_values(s2) // 256 + 1).astype(np.uint8)),
    "reflectance": lambda s2: rewrite(s2, (read_values(s2) / 10000).astype(np.float32)),
    "declared scale": set_scale,
    "no product": lambda s2: rewrite(s2, tags={}),
    "undeclared fill": lambda s2: rewrite(s2, np.pad(read_values(s2)[:, 1:], ((0, 0), (1, 0), (0, 0))), nodata=None),
}


@pytest.mark.parametrize("mutation", CONTENTS)
def test_a_file_with_other_content_than_it_should_have_is_refused_by_name(mutation, root, tmp_path):
    CONTENTS[mutation](root / "s2" / "b.tif")
    with pytest.raises(CromssError) as caught:
        prepare(settings(root, tmp_path / "out", s2_bands="9"))
    error = caught.value
    assert str(error.where) == str(root / "s2" / "b.tif")
    assert error.got
    assert error.expected
    assert error.do
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38])
@pytest.mark.parametrize("pixels", [1, 40])
def test_impossible_numbers_are_refused_with_their_count(value, pixels, root, tmp_path):
    values = s1_values(np.random.default_rng(0))
    values[1].reshape(-1)[:pixels] = value
    rewrite(root / "s1" / "b.tif", values, nodata=None)
    with pytest.raises(RangeError, match=rf"{pixels} (of 256 )?pixels") as caught:
        prepare(settings(root, tmp_path / "out"))
    assert str(caught.value.where).endswith("s1/b.tif")


def test_declared_no_data_is_a_mask_and_not_a_fault(root, tmp_path):
    values = s1_values(np.random.default_rng(0))
    values[:, :4] = np.nan
    rewrite(root / "s1" / "b.tif", values)
    report = prepare(settings(root, tmp_path / "out"))
    assert report["no_data_share"] == 0.25 / 4


LABEL_CASES = [(np.uint8(value).reshape(1), value) for value in range(256)] + [(np.array([-1], np.int16), -1)]


@pytest.mark.parametrize("name", ["dynamic_world", "dfc2020", "worldcover"])
def test_every_label_value_is_mapped_by_table_or_refused_with_value_count_and_file(name):
    legend = LEGENDS[name]
    for values, value in LABEL_CASES:
        layer = np.broadcast_to(values, (3, 5))
        if value in legend.codes:
            assert (legend.encode(layer, "map.tif") == legend.codes[value]).all()
        else:
            with pytest.raises(LabelError) as caught:
                legend.encode(layer, "map.tif")
            assert caught.value.got == f"{value} (15 pixels)"
            assert caught.value.where == "map.tif"


def test_a_value_outside_the_legend_never_reaches_a_store(root, tmp_path):
    """Through files: the values 0..255 in one label map, of which 9..254 are no class."""
    rewrite(root / "labels" / "b.tif", np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    with pytest.raises(LabelError, match=r"9 \(1 pixels\), 10 \(1 pixels\).*238 more values"):
        prepare(settings(root, tmp_path / "out"))


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (lambda root: [path.unlink() for path in (root / "s2").iterdir()], "no file of s2"),
        (lambda root: shutil.rmtree(root / "labels"), "folder of labels does not exist"),
        (
            lambda root: [path.rename(path.with_name(f"x{path.name}")) for path in (root / "s1").iterdir()],
            "no scene has",
        ),
    ],
)
def test_nothing_to_read_ends_at_once_with_path_pattern_and_next_step(arrange, words, root, tmp_path, capsys):
    arrange(root)
    begun = time.monotonic()
    code = main(["prepare", "--root", str(root), "--out", str(tmp_path / "out")])
    assert time.monotonic() - begun < 2
    text = capsys.readouterr().err
    assert code == 2
    assert words in text
    assert str(root) in text
    assert "{id}" in text
    assert "  do: " in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (None, ["--validation_share", "0.0001"], "the validation split is empty"),
        (None, ["--test_share", "0.0001"], "the test split is empty"),
        ("id,split\nx,train\n", ["--split", "split.csv"], "the train split is empty"),
        ("id,split\na,train\nx,test\n", ["--split", "split.csv"], "the test split is empty"),
    ],
)
def test_an_empty_split_ends_at_once(table, options, words, root, tmp_path, capsys):
    if table:
        (root / "split.csv").write_text(table)
    begun = time.monotonic()
    assert main(["prepare", "--root", str(root), "--out", str(tmp_path / "out"), *options]) == 2
    assert time.monotonic() - begun < 2
    text = capsys.readouterr().err
    assert words in text
    assert str(root) in text
    assert "  do: " in text


@pytest.mark.parametrize("lost", ["s1", "s2"])
def test_a_place_that_lacks_one_sensor_is_left_out_and_listed(lost, root, tmp_path):
    (root / lost / "b.tif").unlink()
    (root / lost / "d.tif").unlink()
    report = prepare(settings(root, tmp_path / "out"))
    with Store.open(tmp_path / "out") as store:
        assert sorted(store.ids) == ["a", "c"]
    assert [(orphan["id"], orphan["missing"]) for orphan in report["orphans"]] == [("b", (lost,)), ("d", (lost,))]


def test_a_thousand_deletions_and_renames_never_pair_two_places(tmp_path):
    names = [f"place{number}" for number in range(10)]
    rng = random.Random(0)  # noqa: S311  # a test, not a secret
    present = {role: set(names) for role in ROLES}
    for role in ROLES:
        (tmp_path / role).mkdir()
        for name in names:
            (tmp_path / role / f"{name}.tif").write_text(name)
    for trial in range(1000):
        role = rng.choice(ROLES)
        folder = tmp_path / role
        if len(present[role]) > 5 and rng.random() < 0.5:
            gone = rng.choice(sorted(present[role]))
            (folder / f"{gone}.tif").unlink()
            present[role].remove(gone)
        elif rng.random() < 0.5:
            old, new = rng.choice(sorted(present[role])), f"new{trial}"
            (folder / f"{old}.tif").unlink()
            (folder / f"{new}.tif").write_text(new)
            present[role] = present[role] - {old} | {new}
        else:
            back = rng.choice(names)
            (folder / f"{back}.tif").write_text(back)
            present[role].add(back)
        found = {role: find_files(role, str(tmp_path / role / "{id}.tif")) for role in ROLES}
        complete = set.intersection(*present.values())
        if not complete:
            continue
        scenes, orphans = join_by_id(found, ("s1", "s2"))
        assert {scene.id for scene in scenes} == complete
        assert {orphan.id for orphan in orphans} == set.union(*present.values()) - complete
        for scene in scenes:
            assert {path.read_text() for paths in scene.files.values() for path in paths} == {scene.id}
        for orphan in orphans:
            assert orphan.missing == tuple(role for role in ROLES if orphan.id not in present[role])


def test_pixels_of_partners_stay_together_whatever_was_deleted(tmp_path):
    names = [f"place{number}" for number in range(8)]
    for number, name in enumerate(names):
        write_s1(tmp_path / "s1" / f"{name}.tif", np.full((2, 8, 8), -10 - number, np.float32))
        write_s2(tmp_path / "s2" / f"{name}.tif", np.full((13, 8, 8), 1000 + number, np.uint16))
        write_labels(tmp_path / "labels" / f"{name}.tif", np.full((8, 8), number, np.uint8))
    for role, number in (("s1", 0), ("s2", 3), ("labels", 6)):
        (tmp_path / role / f"{names[number]}.tif").unlink()
    records = list(open_folders(tmp_path))
    assert [record.id for record in records] == [names[number] for number in (1, 2, 4, 5, 7)]
    for record in records:
        number = names.index(record.id)
        assert (record.images["s1"] == -10 - number).all()
        assert (record.images["s2"] == 1000 + number).all()
        assert (record.labels == number).all()


def open_folders(root: Path, roles=ROLES) -> OwnImages:
    patterns = {role: str(root / role / "{id}.tif") for role in roles}
    bands = {"s1": ("VV", "VH"), "s2": S2_BANDS}
    return OwnImages(patterns, legend=get_legend("dynamic_world"), bands=bands)


@pytest.mark.parametrize("codec", [None, "deflate", "lzw", "zstd"])
def test_every_one_of_a_hundred_cuts_of_a_file_is_found(codec, tmp_path):
    """Cuts anywhere, from no byte at all to all but the last."""
    path, rng = tmp_path / "s2" / "a.tif", np.random.default_rng(0)
    path.parent.mkdir()
    profile = {"driver": "GTiff", "height": 48, "width": 48, "count": 13, "dtype": "uint16", "nodata": 0}
    profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "transform": grid().transform, "crs": grid().crs}
    with rasterio.open(path, "w", **profile, **({"compress": codec} if codec else {})) as dataset:
        dataset.write(s2_values(rng, 48))
        dataset.update_tags(LEVEL="L1C")
        for band, name in enumerate(S2_BANDS, start=1):
            dataset.set_band_description(band, name)
    whole = path.read_bytes()
    assert len(list(open_folders(tmp_path, ("s2",)))) == 1
    cuts = [0, 1, 8, len(whole) - 2, len(whole) - 1, *rng.integers(2, len(whole) - 2, 95).tolist()]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError) as caught:
            list(open_folders(tmp_path, ("s2",)))
        assert str(caught.value.where) == str(path), cut


def test_an_ignored_label_stays_ignored(root, tmp_path):
    labels = np.full((16, 16), IGNORE, np.uint8)
    labels[0, 0] = 8
    rewrite(root / "labels" / "b.tif", labels)
    prepare(settings(root, tmp_path / "out"))
    with Store.open(tmp_path / "out") as store:
        assert np.bincount(store.read_labels(list(store.ids).index("b"))[0].ravel(), minlength=256)[
            [8, IGNORE]
        ].tolist() == [1, 255]


@pytest.mark.slow
def test_cutting_a_large_scene_into_patches_holds_a_row_of_blocks_and_not_the_scene(tmp_path):
    """A scene of 403 MB that compresses well; without a limit of its own the raster library would keep it all."""
    (tmp_path / "s1").mkdir()
    pattern = np.tile(np.random.default_rng(0).normal(-12, 3, (2, 16, 16)), (1, 16, 512)).astype(np.float32)
    profile = {"driver": "GTiff", "count": 2, "dtype": "float32", "height": 6144, "width": 8192, "zlevel": 1}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "crs": "EPSG:32633"}
    transform = rasterio.Affine(10, 0, 340800, 0, -10, 5314800)
    with rasterio.open(tmp_path / "s1" / "a.tif", "w", transform=transform, **profile) as dataset:
        dataset.descriptions = ("VV", "VH")
        for row in range(0, 6144, 256):
            dataset.write(pattern, window=rasterio.windows.Window(0, row, 8192, 256))
    code = """if True:
        import resource, sys
        from cromss.data.sources.own_images import OwnImages
        from cromss.geo.legends import get_legend
        bands, legend = {"s1": ("VV", "VH")}, get_legend("dynamic_world")
        source = OwnImages({"s1": sys.argv[1]}, legend=legend, bands=bands, tile=256)
        records = iter(source)
        next(records)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = 1 + sum(1 for _ in records)
        print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    line = [sys.executable, "-c", code, str(tmp_path / "s1" / "{id}.tif")]
    count, grown = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert int(count) == 24 * 32
    assert int(grown) < 100_000  # kB; the limit is 16 MB and a row of blocks, 17 MB


@pytest.mark.slow
def test_20_kills_of_prepare_leave_the_store_of_an_uninterrupted_run_and_no_shard_is_written_twice(tmp_path):
    for number in range(60):
        write_scene(tmp_path / "in", f"p{number:02d}", number)
    prepare(settings(tmp_path / "in", tmp_path / "whole", shard_places=1))
    out, draw, kills, written = tmp_path / "out", random.Random(28), 0, {}  # noqa: S311  # moments of kills, no secrets
    config = settings(tmp_path / "in", out, shard_places=1)
    while kills < 20:
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(config,))
        process.start()
        while process.is_alive() and len(list(out.glob("shards/*.safetensors"))) <= len(written):
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.01))
        process.kill()
        process.join()
        if (out / "store.json").exists():  # it was done before it could be killed
            assert contents(out) == contents(tmp_path / "whole")
            shutil.rmtree(out)
            written = {}
            continue
        kills += 1
        assert process.exitcode == -signal.SIGKILL
        shards = {path.name: path.stat() for path in out.glob("shards/*.safetensors")}
        found = {name: (facts.st_ino, facts.st_mtime_ns) for name, facts in shards.items()}
        assert written.items() <= found.items(), "a finished shard was written again"
        written = found
        with pytest.raises(StoreError, match="not finished"):
            Store.open(out)
    prepare(config)
    assert contents(out) == contents(tmp_path / "whole")


def test_what_only_the_scenes_or_only_the_table_of_splits_names_is_said(root, tmp_path, capsys):
    (root / "splits.csv").write_text("id,split\na,train\nb,train\nz,train\n")
    report = prepare(settings(root, tmp_path / "out", split="splits.csv"))
    assert (report["places"], report["scenes_without_split"], report["split_ids_without_scene"]) == (
        2,
        ["c", "d"],
        ["z"],
    )
    shown = capsys.readouterr().out
    assert "not in the table of splits, and so left out: 2 scenes, such as c" in shown
    assert "only in the table of splits: 1 ids, such as z" in shown


WRONG_SETTINGS = {
    "shifts": ({"shift_samples": -1}, "shift_samples"),
    "capitals": ({"s1": "s1/{ID}.tif"}, "small letters"),
    "annotators": ({"annotators": {"x": "labels/{id}.tif", "y": "labels/{id}.tif"}}, "have the same maps"),
    "no band": ({"s2_bands": "B4", "s2": "lone/{id}.tif"}, "s2_bands=B1"),
    "own names": ({"s1": "own/{id}.tif"}, "band_names={s1: {co: VV, ...}}"),
    "other sensor": ({"s1": "s2/{id}.tif"}, "more bands than there are"),
    "a split that is none": ({"split_values": {"train": 1, "tset": 2}}, "did you mean 'test'"),
    "two splits of one value": ({"split_values": {"train": 1, "test": 1}}, "a value of its own"),
    "nothing to train on": ({"validation_share": 0.9, "seed": 3}, "the train split is empty"),
    "semicolons": ({"split": "s.csv"}, "with commas"),
}


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_a_wrong_setting_is_refused_with_what_to_do(wrong, root, tmp_path):
    changes, words = WRONG_SETTINGS[wrong]
    (root / "s.csv").write_text("id;split\na;train\n")
    for name in "abcd":
        lone = read_values(root / "s2" / f"{name}.tif")[:1]
        write_s2(root / "lone" / f"{name}.tif", lone, band_names=("B1",))
        write_s1(root / "own" / f"{name}.tif", read_values(root / "s1" / f"{name}.tif"), band_names=("co", "cross"))
    with pytest.raises(CromssError) as caught:
        prepare(settings(root, tmp_path / "out", **changes))
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_set_in_8_bits_or_with_exchanged_polarisations_is_a_finding(root, tmp_path):
    wrong = ("look scaled to 8 bits", "VH is brighter than VV")
    for changed, out in ((False, "sound"), (True, "out")):
        for name in "abcd" if changed else "":
            rewrite(root / "s2" / f"{name}.tif", read_values(root / "s2" / f"{name}.tif") // 40 + 1)
            rewrite(root / "s1" / f"{name}.tif", np.ascontiguousarray(read_values(root / "s1" / f"{name}.tif")[::-1]))
        found = " ".join(row["what"] for row in prepare(settings(root, tmp_path / out))["findings"])
        assert [what in found for what in wrong] == [changed, changed]
