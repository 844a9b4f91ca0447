"""Class schemes and the table from file values to class ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from cromss.errors import ArgumentError, LabelError, MissingDataError
from cromss.geo.legend import IGNORE, Legend
from cromss.geo.legends import LEGENDS, get_legend


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("dynamic_world", 9),
        ("osm13", 13),
        ("dfc2020", 8),
        ("igbp", 17),
        ("worldcover", 11),
        ("bigearthnet19", 19),
        ("water", 2),
    ],
)
def test_legends_have_their_published_number_of_classes(name, number):
    legend = get_legend(name)
    assert legend.num_classes == number == len(legend.names) == len(legend.colors)
    assert sorted(set(legend.codes.values()) - {IGNORE}) == list(range(number))


def test_dfc2020_is_in_the_authors_order():
    codes = np.array([10, 1, 4, 5, 6, 2, 7, 9, 3, 8, 0, 255], np.uint8)
    assert LEGENDS["dfc2020"].encode(codes, "x").tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 255, 255, 255, 255]


def test_bigearthnet_has_every_code_of_corine_once():
    levels = {1: (2, 4, 3, 2), 2: (3, 3, 1, 4), 3: (3, 4, 5), 4: (2, 3), 5: (2, 3)}
    corine = {
        100 * i + 10 * j + k for i, sizes in levels.items() for j, n in enumerate(sizes, 1) for k in range(1, n + 1)
    }
    legend = LEGENDS["bigearthnet19"]
    assert len(corine) == 44
    assert set(legend.codes) == corine | {0, 255, 999}
    encoded = legend.encode(np.array([111, 112, 121, 122, 241, 333, 321, 332, 423, 422, 512, 523, 999], np.uint16), "x")
    assert encoded.tolist() == [0, 0, 1, 255, 3, 11, 11, 255, 255, 16, 17, 18, 255]


def test_the_colour_table_is_that_of_real_files(sentinel_mini):
    import rasterio

    with rasterio.open(next((sentinel_mini / "pretrain" / "dynamic_world").glob("*.tif"))) as dataset:
        theirs = dataset.colormap(1)
    ours = LEGENDS["dynamic_world"].colormap()
    assert {index: theirs[index] for index in range(9)} == {index: ours[index] for index in range(9)}
    assert ours[IGNORE][3] == 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_every_integer_type_encodes_alike(dtype):
    encoded = LEGENDS["worldcover"].encode(np.array([[10, 100], [90, 0]], dtype), "x")
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[0, 10], [8, IGNORE]]


def test_declared_no_data_is_ignored():
    legend = LEGENDS["dynamic_world"]
    assert legend.encode(np.array([-1, 0, 8], np.int16), "x", nodata=-1).tolist() == [IGNORE, 0, 8]
    assert legend.encode(np.array([3], np.int32), "x", nodata=-(2.0**31)).tolist() == [3]
    assert legend.encode(np.array([3], np.uint8), "x", nodata=float("nan")).tolist() == [3]


def test_a_class_declared_as_no_data_is_refused():
    with pytest.raises(LabelError, match="'water'") as caught:
        LEGENDS["dynamic_world"].encode(np.array([0, 1], np.uint8), "map.tif", nodata=0)
    assert caught.value.where == "map.tif"


def test_unknown_values_are_counted():
    with pytest.raises(LabelError, match=r"9 \(2 pixels\), 200 \(1 pixels\)"):
        LEGENDS["dynamic_world"].encode(np.array([9, 200, 9, 1], np.uint8), "x")


def test_numbers_with_fractions_are_refused():
    with pytest.raises(LabelError, match="whole numbers"):
        LEGENDS["dynamic_world"].encode(np.array([1.0]), "x")


@pytest.mark.parametrize("name", LEGENDS)
def test_a_legend_survives_json_and_yaml_files(name, tmp_path):
    legend = LEGENDS[name]
    (tmp_path / "legend.json").write_text(json.dumps(legend.to_dict()))
    (tmp_path / "legend.yaml").write_text(yaml.safe_dump(legend.to_dict()))
    assert get_legend(tmp_path / "legend.json") == get_legend(tmp_path / "legend.yaml") == legend


def test_a_legend_file_without_codes_holds_the_ids_themselves():
    content = LEGENDS["water"].to_dict()
    del content["codes"]
    assert Legend.from_dict(content).codes == {0: 0, 1: 1, 255: 255}


def test_an_unknown_legend_names_the_nearest():
    with pytest.raises(MissingDataError, match="did you mean 'worldcover'"):
        get_legend("world_cover")


def _class(index=0, name="a", color="#000000"):
    return {"id": index, "name": name, "color": color}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"name": "x", "classes": []},
        {"name": "x", "classes": [_class(1)]},
        {"name": "x", "classes": [_class(), _class(1)]},
        {"name": "x", "classes": [_class(color="red")]},
        {"name": "x", "classes": [_class()], "codes": {"5": 3}},
        {"name": "x", "classes": [_class()], "codes": {"five": 0}},
    ],
)
def test_a_damaged_legend_is_refused(content):
    with pytest.raises(ArgumentError):
        Legend.from_dict(content)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1", "\x00"])
def test_a_file_that_is_no_legend_is_refused(text, tmp_path):
    (tmp_path / "legend.yaml").write_text(text)
    with pytest.raises(ArgumentError):
        get_legend(tmp_path / "legend.yaml")


def _class_names(legend):
    return "".join(f"{number}={name};" for number, name in enumerate(legend.names)) + "255=no_label"


@pytest.mark.parametrize("name", LEGENDS)
def test_a_file_that_says_that_it_holds_ids_is_read_by_ids_whatever_the_codes_are(name):
    legend = LEGENDS[name]
    ids = np.array([*range(legend.num_classes), 255], np.uint8)
    codes = legend.of_file({"LEGEND": name, "CLASS_NAMES": _class_names(legend)}, "a.tif")
    assert codes.encode(ids, "a.tif", 255).tolist() == ids.tolist()


def test_a_file_that_names_its_codes_or_nothing_is_read_by_the_legend():
    legend = LEGENDS["worldcover"]
    for tags in ({}, {"CLASS_NAMES": "10: Tree cover, 80: Water"}, {"CLASS_NAMES": "1=Wald;2=See"}):
        assert legend.of_file(tags, "a.tif") is legend


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"LEGEND": "osm13"}, "of another legend"),
        ({"CLASS_NAMES": "0=not_water;1=water"}, "water at .0., not at 1"),
        ({"CLASS_NAMES": "8=water;2=forest"}, "water at .0., not at 8"),
    ],
)
def test_a_file_that_contradicts_the_legend_is_refused_by_name(tags, words):
    with pytest.raises(LabelError, match=words) as caught:
        LEGENDS["dynamic_world"].of_file(tags, "a.tif")
    assert caught.value.where == "a.tif"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": {0.9: 0, 1: 1}}, "0.9 is no whole number"),
        ({"codes": {0: 0.9, 1: 1}}, "0.9 is no whole number"),
        ({"codes": {0: True, 1: 1}}, "True is no whole number"),
        ({"classes": [{"id": 0.7, "name": "a", "color": "#000000"}]}, "0.7 is no whole number"),
        ({"codes": {0: 4}}, "codes must lead to"),
    ],
)
def test_a_legend_file_with_wrong_numbers_is_refused_with_its_name(change, words, tmp_path):
    classes = [{"id": 0, "name": "a", "color": "#000000"}, {"id": 1.0, "name": "b", "color": "#000001"}]
    path = tmp_path / "legend.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "classes": classes, "codes": {"3": 0, 4.0: 1}}))
    assert get_legend(path).codes == {3: 0, 4: 1}
    path.write_text(yaml.safe_dump({"name": "mine", "classes": classes, **change}))
    with pytest.raises(ArgumentError, match=words) as caught:
        get_legend(path)
    assert str(path) in str(caught.value.where)
