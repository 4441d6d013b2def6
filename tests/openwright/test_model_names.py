"""A model that transformers does not know is refused when the configs are read: with its line, and before any work."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openwright.configs import load_directory
from openwright.plan import PlanOptions, make_plan
from provenance.errors import ConfigError
from train.model import build_model
from train.model_fields import may_have_unknown_name, unknown_name
from train.settings import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "quickstart"
SEE_WITHOUT_TORCH = """
import sys
from pathlib import Path
from openwright.configs import load_directory
for release in sorted(Path(sys.argv[1]).glob("*/release.yaml")):
    load_directory(release.parent, to_plan=True)
    assert "torch" not in sys.modules and "transformers" not in sys.modules, release
"""


def olmo(**fields: object) -> ModelConfig:
    return ModelConfig(model_type="olmo3", fields=fields)


def test_a_misspelt_field_is_named_with_line_and_likeness(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    shutil.copytree(QUICKSTART, directory)
    path = directory / "pretrain.yaml"
    lines = path.read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, start=1) if "hidden_size:" in line]
    path.write_text(path.read_text().replace("hidden_size:", "hiden_size:"))
    with pytest.raises(ConfigError) as caught:
        load_directory(directory)
    error = caught.value
    assert (error.where, error.expected) == (f"{path}:{number}", "did you mean 'hidden_size'?")
    assert "unknown key 'model.fields.hiden_size': Olmo3Config of transformers" in error.found
    assert "mend the file" in error.next_command


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("pretrain.model.fields.num_hiden_layers=3", "did you mean 'num_hidden_layers'?"),
        ("pretrain.model.model_type=olmo33", "a model type that transformers knows, such as olmo3"),
    ],
)
def test_one_on_the_command_line_is_named_as_it_was_typed(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_directory(QUICKSTART, [override])
    assert (caught.value.where, caught.value.expected) == (f"--set {override.partition('=')[0]}", expected)
    assert "--set" in caught.value.next_command


def test_configs_that_are_right_are_read_without_loading_torch() -> None:
    command = [sys.executable, "-c", SEE_WITHOUT_TORCH, str(ROOT / "configs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["hidden_size", "rope_parameters", "layer_types", "output_hidden_states"])
def test_fields_of_the_class_and_of_its_base_raise_no_doubt(key: str) -> None:
    assert not may_have_unknown_name(olmo(**{key: 1}))
    assert unknown_name(olmo(**{key: 1})) is None


def test_what_the_sources_do_not_settle_the_class_itself_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_have_unknown_name(olmo(hiden_size=1))
    unknown = unknown_name(olmo(hiden_size=1))
    assert unknown is not None
    assert unknown.keys == ("fields", "hiden_size")
    with pytest.raises(ConfigError, match="hiden_size"):
        build_model(olmo(hiden_size=1), vocab_size=64, eos_id=0, pad_id=1, window_tokens=8)
    # A class whose source is not where it is looked for: any name is asked about, and none is refused for it.
    monkeypatch.setattr("train.model_fields._names_in_sources", lambda _: iter(()))
    assert may_have_unknown_name(olmo(hidden_size=66))
    assert load_directory(QUICKSTART).name == "quickstart"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hidden_size=big", "hidden_size"),
        ("hidden_size=-1", "negative dimension"),
        ("num_attention_heads=7", "must match"),
    ],
)
def test_values_that_make_no_model_are_told_by_the_plan(override: str, words: str) -> None:
    configs = load_directory(QUICKSTART, [f"pretrain.model.fields.{override}"])
    with pytest.raises(ConfigError, match="transformers makes no model of these fields") as caught:
        make_plan(configs, Path("artifacts"), PlanOptions(), command="")
    assert words in caught.value.found
    assert caught.value.where == "pretrain.yaml: model.fields"
