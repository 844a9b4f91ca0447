"""Layouts by name: each setting of `layout` opens a source, and settings that a layout ignores are refused."""

from __future__ import annotations

from typing import get_args

import pytest

from cromss.cli import read_config
from cromss.config import Layout, PrepareConfig
from cromss.data.sources.layouts import LAYOUTS, refuse_patterns
from cromss.errors import ConfigError


def test_every_name_of_a_layout_has_a_reader():
    assert set(LAYOUTS) == set(get_args(Layout))


def test_an_unknown_layout_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="geotiff_folders"):
        read_config(["prepare", "--out", "x", "--layout", "geotif_folders"])


def test_patterns_that_a_published_layout_ignores_are_refused_unless_null_or_default():
    refuse_patterns(PrepareConfig(out="x", s1=None))
    refuse_patterns(PrepareConfig(out="x", labels="elsewhere"), free=("labels",))
    with pytest.raises(ConfigError, match="no use for the setting s2"):
        refuse_patterns(PrepareConfig(out="x", s2="mine/{id}.tif"))
    with pytest.raises(ConfigError, match="tile"):
        refuse_patterns(PrepareConfig(out="x", tile=64))
