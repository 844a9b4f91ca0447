"""One function over many items, here or on Dask: the same results in the same order, errors with the same words."""

from __future__ import annotations

import itertools
import operator
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
from rasterio.crs import CRS
from rasterio.errors import RasterioIOError

from clusters import two_workers
from cromss import errors, workers
from cromss.cli import main
from cromss.errors import ConfigError, CromssError, DamagedFileError, WorkerError
from cromss.files import read_json
from cromss.workers import here, open_workers, require_workers


@pytest.fixture(scope="module")
def scheduler():
    with two_workers(**{"distributed.scheduler.allowed-failures": 0}) as address:
        yield address


def test_one_worker_is_this_process_item_by_item():
    drawn = []

    def items():
        for number in range(10):
            drawn.append(number)
            yield number

    with open_workers() as each:
        assert each is here
        assert list(itertools.islice(each(operator.add, 100, items()), 3)) == [100, 101, 102]
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_dask_gives_the_same_results_in_the_same_order(together, scheduler):
    with open_workers(scheduler=scheduler) as each:
        assert list(each(divmod, 1000, range(1, 40), together=together)) == [divmod(1000, n) for n in range(1, 40)]
        assert list(each(operator.add, 1, [])) == []


@pytest.mark.slow
def test_the_work_is_done_in_other_processes(scheduler):
    with open_workers(scheduler=scheduler) as each:
        (found,) = set(each(os.path.join, "/proc", ["self/environ"]))
        pids = set(each(_pid, None, range(8)))
    assert found == "/proc/self/environ"
    assert os.getpid() not in pids
    assert len(pids) == 2


def _pid(shared, item):
    import time

    time.sleep(0.2)  # long enough that one worker does not take all of the work
    return os.getpid()


@pytest.fixture(autouse=True, scope="module")
def _functions_of_this_file_travel_by_value():
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs the extra `scale` (Dask)")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_an_error_of_the_function_is_raised_as_it_was_there(scheduler, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DamagedFileError) as local:
        read_json(tmp_path / "broken.json")
    with open_workers(scheduler=scheduler) as each, pytest.raises(DamagedFileError) as remote:
        list(each(_read, tmp_path, ["broken.json"]))
    assert str(remote.value) == str(local.value)
    assert remote.value.where == local.value.where


def _read(folder, name):
    return read_json(folder / name)


@pytest.mark.slow
def test_work_that_kills_its_workers_ends_with_an_error_that_says_so(scheduler):
    with open_workers(scheduler=scheduler) as each, pytest.raises(WorkerError, match="workers died") as caught:
        list(each(_die, None, [0]))
    assert "fewer workers" in caught.value.do


def _die(shared, item):
    os._exit(1)


def test_an_address_without_a_scheduler_is_refused(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
    monkeypatch.setattr(workers, "_CONNECT_S", 0.5)
    with pytest.raises(WorkerError, match="no Dask scheduler") as caught, open_workers(scheduler="tcp://127.0.0.1:9"):
        pass
    assert caught.value.where == "tcp://127.0.0.1:9"


def test_a_word_that_is_no_address_is_refused(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
    monkeypatch.setattr(workers, "_CONNECT_S", 0.5)
    with pytest.raises(WorkerError, match="no Dask scheduler"), open_workers(scheduler="no address"):
        pass


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_less_than_one_worker_is_refused(command, number, tmp_path, capsys):
    place = {"prepare": "--out", "verify": "--path"}[command]
    assert main([command, place, str(tmp_path / "x"), "--workers", str(number)]) == 2
    assert f"workers {number}" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_workers_and_a_scheduler_exclude_each_other():
    with pytest.raises(ConfigError, match="one of the two"):
        require_workers(2, "tcp://127.0.0.1:8786")


def test_without_dask_the_error_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["prepare", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 2
    assert "cromss[scale]" in capsys.readouterr().err


@pytest.mark.slow
def test_one_worker_needs_no_dask():
    code = "import sys, cromss.data.prepare, cromss.commands; sys.exit('distributed' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_relative_paths_are_refused_where_workers_may_be_elsewhere():
    pytest.importorskip("distributed", reason="needs the extra `scale` (Dask)")
    with pytest.raises(ConfigError, match="root data") as caught:
        require_workers(1, "tcp://127.0.0.1:8786", root="data", out="/out")
    assert caught.value.do == f"root={Path.cwd() / 'data'}"


KINDS = [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), CromssError)]


class OddError(Exception):
    """An error that can not be made again from its arguments, as libraries have them."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "got",
    [
        None,
        3,
        0.5,
        "text",
        ["a", "b"],
        (1, 2),
        OddError("one", "two"),
        RasterioIOError("gone"),
        zipfile.BadZipFile("bad"),
        CRS.from_epsg(32633),
        {"settings": lambda: 0},
        {"a", "b"},
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_every_error_survives_pickling_with_its_words(kind, got):
    error = kind("what", got=got, expected=[got], where=Path("/data/x.tif"), do="this")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # what this process wrote a moment ago
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.what, again.where, again.do) == ("what", Path("/data/x.tif"), "this")
