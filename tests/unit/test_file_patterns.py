"""Files are found by pattern and joined by id."""

from __future__ import annotations

from pathlib import Path

import pytest

from cromss.data.sources.file_patterns import find_files, join_by_id
from cromss.errors import ConfigError, MissingDataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def find(root: Path, role: str, pattern: str):
    return find_files(role, str(root / pattern))


def test_an_id_may_be_part_of_a_name_or_a_folder(tmp_path):
    touch(tmp_path, "s1/a.tif", "s1/b_c.tif", "s1/.hidden.tif", "s1/a.tif.aux.xml", "x/s2.tif", "y/s2.tif", "y/s1.tif")
    assert set(find(tmp_path, "s1", "s1/{id}.tif")) == {("a", None), ("b_c", None)}
    assert set(find(tmp_path, "s2", "{id}/s2.tif")) == {("x", None), ("y", None)}


def test_a_repeated_id_must_be_equal(tmp_path):
    touch(tmp_path, "a/s2_a.tif", "b/s2_a.tif")
    assert set(find(tmp_path, "s2", "{id}/s2_{id}.tif")) == {("a", None)}


def test_signs_with_a_meaning_in_patterns_stand_for_themselves(tmp_path):
    touch(tmp_path, "set[1]+(x)/a.tif", "set1/a.tif")
    assert list(find(tmp_path, "s2", "set[1]+(x)/{id}.tif").values()) == [tmp_path / "set[1]+(x)" / "a.tif"]


def test_wildcards_must_leave_one_file_an_id(tmp_path):
    touch(tmp_path, "a/S2_1.tif", "b/S2_2.tif")
    assert len(find(tmp_path, "s2", "{id}/S2_*.tif")) == 2
    touch(tmp_path, "b/S2_3.tif")
    with pytest.raises(ConfigError, match="two files of s2 have one id"):
        find(tmp_path, "s2", "{id}/S2_*.tif")


def test_an_unknown_placeholder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown placeholder"):
        find(tmp_path, "s2", "{place}.tif")


@pytest.mark.parametrize("pattern", ["none/{id}.tif", "s2/{id}.jp2", "s2/x.tif"])
def test_nothing_found_names_folder_pattern_and_setting(pattern, tmp_path):
    touch(tmp_path, "s2/a.tif")
    with pytest.raises(MissingDataError) as caught:
        find(tmp_path, "s2", pattern)
    assert pattern in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "the pattern s2" in caught.value.do


def join(root: Path, optional=(), **patterns: str):
    found = {role: find(root, role, pattern) for role, pattern in patterns.items()}
    return join_by_id(found, [role for role in ("s1", "s2") if role in found], optional)


def test_scenes_are_complete_and_the_rest_are_orphans(tmp_path):
    touch(tmp_path, "s1/a.tif", "s1/b.tif", "s2/b.tif", "s2/c.tif")
    scenes, orphans = join(tmp_path, s1="s1/{id}.tif", s2="s2/{id}.tif")
    assert [scene.id for scene in scenes] == ["b"]
    assert [(orphan.id, orphan.missing) for orphan in orphans] == [("a", ("s2",)), ("c", ("s1",))]
    assert orphans[0].found == (str(tmp_path / "s1" / "a.tif"),)


def test_seasons_are_joined_by_name_and_may_be_orphans_alone(tmp_path):
    touch(
        tmp_path, "s1/a/w.tif", "s1/a/x.tif", "s2/a/x.tif", "s2/a/y.tif", "s2/b/x.tif", "labels/a.tif", "labels/b.tif"
    )
    scenes, orphans = join(tmp_path, s1="s1/{id}/{season}.tif", s2="s2/{id}/{season}.tif", labels="labels/{id}.tif")
    assert [(scene.id, scene.seasons) for scene in scenes] == [("a", ("x",))]
    assert scenes[0].files["labels"] == (tmp_path / "labels" / "a.tif",)
    assert {(orphan.id, orphan.season) for orphan in orphans} == {("a", "w"), ("a", "y"), ("b", "x")}


def test_one_label_map_serves_all_seasons_of_its_place(tmp_path):
    touch(tmp_path, "s2/a/x.tif", "s2/a/y.tif", "labels/a.tif")
    scenes, _ = join(tmp_path, s2="s2/{id}/{season}.tif", labels="labels/{id}.tif")
    assert scenes[0].files["labels"] == (tmp_path / "labels" / "a.tif",) * 2


def test_optional_files_may_be_absent(tmp_path):
    touch(tmp_path, "s2/a.tif", "s2/b.tif", "truth/a.tif", "truth/z.tif")
    scenes, orphans = join(tmp_path, ("truth",), s2="s2/{id}.tif", truth="truth/{id}.tif")
    assert ["truth" in scene.files for scene in scenes] == [True, False]
    assert orphans == []


def test_patterns_without_an_id_are_one_scene_named_like_their_folder(tmp_path):
    touch(tmp_path, "lake/s2.tif", "lake/labels.tif", "maps/river.tif", "images/river.tif")
    assert join(tmp_path, s2="lake/s2.tif", labels="lake/labels.tif")[0][0].id == "lake"
    assert join(tmp_path, s2="images/river.tif", labels="maps/river.tif")[0][0].id == "river"


def test_sensors_must_agree_on_seasons(tmp_path):
    touch(tmp_path, "s1/a.tif", "s2/a/x.tif", "labels/a/x.tif")
    with pytest.raises(ConfigError, match="must agree"):
        join(tmp_path, s1="s1/{id}.tif", s2="s2/{id}/{season}.tif")
    with pytest.raises(ConfigError, match="only the sensors"):
        join(tmp_path, s1="s1/{id}.tif", labels="labels/{id}/{season}.tif")


def test_no_complete_scene_is_an_error_with_examples(tmp_path):
    touch(tmp_path, "s1/a_s1.tif", "s2/a_s2.tif")
    with pytest.raises(MissingDataError, match=r"a_s1\.tif.*a_s2\.tif"):
        join(tmp_path, s1="s1/{id}.tif", s2="s2/{id}.tif")
