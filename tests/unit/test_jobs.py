"""Jobs run once, in order, at most so many at a time, and a failure names its log."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest
import yaml

from cromss.errors import ConfigError, TrainingError
from cromss.training.jobs import Job, place_jobs, run_jobs
from cromss.training.stop import EXIT_STOPPED

# Stands in for the command line: reads job.yaml, keeps a diary of starts and ends, fails or sleeps as it is told.
WORKER = """
import json, os, pathlib, sys, time
import yaml
def main():
    command, flag, path = sys.argv[1:]
    settings = yaml.safe_load(open(path))
    out = pathlib.Path(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    diary = pathlib.Path(settings["diary"])
    def note(event):
        with diary.open("a") as file:
            file.write(json.dumps([settings["me"], event, time.monotonic(), os.environ["OMP_NUM_THREADS"]]) + "\\n")
    note("start")
    (out / "seen").write_text(f"{os.getpid()} {os.getppid()} {sorted(os.environ)}")
    if settings.get("data") and not (pathlib.Path(settings["data"]) / "result").exists():
        sys.exit("my data is not there")
    time.sleep(settings.get("sleep", 0.0))
    if settings.get("die"):
        os.kill(os.getpid(), 9)
    if settings.get("fail") and not pathlib.Path(settings["fail"]).exists():
        print("the lake is on fire", file=sys.stderr)
        return 3
    (out / "result").write_text(command)
    note("end")
    return 0
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    (tmp_path / "worker_of_tests.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    diary = tmp_path / "diary"
    said = []

    def job(name, needs=(), **settings):
        return Job(name=name, command="work", settings={"me": name, "diary": str(diary), **settings}, needs=needs)

    def place(jobs):
        return place_jobs(jobs, tmp_path / "jobs")

    def run(jobs, at_a_time=2, threads=1):
        places = place(jobs)
        run_jobs(
            jobs, places, at_a_time=at_a_time, threads=threads, say=said.append, program=("worker_of_tests", "json")
        )
        return places

    def events():
        return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []

    functions = {"job": staticmethod(job), "place": staticmethod(place), "run": staticmethod(run)}
    return type("Bench", (), {**functions, "events": events, "said": said})


def test_a_job_starts_after_what_it_refers_to_and_gets_its_run_folder(bench):
    jobs = [bench.job("data", sleep=0.2), bench.job("train", data="@data"), bench.job("score", data="@train")]
    places = bench.run(jobs, at_a_time=3, threads=2)
    order = [(name, event) for name, event, _, _ in bench.events()]
    assert order == [(n, e) for n in ("data", "train", "score") for e in ("start", "end")]
    assert (places["score"].run / "result").read_text() == "work"
    assert yaml.safe_load((places["train"].folder / "job.yaml").read_text())["data"] == str(places["data"].run)
    assert {threads for *_, threads in bench.events()} == {"2"}


@pytest.mark.slow
def test_no_more_jobs_run_together_than_were_allowed(bench):
    bench.run([bench.job(f"job{i}", sleep=0.15) for i in range(5)], at_a_time=2)
    alive, most = 0, 0
    for _, event, _, _ in bench.events():
        alive += 1 if event == "start" else -1
        most = max(most, alive)
    assert most == 2


@pytest.mark.slow
def test_the_job_that_most_others_wait_for_starts_first(bench):
    jobs = [bench.job("data"), bench.job("table", needs=("data",)), bench.job("train", needs=("data",))]
    jobs += [bench.job("score", needs=("train",)), bench.job("transfer", needs=("train",))]
    bench.run(jobs, at_a_time=1)
    started = [name for name, event, *_ in bench.events() if event == "start"]
    assert started == ["data", "train", "table", "score", "transfer"]


def test_finished_jobs_are_kept_and_only_changed_settings_and_what_hangs_on_them_run_again(bench):
    first = [
        bench.job("data"),
        bench.job("a", data="@data", lr=1),
        bench.job("b", data="@a"),
        bench.job("c", data="@data"),
    ]
    bench.run(first)
    bench.run(first)
    assert len(bench.events()) == 2 * 4
    assert "4 of 4 jobs had finished before" in bench.said
    changed = [first[0], bench.job("a", data="@data", lr=2), first[2], first[3]]
    bench.run(changed)
    assert sorted(name for name, event, *_ in bench.events()[8:] if event == "start") == ["a", "b"]


def test_a_failed_job_is_an_error_that_names_its_log_and_the_next_start_runs_it_alone(bench, tmp_path):
    mended = tmp_path / "mended"
    jobs = [bench.job("good"), bench.job("bad", needs=("good",), fail=str(mended))]
    with pytest.raises(TrainingError, match="the lake is on fire") as caught:
        bench.run(jobs)
    assert "job bad failed with exit code 3" in str(caught.value)
    assert str(caught.value.where).endswith("log.txt")
    mended.touch()
    places = bench.run(jobs)
    assert [name for name, event, *_ in bench.events() if event == "start"] == ["good", "bad", "bad"]
    assert places["bad"].is_finished()


def test_when_one_job_fails_the_others_are_stopped_rather_than_left_behind(bench, tmp_path):
    began = time.monotonic()
    with pytest.raises(TrainingError):
        bench.run([bench.job("long", sleep=60), bench.job("bad", sleep=0.2, fail=str(tmp_path / "never"))])
    assert time.monotonic() - began < 30
    assert [name for name, event, *_ in bench.events() if event == "end"] == []


@pytest.mark.slow
def test_two_jobs_that_fail_at_once_are_not_waited_for(bench, tmp_path):
    for number in range(3):
        began = time.monotonic()
        with pytest.raises(TrainingError):
            bench.run([bench.job(f"{name}{number}", sleep=0.1, fail=str(tmp_path / "never")) for name in "ab"])
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_stop_signal_stops_the_jobs_before_the_command_leaves(bench):
    began = time.monotonic()
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(SystemExit) as left:
            bench.run([bench.job("long", sleep=30)])
    finally:
        timer.join()
    assert left.value.code == EXIT_STOPPED
    assert time.monotonic() - began < 20
    assert [name for name, event, *_ in bench.events() if event == "end"] == []


def test_the_environment_changes_no_setting_of_a_job(bench, monkeypatch):
    monkeypatch.setenv("CROMSS_WORK__LR", "7")
    places = bench.run([bench.job("a")])
    assert "CROMSS_" not in (places["a"].run / "seen").read_text()


@pytest.mark.slow
def test_jobs_are_processes_of_their_own_with_one_host_for_as_many_as_run_after_each_other(bench):
    places = bench.run([bench.job(name) for name in "abc"], at_a_time=1)
    jobs, hosts = zip(*((places[name].run / "seen").read_text().split()[:2] for name in "abc"), strict=True)
    assert len(set(jobs)) == 3
    assert len(set(hosts)) == 1


def test_a_job_that_is_killed_and_one_that_cannot_start_are_errors(bench):
    with pytest.raises(TrainingError, match="exit code -9"):
        bench.run([bench.job("killed", die=True)])
    jobs = [bench.job("orphan")]
    with pytest.raises(TrainingError, match="job orphan failed with exit code 1"):
        run_jobs(
            jobs,
            bench.place(jobs),
            at_a_time=1,
            threads=1,
            say=print,
            program=("worker_of_tests", "no_such_module"),
        )


def test_a_job_before_what_it_needs_is_refused_before_anything_starts(bench):
    with pytest.raises(ConfigError, match="stands before"):
        bench.run([bench.job("train", data="@data"), bench.job("data")])
    with pytest.raises(ConfigError, match="twice"):
        bench.run([bench.job("a"), bench.job("a")])
    assert bench.events() == []
