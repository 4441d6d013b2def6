"""What a release recipe accepts, and what it says about what it does not."""

from pathlib import Path

import pytest
import yaml
from conftest import release_config

from provenance.config import load_config
from provenance.errors import ConfigError
from release.settings import ReleaseConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["quickstart", "small"])
def test_shipped_configs_load(name: str) -> None:
    config = load_config(ROOT / "configs" / name / "release.yaml", ReleaseConfig)
    assert config.name == name
    assert config.stages[0] == "corpus"


def test_the_last_training_stage_is_released() -> None:
    assert release_config().released_stage == "sft"
    assert release_config(stages=["corpus", "pretrain", "eval"]).released_stage == "pretrain"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nmae: x", "did you mean 'name'"),
        ("stages: [pretrain, eval]", "corpus first"),
        ("stages: [corpus, pretrain, pretrain, eval]", "each stage once"),
        ("shipping: {alpha: everything}", "text"),
        ("hyperparameter_search: {used: true}", "code_path"),
        ("name: Not A Name", "name"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str, expected: str) -> None:
    values = yaml.safe_load((ROOT / "configs" / "quickstart" / "release.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump({**values, **yaml.safe_load(line)}), encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        load_config(path, ReleaseConfig)
