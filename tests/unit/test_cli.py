"""The command line: every setting from file, environment or flag; wrong ones refused with the nearest name."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from cromss import config
from cromss.cli import COMMANDS, main, read_config
from cromss.errors import ConfigError

KINDS = [kind for kind, _, _ in COMMANDS.values()]


def _required(kind):
    return {
        entry.name: "x"
        for entry in dataclasses.fields(kind)
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    } | ({"sensor": "s2"} if kind is config.ExportConfig else {})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_real_default_of_every_setting(command, capsys):
    kind = COMMANDS[command][0]
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    shown = {part.split(" ")[0]: part for part in re.split(r" --(?=[a-z])", text)}
    built = kind(**_required(kind))
    for entry in dataclasses.fields(kind):
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            assert "required" in shown[entry.name]
            continue
        default = re.search(r"default: (.*)\)", shown[entry.name]).group(1)
        wanted = config.to_mapping(built)[entry.name]
        read = yaml.safe_load(default.replace("(", "[").replace(")", "]"))
        assert read == wanted or default == str(wanted), entry.name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_misspelt_key_is_refused_with_the_right_one(kind):
    for entry in dataclasses.fields(kind):
        wrong = entry.name + "x"
        with pytest.raises(ConfigError, match=f"did you mean '{entry.name}'"):
            config.from_mapping(kind, {**_required(kind), wrong: 1})


def test_a_misspelt_key_of_a_file_names_file_and_key(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("data: a\nout: b\nepoch: 3\n")
    assert main(["pretrain", "--config", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "'epoch'" in shown
    assert "did you mean 'epochs'" in shown
    assert str(path) in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrian"], "did you mean 'pretrain'"),
        (["pretrain", "--data", "a", "--out", "b", "--epohcs", "3"], "did you mean 'epochs'"),
        (["pretrain", "--data", "a", "--out", "b", "--epochs", "many"], "epochs"),
        (["pretrain", "--data", "a", "--out", "b", "--fusion", "early"], "fusion"),
        (["pretrain", "--data", "a"], "out"),
        (["pretrain", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["predict", "--checkpoint", "a", "--out", "b", "--window", "2.5"], "window"),
        (["prepare", "--out", "b", "--s2_product", "L3A"], "Given value: L3A"),
    ],
)
def test_a_wrong_call_is_one_error_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_flags_win_over_environment_over_file(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text("data: file\nout: file\nlr: 0.1\nepochs: 1\nseed: 1\n")
    monkeypatch.setenv("CROMSS_PRETRAIN__EPOCHS", "2")
    monkeypatch.setenv("CROMSS_PRETRAIN__SEED", "2")
    monkeypatch.setenv("CROMSS_TRANSFER__EPOCHS", "9")
    for order in (["--config", str(path), "--seed", "3"], ["--seed", "3", f"--config={path}"]):
        found = read_config(["pretrain", *order, "--batch-size", "4"])
        assert (found.lr, found.epochs, found.seed, found.batch_size) == (0.1, 2, 3, 4)
        assert found.data == "file"


@pytest.mark.parametrize("variable", ["CROMSS_PRETRAIN__EPOHCS", "CROMSS_PRETRAIN_EPOCHS"])
def test_a_variable_that_names_no_setting_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        read_config(["pretrain", "--data", "a", "--out", "b"])


def test_an_output_folder_that_cannot_be_is_one_error(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["synthesize", "--out", str(tmp_path / "file" / "store"), "--train", "1"]) == 2
    shown = capsys.readouterr().err
    assert str(tmp_path / "file") in shown
    assert "  do: check that path" in shown
    assert "Traceback" not in shown


def test_null_is_refused_where_a_value_is_needed(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("data: a\nout: b\nepochs: null\ncrop: null\n")
    assert main(["pretrain", "--config", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "epochs" in shown
    assert "crop" not in shown


@pytest.mark.parametrize(
    "text", ["root: a\nroot: b\n", "stac:\n  catalog: a\n  bbox: null\n  catalog: b\n", "s1: &x [*x]\ns1: 2\n"]
)
def test_a_setting_that_stands_twice_in_a_file_is_refused(text, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert main(["prepare", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "stands twice" in shown
    assert f"again in line {len(text.splitlines())}" in shown
    assert str(path) in shown


def test_a_file_that_is_not_yaml_is_refused(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("data: [a\n")
    assert main(["pretrain", "--config", str(path)]) == 2
    assert "not YAML" in capsys.readouterr().err


def test_settings_survive_the_way_through_plain_values():
    built = config.PretrainConfig(data="a", out="b", losses=("ce",), decoder_channels=(8, 8, 8, 8, 8))
    assert config.from_mapping(config.PretrainConfig, config.to_mapping(built)) == built


def test_a_number_where_a_text_is_wanted_is_to_be_quoted(tmp_path):
    (tmp_path / "job.yaml").write_text("root: a\nout: b\ns2_bands: 9\n")
    with pytest.raises(ConfigError, match="in quotes"):
        read_config(["prepare", "--config", str(tmp_path / "job.yaml")])
    (tmp_path / "job.yaml").write_text('root: a\nout: b\ns2_bands: "9"\n')
    assert read_config(["prepare", "--config", str(tmp_path / "job.yaml")]).s2_bands == "9"
