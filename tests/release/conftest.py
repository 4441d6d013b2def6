"""A bundle built once from tiny artifacts, and copies of it that a test may alter."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_artifacts import NAME, make_artifacts
from fake_runs import FakeRun

from provenance.artifacts import Artifact
from provenance.canonical import write_json
from provenance.environment import environment_record
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest
from provenance.stage import StageContext
from release.bundle import build_release, bundle_path
from release.interpreters import Interpreter
from release.settings import ReleaseConfig
from train.job import TrainingJob
from train.jobs import job_environment

ROOT = Path(__file__).resolve().parents[2]
LOCK = "\n".join(
    f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}" for name in ("torch", "transformers", "tokenizers", "numpy")
)


RETENTION = {"keep_last_full": 1, "published_full_steps": [4], "weights_every_steps": 0, "weights_until_step": 2}


@dataclass(frozen=True)
class Built:
    """A built release with what it was built from."""

    config: ReleaseConfig
    config_dir: Path
    context: StageContext
    artifacts: dict[str, Artifact]
    artifact: Artifact

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return bundle_path(self.artifact)


def release_config(**changes: object) -> ReleaseConfig:
    """The release recipe of the tests."""
    values: dict[str, object] = {
        "name": NAME,
        "version": "0.1",
        "description": "A tiny model <made> for tests & nothing else.",
        "provider": {"name": "Testers", "contact": "tests@example.org"},
        "intended_use": "For tests of the release stage, and for nothing else.",
        "limitations": ["It was never trained."],
        "data": {
            "selection": "Sentences were made by the test itself, from a pattern with numbers in it.",
            "labelling": "There are no labels; answers come from the pattern.",
        },
    }
    return ReleaseConfig.model_validate({**values, **changes})


def make_project(target: Path) -> Path:
    """Copy the packages and add locks of the test's own: what a release copies into `code/`."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copyfile(ROOT / name, target / name)
    (target / "requirements").mkdir()
    (target / "requirements" / "cpu.lock").write_text(LOCK + "\n")
    return target


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's packages, so that edits elsewhere cannot disturb a test."""
    return make_project(tmp_path_factory.mktemp("project") / "code")


@pytest.fixture(scope="session")
def built(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A release built from tiny artifacts."""
    base = tmp_path_factory.mktemp("release")
    config_dir = base / "configs" / NAME
    config_dir.mkdir(parents=True)
    (config_dir / "corpus.yaml").write_text("# settings of the corpus\nseed: 1\n")
    (config_dir / "release.yaml").write_text(f"# the release\nname: {NAME}\n")
    code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
    context, artifacts = make_artifacts(base / "artifacts" / NAME, code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("release.bundle.project_root", lambda: project)
        artifact = build_release(release_config(), context, artifacts, config_dir)
    return Built(release_config(), config_dir, context, artifacts, artifact)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "skips": {"num_steps": 9, "skip_steps": ((2, 3), (4, 4), (7, 8))},
    "branch": {"num_steps": 7, "branch_step": 2, "skip_steps": ((3, 4),)},
    "experts": {"has_experts": True, "optimizer": "muon", "precision": "bf16", "sharded": True},
    "retained": {"num_steps": 10, "reduction": "native", "checkpoints": RETENTION, "demoted": (2,), "removed": (6,)},
    "longer": {"num_steps": 7, "long_steps": 3},
    "without": {"num_steps": 9, "branch_step": 4, "long_steps": 2, "leaves_out": True},
    "by file": {"num_steps": 6, "by_file": True},
    "roomy": {"num_steps": 10, "checkpoints": RETENTION},
}
"""Pretraining runs in the forms that a ledger may have, by name."""


@pytest.fixture(scope="session")
def bundle_of(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Bundles whose pretraining is one of `RUNS`; built when first asked for, and never to be changed."""

    @functools.cache
    def build(name: str) -> Path:
        base = tmp_path_factory.mktemp(f"release-{name}")
        (base / "configs" / NAME).mkdir(parents=True)
        code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
        shape = FakeRun("pretrain", "train", seed=1, **RUNS[name])
        context, artifacts = make_artifacts(base / "artifacts" / NAME, code, pretraining=shape)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("release.bundle.project_root", lambda: project)
            return bundle_path(build_release(release_config(), context, artifacts, base / "configs" / NAME))

    return build


@pytest.fixture
def copy_of(bundle_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies of these bundles that a test may change."""
    return lambda name: Path(shutil.copytree(bundle_of(name), tmp_path / name))


@pytest.fixture
def replaying_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays run the checkout's code in this process, which costs a tenth: what judges them is the same.

    That a bundle's own code runs, in processes of its own, is for the tests without this.
    """
    import small_jobs  # brings torch, which most tests of this package do without
    import torch

    from train import replay

    def launch(job: TrainingJob, num_processes: int, num_threads: int) -> None:
        for name, value in job_environment(ROOT, num_threads).items():
            monkeypatch.setenv(name, value)
        torch.set_num_threads(num_threads)
        write_json(Path(job.run_dir) / "environment.json", environment_record())
        small_jobs.launch_here(False)(job)

    def run(
        _: Interpreter, code: Path, arguments: list[str], *__: Any, **___: Any
    ) -> subprocess.CompletedProcess[bytes]:
        assert (code / "train" / "replay.py").is_file()
        monkeypatch.setattr("sys.argv", arguments)
        return subprocess.CompletedProcess(arguments, replay.main())

    monkeypatch.setattr(replay, "launch", launch)
    monkeypatch.setattr(Interpreter, "run", run)


@pytest.fixture
def rebuild(built: Built, project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """Build again from the same artifacts, with other settings."""
    monkeypatch.setattr("release.bundle.project_root", lambda: project)

    def call(
        config_dir: Path = built.config_dir,
        context: StageContext = built.context,
        evaluation: Artifact = built.artifacts["eval"],
        **changes: object,
    ) -> Artifact:
        return build_release(release_config(**changes), context, {**built.artifacts, "eval": evaluation}, config_dir)

    return call


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """A copy of the bundle, made of hard links: replace files, never write into them."""
    target = tmp_path / "bundle"
    shutil.copytree(built.bundle, target, copy_function=os.link)
    return target


def replace_file(path: Path, data: bytes | str) -> None:
    """Put other bytes in the place of a file of a copied bundle."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
