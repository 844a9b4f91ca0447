"""Every recipe of a benchmark that is shipped can be read, planned and started."""

from __future__ import annotations

from pathlib import Path

import pytest

from cromss.training.benchmark import plan
from cromss.training.jobs import place_jobs
from cromss.training.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("name", ["demo", "mini-benchmark", "sentinel-mini"])
def test_every_setting_of_a_shipped_recipe_is_known_and_its_jobs_stand_in_order(name, tmp_path):
    path = RECIPES / f"{name}.yaml"
    jobs = plan(read_recipe(path, tmp_path), threads=1)
    places = place_jobs(jobs, tmp_path)
    assert len(places) == len(jobs) > 10
    head = path.read_text().split("title:")[0]
    assert all(word in head for word in ("Command", "Cost", "Score"))


def test_the_demonstration_in_the_package_and_the_one_among_the_recipes_are_the_same():
    import cromss

    assert (RECIPES / "demo.yaml").read_bytes() == (Path(cromss.__file__).parent / "recipes/demo.yaml").read_bytes()
