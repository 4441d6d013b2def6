"""`--set` texts that decided results stay with the configs in a bundle: they alone lead to the same release."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME, Built, release_config

from provenance.canonical import read_json
from provenance.stage import StageContext
from release.bundle import build_release, bundle_path

OVERRIDES = ["pretrain.seed=7", "sft.optimizer.peak_learning_rate=1e-3"]


def build(built: Built, store: Path, config_dir: Path, overrides: list[str]) -> Path:
    context = StageContext(built.context.name, store, built.context.code)
    return bundle_path(build_release(release_config(), context, built.artifacts, config_dir, overrides))


@pytest.fixture(autouse=True)
def project_of_the_tests(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.bundle.project_root", lambda: project)


def test_the_copied_configs_make_the_same_bundle(built: Built, tmp_path: Path) -> None:
    first = build(built, tmp_path / "first", built.config_dir, OVERRIDES)
    configs = first / "model" / "code" / "configs" / NAME
    assert yaml.safe_load((configs / "overrides.yaml").read_text()) == {"overrides": OVERRIDES}
    listed = [entry["path"] for entry in read_json(first / "model" / "code" / "CODE.json")["files"]]
    assert f"configs/{NAME}/overrides.yaml" in listed
    again = build(built, tmp_path / "again", configs, OVERRIDES)
    digests = [read_json(bundle / "model" / "manifest.json")["content_digest"] for bundle in (first, again)]
    assert digests[0] == digests[1]
    assert digests[0] != read_json(built.bundle / "model" / "manifest.json")["content_digest"]


def test_without_overrides_no_file_is_made(built: Built, tmp_path: Path) -> None:
    found: Any = build(built, tmp_path, built.config_dir, []) / "model" / "code" / "configs" / NAME
    assert not (found / "overrides.yaml").exists()
