"""What all tests share: one torch thread, reproducible Hypothesis, no network, and a clean copy of the project."""

import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_release
from filelock import FileLock
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("provenance", "data_recipes", "train", "eval", "release", "openwright")
REPORT = "report.json"
COPIED = (*PACKAGES, "configs", "requirements", "docs", "README.md", "LICENSE", "pyproject.toml")

# What numba compiles is kept in the checkout, for all processes of the tests and for the next run of them.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "kernels"))

# So is what Python compiles, here and in the copies of the project: hundreds of processes import it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# While hundreds of modules are imported, nothing becomes garbage; afterwards there is nothing to find among them.
gc.disable()

# Files that take longest, longest first: processes share files out in this order, and none is left alone with one.
LONGEST = (
    *("test_layouts", "test_twins", "test_full_rebuild", "test_runs", "test_crashes", "test_compile", "test_verify"),
    *("test_interrupted_builds", "test_evaluation_stage", "test_memory", "test_launch", "test_native"),
    *("test_end_to_end", "test_reproduce", "test_corpus_stage", "test_calibration", "test_memory_options"),
)

settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("project")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest; leave the network alone unless `-m` asks for it."""
    rank = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if "network" in str(config.getoption("-m")):
        return
    chosen = [item for item in items if "network" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if "network" in item.keywords])
    items[:] = chosen


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and only among what tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Tests of bits need one thread; torch is touched only where a test module has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _gpus_for_their_own_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are GPUs, only the tests marked `gpu` see them: the others are of processes on CPUs."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True, scope="session")
def _interrupts_are_heard() -> None:
    """Shells start background jobs with Ctrl-C ignored, and children inherit that; tests send it to theirs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def extra(request: pytest.FixtureRequest) -> Callable[[str, str], Any]:
    """Import the library of an extra; without it a test is skipped, or fails where `-m extras` asked for it by name."""

    def imported(module: str, name: str) -> Any:
        if importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
        reason = f"needs the extra {name}: make setup-extras"
        if request.config.getoption("-m") == "extras":
            pytest.fail(reason)  # as the whole check of the project does
        pytest.skip(reason)

    return imported


def copy_project(target: Path) -> Path:
    """Copy packages, configs and what a release reads of the project into a git repository with one commit."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        elif source.is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    (target / ".gitignore").write_text("artifacts/\n__pycache__/\n")
    commit_all(target)
    return target


def commit_all(repository: Path) -> None:
    """Commit everything, with an identity and a date of the test's own."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", "state"]):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a directory once for all processes of a session; those that come later wait for the first and take its."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def directory(name: str, make: Callable[[Path], object]) -> Path:
        path, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(path)
                done.touch()
        return path

    return directory


@pytest.fixture(scope="session")
def project_copy(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A clean, committed copy of the project, shared by the session: tests must not edit it."""
    return made_once("openwright-copy", copy_project)


@pytest.fixture
def own_project_copy(tmp_path: Path) -> Path:
    """A clean, committed copy of the project that the test may edit."""
    return copy_project(tmp_path / "openwright-copy")


@pytest.fixture(scope="session")
def openwright(project_copy: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line in the clean copy, as a user would; returns code, standard output and standard error."""

    def call(*arguments: str, cwd: Path = project_copy, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "openwright", *arguments]
        return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False, timeout=600)

    return call


@pytest.fixture(scope="session")
def place(made_once: Callable[[str, Callable[[Path], object]], Path], openwright: Callable[..., Any]) -> Path:
    """Configs, artifacts and report of a tiny second release: another model family, non-Latin text."""

    def make(root: Path) -> None:
        tiny_release.write_configs(root / "второй", root / "scratch")
        done = openwright("run", str(root / "второй"), "--artifacts", str(root / "artifacts"), "--json")
        assert done.returncode == 0, done.stderr
        (root / REPORT).write_text(done.stdout)

    return made_once("second-release", make)


@pytest.fixture(scope="session")
def made(place: Path) -> Any:
    """The report of `openwright run` on the tiny release, from sources to bundle."""
    return json.loads((place / REPORT).read_text())


@pytest.fixture(scope="session")
def bundle(made: Any) -> Path:
    """The tiny release's bundle; tests copy it before they change anything."""
    return Path(made["summary"]["bundle"])
