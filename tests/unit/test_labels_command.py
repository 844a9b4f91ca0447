"""`cromss labels` as a user runs it: files, report, refusals, and the way on to `prepare`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.crs import CRS

from cromss.cli import main
from cromss.config import LabelsConfig
from cromss.data.labelling.image_labeller import ImageFile
from cromss.data.labelling.labellers import make_labeller
from cromss.data.labelling.run import label
from cromss.data.prepare import prepare
from cromss.errors import BandError, ConfigError, DataError, GridError, LabelError, MissingDataError, RangeError
from cromss.geo.legends import LEGENDS, get_legend
from cromss.geo.raster import Grid, read_raster
from small_scenes import S2_BANDS, grid, s2_values, settings, write, write_labels, write_s2, write_scene

LEGEND = get_legend("dynamic_world")
# DN in the order of S2_BANDS; 0 stands for B10, which surface reflectance lacks
GROUND = {
    "water": (300, 300, 250, 150, 120, 110, 100, 100, 90, 80, 0, 50, 40),
    "trees": (150, 200, 350, 220, 600, 1800, 2200, 2400, 2600, 2600, 0, 1300, 600),
}


@pytest.fixture
def root(tmp_path):
    """Two L2A images: upper half water, lower half trees; the corner has no data."""
    values = np.zeros((13, 16, 16), np.uint16)
    values[:, :8] = np.array(GROUND["water"])[:, None, None]
    values[:, 8:] = np.array(GROUND["trees"])[:, None, None]
    values[:, 0, :2] = 0
    for name in ("a", "b"):
        tags = {"LEVEL": "L2A", "ABSENT_BANDS": "B10", "DATE": "2021-06-10"}
        write_s2(tmp_path / "in" / "s2" / f"{name}.tif", values, tags=tags)
    return tmp_path / "in"


def _labels(out, name="a", kind="labels"):
    return read_raster(out / kind / f"{name}.tif").values_BHW


def test_rules_write_labels_confidences_and_a_report(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["labels", "rules", "--root", str(root), "--out", str(out), "--write_probabilities", "true"]) == 0
    labels = _labels(out)[0]
    assert (labels[0, :2] == 255).all()
    assert set(labels[:8].ravel()) == {0, 255}
    assert (labels[8:] == 1).all()
    percent = _labels(out, kind="probabilities")
    known = labels != 255
    assert (percent[:, known].argmax(axis=0) == labels[known]).all()
    assert (_labels(out, kind="confidence")[0][known] == percent[:, known].max(axis=0)).all()
    report = json.loads((out / "labels-report.json").read_text())
    assert report["images"] == 2
    assert report["class_pixels"]["trees"] == 2 * 128
    assert report["labelled_share"] == pytest.approx(254 / 256)
    shown = capsys.readouterr().out
    assert "labels of 2 images by rules" in shown
    assert "trees 50.4%" in shown


def test_a_label_map_says_what_it_is(root, tmp_path):
    label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "out")))
    with rasterio.open(tmp_path / "out" / "labels" / "a.tif") as file, rasterio.open(root / "s2" / "a.tif") as image:
        assert file.nodata == 255
        assert (file.transform, file.crs, file.shape) == (image.transform, image.crs, image.shape)
        assert file.colormap(1)[1] == LEGEND.colormap()[1]
        assert file.tags()["CLASS_NAMES"].startswith("0=water;1=trees;")
        assert file.tags()["LEGEND"] == "dynamic_world"
        assert file.tags()["LABEL_SOURCE"] == "rules"
        assert file.tags()["IMAGE"] == "a.tif"


def test_a_scene_in_strips_is_the_scene_in_one_piece(tmp_path, monkeypatch):
    tags = {"LEVEL": "L1C", "DATE": "2021-06-10"}
    write_s2(tmp_path / "s2" / "a.tif", s2_values(np.random.default_rng(0), 64), tags=tags)
    whole, _ = _make(tmp_path)
    monkeypatch.setattr("cromss.data.labelling.labellers.ROWS", 17)
    strips, _ = _make(tmp_path)
    assert (strips.labels_HW == whole.labels_HW).all()
    assert (strips.confidence_HW == whole.confidence_HW).all()
    assert (strips.percent_CHW == whole.percent_CHW).all()
    assert strips.notes == whole.notes


def _make(root):
    config = LabelsConfig(source="rules", root=str(root), out="unused", write_probabilities=True)
    image = ImageFile(id="a", season=None, path=root / "s2" / "a.tif")
    return make_labeller(config, LEGEND)(image)


def test_nothing_is_written_over_and_keep_makes_the_rest(root, tmp_path):
    out = tmp_path / "out"
    label(LabelsConfig(source="rules", root=str(root), out=str(out)))
    before = (out / "labels" / "a.tif").stat()
    with pytest.raises(ConfigError, match="exist already") as caught:
        label(LabelsConfig(source="rules", root=str(root), out=str(out)))
    assert "2 of 2" in caught.value.got
    (out / "labels" / "b.tif").unlink()
    report = label(LabelsConfig(source="rules", root=str(root), out=str(out), on_existing="keep"))
    assert (report["images"], report["kept"]) == (1, 1)
    assert (out / "labels" / "b.tif").exists()
    assert (out / "labels" / "a.tif").stat().st_mtime_ns == before.st_mtime_ns


def test_seasons_get_labels_of_their_own(tmp_path):
    for season in ("1", "2"):
        write_s2(tmp_path / "in" / "s2" / "a" / f"{season}.tif", s2_values(np.random.default_rng(int(season))))
    config = LabelsConfig(
        source="rules", root=str(tmp_path / "in"), images="s2/{id}/{season}.tif", out=str(tmp_path), sun_zenith=40
    )
    label(config)
    assert sorted(path.name for path in (tmp_path / "labels" / "a").iterdir()) == ["1.tif", "2.tif"]


def test_rules_in_another_legend_lose_what_it_cannot_say(root, tmp_path):
    label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "out"), legend="dfc2020"))
    names = get_legend("dfc2020").names
    assert {names[value] for value in np.unique(_labels(tmp_path / "out")) if value != 255} == {"water", "forest"}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"values": np.full((13, 16, 16), 0.2, np.float32), "nodata": None}, RangeError, "wrong type"),
        ({"tags": {}}, DataError, "which Sentinel-2 product"),
        ({"bands": [n for n in S2_BANDS if n != "B8A"]}, DataError, "has no B8A"),
        ({"band_names": ()}, DataError, "have no names"),
        ({"tags": {"LEVEL": "L1C"}}, MissingDataError, "how high the sun stood"),
        ({"tags": {"LEVEL": "L1C", "DATE": "summer"}}, MissingDataError, "is no date"),
    ],
)
def test_an_image_that_rules_cannot_use_is_refused_or_skipped_and_listed(change, kind, words, root, tmp_path):
    change = dict(change)
    bands = change.pop("bands", list(S2_BANDS))
    values = change.pop("values", s2_values(np.random.default_rng(0))[[S2_BANDS.index(name) for name in bands]])
    write_s2(
        root / "s2" / "a.tif", values, **{"band_names": bands, "tags": {"LEVEL": "L1C", "DATE": "2021-06-10"}, **change}
    )
    with pytest.raises(kind, match=words):
        label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "stop")))
    report = label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "skip"), on_bad="skip"))
    assert report["images"] == 1
    assert words in report["refusals"][0]["text"]
    assert not (tmp_path / "skip" / "labels" / "a.tif").exists()


@pytest.mark.parametrize("in_a_file", [False, True])
def test_images_may_call_their_bands_by_names_of_their_own(in_a_file, root, tmp_path):
    own = {f"ch{index}": name for index, name in enumerate(S2_BANDS)}
    label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "plain")))
    for name in ("a", "b"):
        path = root / "s2" / f"{name}.tif"
        with rasterio.open(path, "r+") as file:
            file.descriptions = tuple(own)
    with pytest.raises(DataError, match="band_names="):
        label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "none")))
    (root / "names.yaml").write_text(yaml.safe_dump(own))
    names = {"s2": "names.yaml" if in_a_file else own}
    label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "named"), band_names=names))
    np.testing.assert_array_equal(_labels(tmp_path / "named"), _labels(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("names", "words"),
    [({"s2": {"ch0": "B99"}}, "bands that the sensor does not have"), ({"s1": {"a": "VV"}}, "Sentinel-2 alone")],
)
def test_names_of_bands_that_there_are_not_are_refused(names, words, root, tmp_path):
    with pytest.raises(ConfigError, match=words):
        label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "out"), band_names=names))
    assert not (tmp_path / "out").exists()


def test_when_no_image_can_be_labelled_that_is_an_error_and_nothing_is_written(root, tmp_path):
    for name in ("a", "b"):
        write_s2(root / "s2" / f"{name}.tif", np.full((13, 16, 16), 0.2, np.float32), nodata=None)
    with pytest.raises(DataError, match="no image can be labelled"):
        label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "out"), on_bad="skip"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rules", "--polygons", "x.gpkg"], "source rules does not look at the setting polygons"),
        (["polygons", "--s2_product", "L1C"], "does not look at the setting s2_product"),
        (["polygons", "--band_names", "{s2: {blue: B2}}"], "does not look at the setting band_names"),
        (["polygons"], "needs the setting polygons"),
        (["polygons", "--polygons", "none.gpkg"], "none.gpkg"),
        (["maps"], "needs the setting maps"),
        (["maps", "--maps", "none*.tif"], "no label map is there"),
        (["maps", "--maps", "none*.tif", "--map_legend", "worldcovr"], "did you mean 'worldcover'"),
        (["stac", "--stac", "none.json"], "none.json"),
        (["probabilities"], "needs the setting probabilities"),
        (["fuse", "--fuse", '["s2/{id}.tif"]'], "two or more"),
        (["fuse", "--fuse", '["a", "b"]', "--confidences", '["a", "b"]'], "only majority"),
        (["earth_engine", "--legend", "osm13"], "Dynamic World's classes"),
        (["rules", "--min_confidence", "101"], "min_confidence"),
        (["rules", "--sun_zenith", "90"], "sun_zenith"),
        (["fuse", "--votes", "0"], "votes"),
        (["fuse", "--fuse", '["a", "b"]', "--votes", "3"], "so many votes"),
        (["fuse", "--fuse", '["a", "a"]'], "fused with itself"),
        (["rule"], "source"),
    ],
)  # fmt: skip
def test_settings_that_lead_nowhere_are_one_error(arguments, words, root, tmp_path, capsys):
    assert main(["labels", *arguments, "--root", str(root), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_polygons_of_land_use_become_labels(root, tmp_path):
    pytest.importorskip("pyogrio", reason="needs the extra `polygons`")
    left, bottom, right, top = _lonlat(grid(16))
    features = [
        _feature({"landuse": "forest"}, left, bottom, right, (bottom + top) / 2),
        _feature({"natural": "water"}, left, (bottom + top) / 2, (left + right) / 2, top),
        _feature({"landuse": "military"}, left, bottom, right, top),
    ]
    path = tmp_path / "osm.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for legend, wanted in (("dynamic_world", {"trees", "water"}), ("osm13", {"forest", "water"})):
        config = LabelsConfig(
            source="polygons", root=str(root), polygons=str(path), legend=legend, out=str(tmp_path / legend)
        )
        report = label(config)
        assert {name for name, count in report["class_pixels"].items() if count} == wanted
        assert 0.7 < report["labelled_share"] < 0.8
        assert report["notes"]["polygons without a class: landuse=military"] == 2  # once an image
        assert not (tmp_path / legend / "confidence").exists()
    far = [_feature({"landuse": "forest"}, 0, 0, 1, 1)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": far}))
    with pytest.raises(LabelError, match="no label at all"):
        label(LabelsConfig(source="polygons", root=str(root), polygons=str(path), out=str(tmp_path / "far")))


def _lonlat(where):
    from cromss.data.labelling.catalog import footprint

    return footprint(where)


def _feature(tags, left, bottom, right, top):
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    return {"type": "Feature", "properties": tags, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def test_tiles_of_a_map_become_labels_in_another_legend(root, tmp_path):
    left, _, _, top = _lonlat(grid(16))
    where = Grid(
        height=60, width=60, transform=Affine(1e-4, 0, left - 1e-3, 0, -1e-4, top + 1e-3), crs=CRS.from_epsg(4326)
    )
    write_labels(tmp_path / "wc_1.tif", np.full((60, 60), 95, np.uint8), where, nodata=0)
    config = LabelsConfig(
        source="maps",
        root=str(root),
        maps=str(tmp_path / "wc_*.tif"),
        map_legend="worldcover",
        out=str(tmp_path / "out"),
    )
    report = label(config)
    assert report["class_pixels"]["flooded_vegetation"] == 2 * 256  # mangrove
    assert report["notes"]["from wc_1.tif"] == 2 * 256


def _three_maps(root):
    """Maps that differ in the first rows: all agree; two of three; all differ; one is silent."""
    rows = [(1, 1, 1), (1, 1, 2), (1, 2, 3), (255, 4, 4), (255, 255, 255)]
    for number in range(3):
        values = np.zeros((16, 16), np.uint8)
        for row, votes in enumerate(rows):
            values[row] = votes[number]
        for name in ("a", "b"):
            write_labels(root / f"m{number}" / f"{name}.tif", values)
            write(
                root / f"c{number}" / f"{name}.tif",
                np.full((16, 16), (90, 40, 45)[number], np.uint8),
                grid(16),
                nodata=255,
            )


@pytest.mark.parametrize("rows", [512, 3])
def test_maps_are_fused_by_agreement_majority_or_fitted_errors(rows, root, tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.data.labelling.fusing.ROWS", rows)  # of a strip
    _three_maps(root)
    patterns = tuple(f"m{number}/{{id}}.tif" for number in range(3))
    first = {}
    for how in ("agree", "majority", "dawid_skene"):
        config = LabelsConfig(
            source="fuse", root=str(root), fuse=patterns, fuse_by=how, out=str(tmp_path / how)
        )  # fmt: skip
        report = label(config)
        assert set(report["facts"]) == ({"share right by the fit"} if how == "dawid_skene" else set())
        first[how] = _labels(tmp_path / how)[0][:5, 0].tolist()
    assert first["agree"] == [1, 255, 255, 4, 255]
    assert first["majority"] == [1, 1, 255, 4, 255]
    assert first["dawid_skene"][:2] == [1, 1]
    assert first["dawid_skene"][3:] == [4, 255]
    weights = tuple(f"c{number}/{{id}}.tif" for number in range(3))
    config = LabelsConfig(
        source="fuse", root=str(root), fuse=patterns, fuse_by="majority", confidences=weights, out=str(tmp_path / "w")
    )
    label(config)
    assert _labels(tmp_path / "w")[0][:5, 0].tolist() == [1, 1, 1, 4, 255]  # 90 % outweighs 40 and 45


def test_a_map_on_another_grid_is_not_fused(root, tmp_path):
    _three_maps(root)
    write_labels(root / "m1" / "b.tif", np.zeros((16, 16), np.uint8), grid(16, transform=Affine(10, 0, 0, 0, -10, 0)))
    config = LabelsConfig(
        source="fuse", root=str(root), fuse=("m0/{id}.tif", "m1/{id}.tif"), out=str(tmp_path / "out")
    )  # fmt: skip
    with pytest.raises(GridError, match="same grid"):
        label(config)
    (root / "m1" / "b.tif").unlink()
    with pytest.raises(MissingDataError, match="no file of fuse"):
        label(LabelsConfig(source="fuse", root=str(root), fuse=config.fuse, out=str(tmp_path / "other")))


@pytest.mark.parametrize("rows", [512, 3])
def test_soft_labels_become_hard_ones_with_a_least_confidence(rows, root, tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.data.labelling.labellers.ROWS", rows)  # of a strip
    percent = np.zeros((9, 16, 16), np.uint8)
    percent[0], percent[3] = 60, 40
    percent[0, 8:], percent[3, 8:] = 45, 55
    for name in ("a", "b"):
        write(root / "soft" / f"{name}.tif", percent, grid(16))
    config = LabelsConfig(
        source="probabilities",
        root=str(root),
        probabilities="soft/{id}.tif",
        min_confidence=60,
        out=str(tmp_path / "out"),
    )
    report = label(config)
    assert (_labels(tmp_path / "out")[0][:8] == 0).all()
    assert (_labels(tmp_path / "out")[0][8:] == 255).all()
    assert report["notes"]["below the least confidence"] == 2 * 128


def test_labels_go_on_to_prepare(tmp_path):
    for name in ("a", "b"):
        write_scene(tmp_path / "in", name, ord(name))
    label(LabelsConfig(source="rules", root=str(tmp_path / "in"), out=str(tmp_path / "rules"), sun_zenith=40))
    report = prepare(settings(tmp_path / "in", tmp_path / "store", labels="../rules/labels/{id}.tif"))
    assert report["places"] == 2


def test_labels_in_a_legend_with_codes_of_its_own_go_on_as_the_same_classes(root, tmp_path):
    made = label(LabelsConfig(source="rules", root=str(root), out=str(tmp_path / "r"), sun_zenith=40, legend="dfc2020"))
    pixels = {name: count for name, count in made["class_pixels"].items() if count}
    assert set(pixels) & {"water", "grassland", "cropland", "shrubland", "urban", "barren"}  # codes are not their ids
    config = LabelsConfig(
        source="fuse", root=str(root), out=str(tmp_path / "f"), legend="dfc2020", fuse_by="majority",
        fuse=(str(tmp_path / "r/labels/{id}.tif"), str(tmp_path / "again/{id}.tif")),
    )  # fmt: skip
    shutil.copytree(tmp_path / "r" / "labels", tmp_path / "again")
    assert {name: count for name, count in label(config)["class_pixels"].items() if count} == pixels
    for name in ("a", "b"):
        write_scene(tmp_path / "in", name, ord(name))
        (tmp_path / "in" / "labels" / f"{name}.tif").unlink()
        shutil.copy(tmp_path / "r" / "labels" / f"{name}.tif", tmp_path / "in" / "labels" / f"{name}.tif")
    report = prepare(settings(tmp_path / "in", tmp_path / "store", legend="dfc2020"))
    total = sum(pixels.values())
    shares = {name: share for name, share in report["splits"]["train"]["class_shares"].items() if share}
    assert shares == pytest.approx({name: count / total for name, count in pixels.items()})


def test_probabilities_of_bands_named_like_classes_are_taken_by_name(root, tmp_path):
    names = LEGENDS["dynamic_world"].names
    percent = np.zeros((9, 16, 16), np.uint8)
    percent[names[::-1].index("crops")] = 100
    percent[names[::-1].index("crops"), :4], percent[names[::-1].index("water"), :4] = 0, 100
    for name in ("a", "b"):
        write(root / "soft" / f"{name}.tif", percent, grid(16), band_names=names[::-1])
    label(LabelsConfig(source="probabilities", root=str(root), probabilities="soft/{id}.tif", out=str(tmp_path / "o")))
    assert _labels(tmp_path / "o")[0][:, 0].tolist() == [0] * 4 + [4] * 12


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((16, 16), 0.9, np.float32), "fractions of 1"),
        (np.full((16, 16), np.nan, np.float32), "not in percent"),
        (np.full((16, 16), 101, np.uint8), "not in percent"),
        (np.full((2, 16, 16), 50, np.uint8), "one band"),
    ],
)
def test_weights_of_votes_that_are_no_percent_are_refused_with_their_file(values, words, root, tmp_path):
    _three_maps(root)
    write(root / "c1" / "a.tif", values, grid(16))
    fuse, confidences = (tuple(f"{kind}{number}/{{id}}.tif" for number in range(3)) for kind in "mc")
    config = LabelsConfig(
        source="fuse", root=str(root), out=str(tmp_path / "o"), fuse=fuse, confidences=confidences, fuse_by="majority"
    )
    with pytest.raises(DataError, match=words) as caught:
        label(config)
    assert str(caught.value.where) == str(root / "c1" / "a.tif")


@pytest.mark.parametrize(
    ("source", "changes"),
    [("fuse", {"fuse": ("m0/{id}.tif", "m1/{id}.tif")}), ("maps", {"maps": "{root}/m1/*.tif"})],
)
def test_maps_of_another_legend_than_said_are_refused(source, changes, root, tmp_path):
    _three_maps(root)
    for name in ("a", "b"):
        write_labels(root / "m1" / f"{name}.tif", np.zeros((16, 16), np.uint8), tags={"LEGEND": "osm13"})
    changes = {key: value.replace("{root}", str(root)) if key == "maps" else value for key, value in changes.items()}
    with pytest.raises(LabelError, match="another legend") as caught:
        label(LabelsConfig(source=source, root=str(root), out=str(tmp_path / "o"), **changes))
    assert str(caught.value.where) == str(root / "m1" / "a.tif")


def test_a_map_of_several_bands_is_not_fused(root, tmp_path):
    _three_maps(root)
    write_labels(root / "m1" / "a.tif", np.zeros((2, 16, 16), np.uint8))
    config = LabelsConfig(source="fuse", root=str(root), out=str(tmp_path / "o"), fuse=("m0/{id}.tif", "m1/{id}.tif"))
    with pytest.raises(BandError, match="one band"):
        label(config)


def test_several_annotators_can_stand_as_seasons_of_one_image(tmp_path):
    """A season is a name: the same image may be linked once for each label map."""
    for name in ("a", "b"):
        write_scene(tmp_path / "in", name, ord(name))
    label(LabelsConfig(source="rules", root=str(tmp_path / "in"), out=str(tmp_path / "rules"), sun_zenith=40))
    made = {"rules": tmp_path / "rules" / "labels", "given": tmp_path / "in" / "labels"}
    for who, folder in made.items():
        for name in ("a", "b"):
            for role, source in (("s1", tmp_path / "in" / "s1"), ("s2", tmp_path / "in" / "s2"), ("labels", folder)):
                target = tmp_path / "many" / role / name / f"{who}.tif"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source / f"{name}.tif")
    seasonal = {role: f"{role}/{{id}}/{{season}}.tif" for role in ("s1", "s2", "labels")}
    report = prepare(settings(tmp_path / "many", tmp_path / "store", **seasonal))
    assert (report["places"], report["samples"]) == (2, 4)
