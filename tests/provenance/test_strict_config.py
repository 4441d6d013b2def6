from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from provenance.config import Config, load_config, override_config, recipe_of
from provenance.errors import ConfigError


class Optimizer(Config):
    peak_learning_rate: float = Field(gt=0)
    warmup_steps: int = 10


class Phase(Config):
    num_steps: int


class Execution(Config):
    num_processes: int | None = None


class Recipe(Config):
    name: str
    optimizer: Optimizer
    phases: tuple[Phase, ...] = Field(default=(), strict=False)
    second: Optimizer | None = None
    cache: Path | None = Field(default=None, strict=False)
    execution: Execution = Execution()


GOOD = """\
name: überblick
optimizer:
  peak_learning_rate: 0.1
phases:
  - num_steps: 3
  - num_steps: 4
"""


def write(tmp_path, text):
    path = tmp_path / "pretrain.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path, text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), Recipe, overrides)
    return caught.value


def test_a_good_file_fills_the_model(tmp_path):
    config = load_config(write(tmp_path, GOOD), Recipe)
    assert config.name == "überblick"
    assert [phase.num_steps for phase in config.phases] == [3, 4]


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001"])
def test_numbers_may_be_written_as_people_write_them(tmp_path, text):
    written = load_config(write(tmp_path, GOOD.replace("0.1", text)), Recipe)
    overridden = load_config(write(tmp_path, GOOD), Recipe, [f"optimizer.peak_learning_rate={text}"])
    assert written.optimizer.peak_learning_rate == overridden.optimizer.peak_learning_rate == 1e-3


def test_models_are_frozen(tmp_path):
    config = load_config(write(tmp_path, GOOD), Recipe)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"


def test_unknown_key_names_file_line_and_nearest_key(tmp_path):
    error = refused(tmp_path, GOOD.replace("  peak_learning_rate: 0.1", "  peak_learning_rate: 0.1\n  warmup_step: 5"))
    assert error.where.endswith("pretrain.yaml:4")
    assert "optimizer.warmup_step" in error.found
    assert "warmup_steps" in error.expected
    assert error.exit_code == 2


def test_unknown_key_inside_a_list_names_its_line(tmp_path):
    error = refused(tmp_path, GOOD.replace("  - num_steps: 4", "  - num_steps: 4\n    num_step: 5"))
    assert error.where.endswith(":7")
    assert "num_steps" in error.expected


def test_unknown_key_inside_an_optional_model(tmp_path):
    error = refused(tmp_path, GOOD + "second: {peak_learning_rat: 1.0}\n")
    assert "peak_learning_rate" in error.expected


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD.replace("0.1", "-0.1"), 3, "greater than 0"),
        (GOOD.replace("0.1", '"0.1"'), 3, "number"),
        (GOOD.replace("num_steps: 3", "num_steps: 3.0"), 5, "integer"),
        (GOOD.replace("num_steps: 3", "num_steps: yes"), 5, "integer"),
        (GOOD.replace("name: überblick\n", ""), 1, "value"),
        (GOOD + "name: twice\n", 7, "once"),
        (GOOD + "a: [1\n", 8, "YAML"),
        (GOOD + "optimizer: 3\n", 7, "once"),
        (GOOD + "!!python/object:os.system {}\n", None, ""),
    ],
)
def test_wrong_values_name_their_line(tmp_path, text, line, words):
    error = refused(tmp_path, text)
    assert line is None or error.where.endswith(f":{line}")
    assert words in error.expected


@pytest.mark.parametrize("text", ["", "- a list\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    assert "mapping" in refused(tmp_path, text).expected


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        load_config(tmp_path / "absent.yaml", Recipe)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xfcber\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "latin.yaml", Recipe)


def test_overrides_reach_nested_values(tmp_path):
    overrides = ["optimizer.peak_learning_rate=0.5", "phases.1.num_steps=9", "second={peak_learning_rate: 2.0}"]
    config = load_config(write(tmp_path, GOOD), Recipe, overrides)
    assert config.optimizer.peak_learning_rate == 0.5
    assert [phase.num_steps for phase in config.phases] == [3, 9]
    assert config.second is not None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.peak_learning_rat=0.5", "peak_learning_rate"),
        ("optimizer.peak_learning_rate=-1", "greater than 0"),
        ("optimizer", "--set"),
        ("=3", "--set"),
        ("name.deeper=3", ""),
        ("name=[", "YAML"),
        ("phases.7.num_steps=1", ""),
    ],
)
def test_wrong_overrides_are_named(tmp_path, override, words):
    error = refused(tmp_path, GOOD, [override])
    assert words in error.expected
    assert override.split("=")[0].split(".")[0] in str(error)


def test_the_recipe_leaves_execution_out_and_writes_floats_as_hexadecimal(tmp_path):
    config = load_config(write(tmp_path, GOOD + "execution: {num_processes: 2}\n"), Recipe)
    recipe = recipe_of(config)
    assert "execution" not in recipe
    assert recipe["optimizer"]["peak_learning_rate"] == (0.1).hex()
    assert recipe == recipe_of(load_config(write(tmp_path, GOOD), Recipe))


@given(st.floats(min_value=1e-300, max_value=1e300), st.floats(min_value=1e-300, max_value=1e300))
def test_recipes_differ_exactly_where_their_floats_do(first, second):
    recipes = [recipe_of(Optimizer(peak_learning_rate=value)) for value in (first, second)]
    assert (recipes[0] == recipes[1]) == (first == second)


def test_an_unknown_section_of_an_override_is_named_as_that_and_not_by_a_line_of_the_file():
    with pytest.raises(ConfigError) as caught:
        override_config({}, Config, ["optimiser.name=adamw"])
    assert caught.value.where == "--set optimiser"
    assert "--set" in caught.value.next_command
