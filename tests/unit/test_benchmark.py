"""A recipe becomes jobs, the jobs' scores become tables, and what a benchmark promises is checked."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from cromss.config import BenchmarkConfig
from cromss.errors import ConfigError, MissingDataError, TrainingError
from cromss.files import read_json
from cromss.maps.benchmark_report import write_benchmark_report
from cromss.training.benchmark import benchmark, plan
from cromss.training.recipe import parse_recipe, read_recipe

RECIPE = """
title: A small benchmark
about: Whether it counts right.
data_seeds: [0, 1]
data:
  world: {synthesize: {train: 4}}
  shifted: {synthesize: {world: shifted}}
pretraining:
  data: world
  seeds: [0, 1, 2]
  common: {steps: 3, encoder: tu-cromss_narrow, s2_bands: "9"}
  arms:
    random: random
    s2_alone: {method: single, sensor: s2}
    plain: {method: no_selection}
    cromss: {method: cromss}
scoring: {splits: [validation], label_source: truth}
transfer:
  common: {decoder: unet, draws: 2, train_tiles: 2, seeds: [0, 1]}
  tasks:
    s2-frozen: {data: shifted, sensor: s2, mode: frozen}
    s1-frozen: {data: shifted, sensor: s1, mode: frozen}
comparisons: [[cromss, plain], [plain, random]]
promises:
  - {say: cromss beats plain, table: s2-frozen, arm: cromss, minus: plain, metric: miou, at_least: 1.5}
  - {say: cromss is good, table: pretraining validation, arm: cromss, metric: s2_truth_oa, at_least: 99}
"""

# Stands in for the commands: scores follow from the settings by arithmetic that the tests know.
COMMAND = """
import json, pathlib, sys
import yaml
def main():
    command, _, path = sys.argv[1:]
    settings = yaml.safe_load(open(path))
    out = pathlib.Path(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    with (pathlib.Path(__file__).parent / "diary").open("a") as diary:
        diary.write(command + "\\n")
    if command == "pretrain":
        value = {"single": 0.2, "no_selection": 0.3, "cromss": 0.32}[settings["method"]] + 0.01 * settings["seed"]
        (out / "value").write_text(str(value))
    if command == "evaluate":
        value = float((pathlib.Path(settings["checkpoint"]) / "value").read_text())
        summary = {"s2_oa": 0.5, "s2_truth_oa": value, "label_accuracy": 0.7, "s2_selected_precision": 0.9}
        (out / "scores.json").write_text(json.dumps({"summary": summary}))
    if command == "transfer":
        random = settings.get("init") == "random"
        value = 0.1 if random else float((pathlib.Path(settings["checkpoint"]) / "value").read_text())
        runs = [
            {"draw": d, "seed": s,
             "scores": {"oa": value, "aa": None, "miou": value + 0.001 * d + 0.002 * s, "mf1": value}}
            for d in range(settings["draws"]) for s in settings["seeds"]
        ]
        (out / "scores.json").write_text(json.dumps({"runs": runs}))
    return 0
"""


SMALL = yaml.safe_load(RECIPE)
SMALL["pretraining"]["seeds"] = [0, 1]
del SMALL["pretraining"]["arms"]["s2_alone"], SMALL["transfer"]["tasks"]["s1-frozen"]


def start(folder: Path, command: str = COMMAND):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    (folder / "commands_of_tests.py").write_text(command)
    config = BenchmarkConfig(recipe=str(folder / "recipe.yaml"), out=str(folder / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        return benchmark(config, program=("commands_of_tests",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def result(folder):
    """One benchmark of 30 jobs, which the tests below look at."""
    return start(folder)


def parse(change=lambda content: None, root=None):
    content = yaml.safe_load(RECIPE)
    change(content)
    return parse_recipe(content, text=RECIPE, where=Path("recipe.yaml"), root=root)


def test_every_arm_gets_its_pretrainings_scores_and_transfers_once():
    jobs = plan(parse(), threads=1)
    counts = {
        kind: sum(job.command == kind for job in jobs) for kind in ("synthesize", "pretrain", "evaluate", "transfer")
    }
    # 2 data seeds x 2 sets of scenes; x 3 arms x 3 seeds; the same scored; transfers: S2 for 3 arms x 3 seeds and
    # random, S1 for the two arms that have an S1 encoder, and random
    assert counts == {"synthesize": 4, "pretrain": 18, "evaluate": 18, "transfer": 2 * (9 + 1) + 2 * (6 + 1)}
    assert not any(job.name.startswith("transfer.s1-frozen.s2_alone") for job in jobs)


def test_paired_arms_differ_in_nothing_but_what_their_arm_says():
    jobs = {job.name: job.settings for job in plan(parse(), threads=2)}
    plain, cromss = jobs["pretrain.plain.d1.s2"], jobs["pretrain.cromss.d1.s2"]
    assert {key for key in plain if plain[key] != cromss[key]} == {"method"}
    assert (plain["seed"], plain["data"], plain["threads"]) == (2, "@data.world.d1", 2)
    trained, untrained = jobs["transfer.s2-frozen.plain.d0.s0"], jobs["transfer.s2-frozen.random.d0"]
    assert set(trained) - set(untrained) == {"checkpoint"}
    assert untrained["init"] == "random"
    assert (untrained["encoder"], untrained["bands"], untrained["normalization"]) == ("tu-cromss_narrow", "9", "paper")


def test_an_arm_with_data_of_its_own_is_pretrained_and_scored_on_these():
    def change(content):
        content["data"]["chance"] = {"synthesize": {"design": "idiosyncratic"}}
        content["pretraining"]["arms"]["plain"]["data"] = "chance"

    jobs = {job.name: job for job in plan(parse(change), threads=1)}
    assert jobs["data.chance.d1"].settings["design"] == "idiosyncratic"
    assert jobs["pretrain.plain.d1.s0"].settings["data"] == "@data.chance.d1"
    assert jobs["score.validation.plain.d1.s0"].settings["data"] == "@data.chance.d1"
    assert jobs["pretrain.cromss.d1.s0"].settings["data"] == "@data.world.d1"


def test_data_of_an_arm_that_do_not_exist_and_data_for_all_arms_among_the_common_settings_are_refused():
    with pytest.raises(ConfigError, match="unknown data of arm 'plain'"):
        parse(lambda content: content["pretraining"]["arms"]["plain"].update(data="nowhere"))
    with pytest.raises(ConfigError, match="the common settings"):
        parse(lambda content: content["pretraining"]["common"].update(data="world"))


def test_the_table_holds_means_spreads_and_paired_differences_of_the_runs(result):
    content = result.content
    rows = {(row["table"], row["arm"], row["metric"]): row for row in content["means"]}
    miou = rows["s2-frozen", "cromss", "miou"]
    assert miou["runs"] == 2 * 2 * 2 * 2
    assert miou["mean"] == pytest.approx(0.32 + 0.005 + 0.0005 + 0.001)
    assert rows["s2-frozen", "random", "miou"]["runs"] == 2 * 2 * 2
    assert ("s2-frozen", "cromss", "aa") not in rows, "a score that no run has is left out, not counted as 0"
    gain = rows["pretraining validation", "plain", "s2_selected_gain"]
    assert gain["mean"] == pytest.approx(0.2)
    (difference,) = [
        row for row in content["differences"]
        if (row["table"], row["arm"], row["metric"]) == ("s2-frozen", "cromss", "miou")
    ]  # fmt: skip
    assert difference["mean"] == pytest.approx(0.02)
    assert (difference["pairs"], difference["unit"], difference["verdict"]) == (4, "pretrainings", "higher")
    assert content["title"] == "A small benchmark"
    assert all((result.out / job["folder"] / "log.txt").exists() for job in content["jobs"].values())


def test_promises_are_checked_and_a_broken_one_is_shown(result):
    assert [promise["kept"] for promise in result.content["promises"]] == [True, False]
    assert result.content["promises"][0]["value"] == pytest.approx(2.0)
    text = (result.out / "table.md").read_text()
    assert re.search(r"cromss beats plain \| 1.5 \| 2.0 \| kept", text)
    assert re.search(r"cromss is good \| 99.0 \| 32.5 \| BROKEN", text)


def test_csv_holds_the_same_numbers_as_json(result):
    rows = list(csv.DictReader((result.out / "table.csv").read_text().splitlines()))
    means = [row for row in rows if row["kind"] == "mean"]
    assert [float(row["mean"]) for row in means] == [row["mean"] for row in result.content["means"]]
    assert [int(row["n"]) for row in means] == [row["runs"] for row in result.content["means"]]
    assert len(rows) - len(means) == len(result.content["differences"])


def test_a_second_call_runs_nothing_and_gives_the_same_tables(folder, result):
    diary = (folder / "diary").read_text()
    tables = {name: (result.out / name).read_bytes() for name in ("table.csv", "table.md")}
    second = start(folder)
    assert (folder / "diary").read_text() == diary
    assert second.content["means"] == result.content["means"]
    assert {name: (second.out / name).read_bytes() for name in tables} == tables


@pytest.mark.slow
def test_a_job_that_fails_names_its_log_and_no_table_is_written(tmp_path):
    with pytest.raises(TrainingError, match="ZeroDivisionError") as caught:
        start(
            tmp_path,
            COMMAND.replace(
                'if command == "pretrain":', 'if command == "pretrain": 1 / 0\n    if command == "pretrain":'
            ),
        )
    assert Path(caught.value.where).name == "log.txt"
    assert not (tmp_path / "out" / "table.json").exists()


def test_the_report_is_one_page_with_every_table(result):
    page = write_benchmark_report(result.out).read_text()
    assert "A small benchmark" in page
    for table in result.content["tables"]:
        assert f">{table}</h2>" in page
    assert "broken" in page
    assert "higher" in page
    assert not re.search(r'(src|href)="https?:', page)
    json.dumps(read_json(result.out / "table.json"), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(pretrainings={}), "unknown name in the recipe"),
        (lambda c: c["pretraining"]["arms"]["plain"].update(stepz=3), "did you mean 'steps'"),
        (lambda c: c["pretraining"]["arms"]["plain"].update(seed=3), "what the benchmark itself sets"),
        (lambda c: c["pretraining"].update(data="worlds"), "did you mean 'world'"),
        (lambda c: c["transfer"]["tasks"]["s2-frozen"].update(mood="frozen"), "did you mean 'mode'"),
        (lambda c: c["transfer"]["tasks"]["s2-frozen"].update(data="none"), "data of task"),
        (lambda c: c["comparisons"].append(["cromss", "plane"]), "did you mean 'plain'"),
        (lambda c: c["promises"][0].update(table="s2-frozn"), "did you mean 's2-frozen'"),
        (lambda c: c["data"]["world"].update(store="x"), "one way to get it"),
        (lambda c: c["data"].update(own={"prepare": {"s1": None}}), "--root"),
        (lambda c: c["data"]["world"]["synthesize"].update(seed=4), "data_seeds"),
        (lambda c: c.update(data_seeds=[0, 0]), "different whole numbers"),
        (lambda c: c.update(data_seeds=3), "data_seeds of a recipe are a list"),
        (lambda c: c.update(data_seeds=[True, 2]), "different whole numbers"),
        (lambda c: c.update(data=["world"]), "data must hold"),
        (lambda c: c["pretraining"].update(arms=["cromss"]), "arms must hold"),
        (lambda c: c["pretraining"].update(common=3), "common settings must hold"),
        (lambda c: c["pretraining"]["common"].update(steps="many"), "wrong type.*\n.*steps"),
        (lambda c: c["transfer"]["tasks"]["s2-frozen"].update(sensor="s3"), "unknown sensor of task"),
        (lambda c: c["transfer"]["tasks"]["s2-frozen"].update(crop="s3"), "wrong type.*\n.*crop"),
        (lambda c: c["transfer"]["common"].update(epochs=None), "needs a value"),
        (lambda c: c["data"]["world"].update(synthesize=[4]), "data 'world' must hold"),
        (lambda c: c["scoring"].update(label_source="wish"), "unknown label_source"),
        (lambda c: c["promises"][0].update(at_least="much"), "number of percent points"),
        (lambda c: c.update(data={"world": {"store": "a"}, "shifted": {"store": "b"}}), "count as independent"),
        (lambda c: (c.pop("transfer"), c.pop("scoring"), c.pop("promises")), "scores nothing"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_runs(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(change)


def test_empty_parts_of_a_recipe_are_no_parts():
    recipe = parse(lambda c: (c["pretraining"].update(common=None), c.update(comparisons=None, promises=None)))
    assert recipe.comparisons == recipe.promises == ()


def test_a_recipe_that_is_absent_or_no_yaml_is_refused(tmp_path):
    with pytest.raises(MissingDataError):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not a YAML file"):
        read_recipe(tmp_path / "bad.yaml")


def test_folders_of_a_recipe_start_from_the_given_root(tmp_path):
    recipe = parse(
        lambda c: c["data"].update(own={"prepare": {"root": "pretrain"}}, made={"store": "made"}), root=tmp_path
    )
    assert recipe.data["own"].settings["root"] == str(tmp_path / "pretrain")
    assert recipe.data["made"].store == str(tmp_path / "made")
