"""Dynamic World from Earth Engine, against a stand-in that computes what the servers would for a made-up world."""

from __future__ import annotations

import datetime
import sys
import types

import numpy as np
import pytest

from cromss.data.labelling import earth_engine
from cromss.errors import ConfigError, DataError, MissingDataError
from cromss.geo.legends import get_legend
from small_scenes import grid

NAMES = get_legend("dynamic_world").names
DATES = ("2021-05-20", "2021-06-01", "2021-06-10", "2021-06-30")


def _scene(date, x, y):
    """Label and probabilities of the world at some places on a day; every seventh place is masked on odd days."""
    number = DATES.index(date)
    label = ((x // 30 + y // 50 + (number == 2) * (x // 10 % 3 == 0)) % 9).astype(int)
    shares = np.full((9, *x.shape), 0.05)
    np.put_along_axis(shares, label[None], 0.6, axis=0)
    masked = (x // 10 + y // 10) % 7 == (0 if number % 2 else 8)
    masked |= (x // 10) % 11 == 5  # never seen
    return label, shares, masked


class Image:
    def __init__(self, layers):
        self.layers, self.factor, self.fill, self.bytes = layers, 1, None, False

    def multiply(self, factor):
        self.factor = factor
        return self

    def round(self):
        return self

    def addBands(self, other):  # noqa: N802 - the library's name
        self.other = other
        return self

    def toByte(self):  # noqa: N802 - the library's name
        self.bytes = True
        return self

    def unmask(self, value, same_footprint):
        assert same_footprint is False  # else it stays masked outside the scenes' footprints
        self.fill = value
        return self


class Collection:
    def __init__(self, name, dates=DATES, names=None):
        assert name == "GOOGLE/DYNAMICWORLD/V1"
        self.name, self.dates, self.names = name, dates, names

    def filterBounds(self, area):  # noqa: N802 - the library's name
        FAKE.area = area
        return self

    def filterDate(self, start, end):  # noqa: N802 - the library's name
        return Collection(self.name, tuple(date for date in self.dates if start <= date < end))

    def size(self):
        return types.SimpleNamespace(getInfo=lambda: len(self.dates))

    def select(self, names):
        return Collection(self.name, self.dates, names)

    def mode(self):
        assert self.names == "label"

        def compute(x, y):
            scenes = [_scene(date, x, y) for date in self.dates]
            votes = np.stack([np.where(masked, -1, label) for label, _, masked in scenes])
            counts = np.stack([(votes == c).sum(axis=0) for c in range(9)])
            return counts.argmax(axis=0)[None], (votes == -1).all(axis=0)

        return Image(compute)

    def mean(self):
        assert tuple(self.names) == NAMES

        def compute(x, y):
            scenes = [_scene(date, x, y) for date in self.dates]
            hidden = np.stack([masked for _, _, masked in scenes])
            shares = np.stack([np.where(masked, 0, s) for _, s, masked in scenes])
            return shares.sum(axis=0) / np.maximum(1, (~hidden).sum(axis=0)), hidden.all(axis=0)

        return Image(compute)


def _compute_pixels(request):
    FAKE.requests.append(request)
    place = request["grid"]
    height, width = place["dimensions"]["height"], place["dimensions"]["width"]
    assert 10 * height * width < 48 * 1024**2  # what one request may give
    assert place["crsCode"] == "EPSG:32633"
    assert request["fileFormat"] == "NUMPY_NDARRAY"
    affine = place["affineTransform"]
    rows, columns = np.mgrid[:height, :width] + 0.5
    x = affine["scaleX"] * columns + affine["shearX"] * rows + affine["translateX"]
    y = affine["shearY"] * columns + affine["scaleY"] * rows + affine["translateY"]
    image = request["expression"]
    assert image.bytes
    label, masked = image.layers(x, y)
    shares, _ = image.other.layers(x, y)
    result = np.zeros((height, width), [("label", "u1"), *((name, "u1") for name in NAMES)])
    result["label"] = np.where(masked, image.fill, label[0])
    for name, share in zip(NAMES, shares, strict=True):
        result[name] = np.where(masked, image.fill, np.rint(share * image.other.factor))
    return result


class EEException(Exception):  # noqa: N818 - the library's name
    pass


FAKE = types.SimpleNamespace()


@pytest.fixture
def ee(monkeypatch):
    FAKE.requests, FAKE.projects = [], []
    module = types.ModuleType("ee")
    module.EEException = EEException
    module.Initialize = lambda project=None: FAKE.projects.append(project)
    module.ImageCollection = Collection
    module.Geometry = types.SimpleNamespace(Rectangle=lambda box, crs, geodesic: (box, crs, geodesic))
    module.data = types.SimpleNamespace(computePixels=_compute_pixels)
    monkeypatch.setitem(sys.modules, "ee", module)
    return module


def _days(first, last):
    return datetime.date.fromisoformat(first), datetime.date.fromisoformat(last)


def _truth(where, dates):
    rows, columns = np.mgrid[: where.height, : where.width] + 0.5
    x, y = where.transform.c + 10 * columns, where.transform.f - 10 * rows
    image = Collection("GOOGLE/DYNAMICWORLD/V1", dates, "label").mode()
    label, masked = image.layers(x, y)
    shares, _ = Collection("GOOGLE/DYNAMICWORLD/V1", dates, list(NAMES)).mean().layers(x, y)
    return label[0], masked, shares


def test_labels_are_the_mode_and_confidences_the_mean_probability_of_it(ee):
    where = grid(50)
    found = earth_engine.dynamic_world(ee, where, _days("2021-06-01", "2021-06-30"), "a.tif")
    label, masked, shares = _truth(where, DATES[1:])
    assert 0 < masked.sum() < masked.size
    assert (found.labels_HW == np.where(masked, 255, label)).all()
    percent = np.rint(100 * shares).astype(np.uint8)
    assert (found.percent_CHW == np.where(masked, 255, percent)).all()
    chosen = np.take_along_axis(percent, label[None], axis=0)[0]
    assert (found.confidence_HW == np.where(masked, 255, chosen)).all()
    assert found.notes["scenes composited"] == 3  # the last day counts too
    (west, south, east, north), crs, geodesic = FAKE.area
    assert 12 < west < east < 13
    assert 47 < south < north < 48
    assert (crs, geodesic) == ("EPSG:4326", False)


def test_a_large_image_comes_in_blocks_that_fit_together(ee, monkeypatch):
    where = grid(50, height=70, width=45)
    whole = earth_engine.dynamic_world(ee, where, _days("2021-05-01", "2021-07-01"), "a.tif")
    assert len(FAKE.requests) == 1
    monkeypatch.setattr(earth_engine, "_BLOCK", 32)
    parts = earth_engine.dynamic_world(ee, where, _days("2021-05-01", "2021-07-01"), "a.tif")
    assert len(FAKE.requests) == 1 + 3 * 2
    assert (parts.labels_HW == whole.labels_HW).all()
    assert (parts.percent_CHW == whole.percent_CHW).all()


def test_days_without_a_scene_are_refused_before_anything_is_computed(ee):
    with pytest.raises(MissingDataError, match="no scene here"):
        earth_engine.dynamic_world(ee, grid(8), _days("2019-01-01", "2019-02-01"), "a.tif")
    assert not FAKE.requests


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pixels: pixels[:-1], "something else"),
        (lambda pixels: pixels[["label", "water"]], "something else"),
        (lambda pixels: _with(pixels, "label", 9), "no Dynamic World"),
        (lambda pixels: _with(pixels, "trees", 101), "no Dynamic World"),
    ],
)
def test_answers_that_cannot_be_are_refused(ee, change, words):
    ee.data.computePixels = lambda request: change(_compute_pixels(request))
    with pytest.raises(DataError, match=words):
        earth_engine.dynamic_world(ee, grid(8), _days("2021-05-01", "2021-07-01"), "a.tif")


def _with(pixels, name, value):
    pixels[name][pixels["label"] == pixels["label"].min()] = value
    return pixels


def test_what_the_servers_refuse_is_one_error_that_names_the_image(ee):
    def refuse(request):
        raise EEException("Computed value is too large.")

    ee.data.computePixels = refuse
    with pytest.raises(DataError, match="too large") as caught:
        earth_engine.dynamic_world(ee, grid(8), _days("2021-05-01", "2021-07-01"), "a.tif")
    assert caught.value.where == "a.tif"
    assert "on_existing=keep" in caught.value.do


def test_signing_in_names_the_project_and_says_what_to_do_where_it_fails(ee):
    assert earth_engine.connect("mine") is ee
    assert FAKE.projects == ["mine"]

    def refuse(project=None):
        raise EEException("Please authorize access to your Earth Engine account")

    ee.Initialize = refuse
    with pytest.raises(ConfigError, match="authorize") as caught:
        earth_engine.connect(None)
    assert "earthengine authenticate" in caught.value.do


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ee", None)
    with pytest.raises(ConfigError, match="one more library") as caught:
        earth_engine.connect(None)
    assert "cromss[earthengine]" in caught.value.do


def test_days_are_those_given_or_those_around_the_image():
    june = datetime.date(2021, 6, 10)
    assert earth_engine.period(june, None, None, 15, "a") == _days("2021-05-26", "2021-06-25")
    assert earth_engine.period(june, None, "2021-06-30", 15, "a") == _days("2021-05-26", "2021-06-30")
    assert earth_engine.period(None, "2021-01-01", "2021-02-01", 15, "a") == _days("2021-01-01", "2021-02-01")
    with pytest.raises(MissingDataError, match="its date"):
        earth_engine.period(None, "2021-01-01", None, 15, "a")
    with pytest.raises(ConfigError, match="out of order"):
        earth_engine.period(None, "2021-03-01", "2021-02-01", 15, "a")
    with pytest.raises(ConfigError, match="not a date"):
        earth_engine.period(june, "June", None, 15, "a")
