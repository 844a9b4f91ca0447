"""A Zarr cube that is broken, or is not what the section says, is refused by name; nothing is written or unpickled."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("zarr", reason="needs the extra `zarr`")

from cromss.data.prepare import prepare
from cromss.errors import CromssError
from cube_scenes import CubeWriter
from small_scenes import grid, s1_values, s2_values, settings

BANDS = {f"B{n:02d}": f"B{n}" for n in (2, 3, 4)}
SECTION = {"path": "c.zarr", "s2": {"variable": "s2", "bands": BANDS}, "labels": {"variable": "map"}}


@pytest.fixture(params=[2, 3])
def root(request, tmp_path):
    rng = np.random.default_rng(0)
    writer = CubeWriter(tmp_path / "c.zarr", grid(32), version=request.param, chunk=16)
    writer.add_bands(list(BANDS))
    writer.add("s2", s2_values(rng, 32)[:3], ("band", "y", "x"), fill=0)
    writer.add("vv", s1_values(rng, 32)[0], ("y", "x"), fill=float("nan"))
    writer.add("turned", s1_values(rng, 32)[0], ("x", "y"), fill=float("nan"))
    writer.add("map", rng.integers(0, 9, (32, 32)).astype(np.uint8), ("y", "x"), fill=255)
    writer.add("reflectance", s2_values(rng, 32)[:3] / np.float32(1e4), ("band", "y", "x"), fill=float("nan"))
    return tmp_path


def refused(root, section, **changes):
    changes = {"s2_bands": "B2,B3,B4", "s2_product": "L1C", "shift_samples": 0, **changes}
    with pytest.raises(CromssError) as caught:
        prepare(settings(root, root / "out", layout="cube", cube={**SECTION, **section}, **changes))
    assert not (root / "out").exists()
    return str(caught.value)


def test_the_cube_of_these_tests_is_sound(root):
    changes = {"s2_bands": "B2,B3,B4", "s2_product": "L1C", "shift_samples": 0}
    report = prepare(settings(root, root / "out", layout="cube", cube=SECTION, **changes))
    assert (report["places"], report["refusals"]) == (1, [])


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"path": "d.zarr"}, "Zarr store is absent"),
        ({"pathh": "c.zarr"}, "did you mean 'path'"),
        ({"s2": {"variable": "s3"}}, "no such variable"),
        ({"s2": {"variable": "s2", "variables": {"vv": "B2"}}}, "one way to their bands"),
        ({"s2": {"variables": {"s2": "B2", "vv": "B3"}}}, "do not fit together"),
        ({"s2": {"variable": "s2"}, "labels": {"variable": "s2"}}, "one band"),
        ({"s2": {"variable": "reflectance", "bands": BANDS}}, "wrong type"),
        ({"s2": {"variable": "s2", "bands": {"B02": "B2"}}, "labels": {"variable": "none"}}, "no such variable"),
        ({"s2": None}, "needs a path and images"),
        ({"labels": None, "annotators": {"dw": {"collection": "dw"}}}, "in: cube: annotators: dw"),
        ({"labels": None, "annotators": {"dw": {"variables": {"map": "B2"}}}}, "expected: variable: NAME"),
        ({"labels": None, "annotators": {"dw": {"variable": "s2", "bands": BANDS}}}, "expected: variable: NAME"),
        ({"labels": None, "annotators": {"dw": {"variable": "none"}}}, "no such variable"),
        ({"annotators": {"dw": {"variable": "map"}}}, "in the place of labels"),
        ({"s1": {"variables": {"turned": "VV"}}}, "other dimensions"),
        ({"s1": {"variables": {"vv": "VV"}, "unit": "power"}}, "is negative"),
        ({"s1": {"variables": {"vv": "VV"}, "unit": "W"}}, "only s1 has a unit"),
    ],
)
def test_a_section_that_leads_nowhere_is_refused(root, section, words):
    assert words in refused(root, section, s1_bands="VV")


def test_damaged_chunks_and_metadata_are_refused(root):
    for chunk in [p for p in (root / "c.zarr" / "s2").rglob("*") if p.is_file() and p.name[0] not in ".z"][:1]:
        content = chunk.read_bytes()
        chunk.write_bytes(content[: len(content) // 3])
        assert "s2" in refused(root, {})
        chunk.write_bytes(content)
    for name in ("zarr.json", ".zarray"):
        path = root / "c.zarr" / "s2" / name
        if path.is_file():
            path.write_text(path.read_text()[:50])
            assert "does not parse" in refused(root, {})
            path.write_text("{}")
            assert "strange metadata" in refused(root, {})


def test_codecs_that_could_run_something_are_refused_before_anything_is_decoded(root):
    path = root / "c.zarr" / "s2"
    if (path / ".zarray").is_file():
        content = json.loads((path / ".zarray").read_text())
        content["filters"] = [{"id": "pickle"}]
        (path / ".zarray").write_text(json.dumps(content))
    else:
        content = json.loads((path / "zarr.json").read_text())
        content["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
        (path / "zarr.json").write_text(json.dumps(content))
    assert "not allowed" in refused(root, {})


def test_absent_chunks_that_do_not_stand_for_no_data_are_refused(root):
    version = 3 if (root / "c.zarr" / "zarr.json").is_file() else 2
    writer = CubeWriter(root / "d.zarr", grid(32), version=version, chunk=16)
    writer.add("map", np.ones((32, 32), np.uint8), ("y", "x"))
    chunks = [path for path in (root / "d.zarr" / "map").rglob("*") if path.is_file() and path.name[0] not in ".z"]
    assert len(chunks) == 4
    chunks[1].unlink()
    assert "lacks chunks" in refused(root, {"labels": {"variable": "map", "path": "d.zarr"}})


def test_positions_that_contradict_themselves_are_refused(root):
    version = 3 if (root / "c.zarr" / "zarr.json").is_file() else 2
    shutil.rmtree(root / "c.zarr" / "x")
    for values, words in [
        (340800 + 10.0 * (np.arange(32) + 3.5), "two places"),
        (np.arange(32) ** 1.1, "not evenly spaced"),
    ]:
        other = CubeWriter(root / "other.zarr", grid(32), version=version)
        shutil.rmtree(root / "other.zarr" / "x")
        other.add("x", values, ("x",))
        shutil.rmtree(root / "c.zarr" / "x", ignore_errors=True)
        shutil.copytree(root / "other.zarr" / "x", root / "c.zarr" / "x")
        assert words in refused(root, {})


def test_a_cube_whose_labels_lie_on_another_grid_is_refused_unless_they_are_to_be_warped(root):
    version = 3 if (root / "c.zarr" / "zarr.json").is_file() else 2
    moved = grid(32, transform=grid().transform.translation(340815, 5314790) @ grid().transform.scale(10, -10))
    CubeWriter(root / "d.zarr", moved, version=version).add("map", np.ones((32, 32), np.uint8), ("y", "x"), fill=255)
    section = {**SECTION, "labels": {"variable": "map", "path": "d.zarr"}}
    assert "not on the same grid" in refused(root, section)
    changes = {"s2_bands": "B2,B3,B4", "s2_product": "L1C", "shift_samples": 0}
    report = prepare(settings(root, root / "out", layout="cube", cube=section, align_to="s2", **changes))
    assert report["changed"] == {"labels files warped onto the grid of s2, nearest": 1}
