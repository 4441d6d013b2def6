"""`--isolated`: what would be installed and how it is judged; the commands are looked at, nothing is installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provenance.errors import BundleError, OpenwrightError
from release.interpreters import Interpreter
from release.isolated import check_environment, compare_versions, make_environment, plan_environment

ROOT = Path(__file__).resolve().parents[2]
HASH = f"--hash=sha256:{'a' * 64}"
RECORDED: dict[str, Any] = {
    "python": "3.11.7",
    "distributions": {"Torch": {"version": "2.13.0+cpu"}, "numpy": {"version": "2.0"}, "wheel": {"version": "1"}},
}


def locks(
    code: Path, hashed: str = f"numpy==2.0 \\\n    {HASH} \\\n    {HASH}\n", torch: str = "torch==2.13.0"
) -> Path:
    (code / "requirements").mkdir(parents=True)
    (code / "requirements" / "cpu.lock").write_text(f"# a comment\n{hashed}")
    (code / "requirements" / "torch-cpu.lock").write_text(torch + "\n")
    return code


def test_the_locks_of_the_project_are_taken(tmp_path: Path) -> None:
    environment = plan_environment(ROOT, tmp_path / "venv")
    venv, hashed, torch = environment.commands()
    assert venv == [sys.executable, "-m", "venv", "--clear", str(tmp_path / "venv")]
    assert hashed[0] == torch[0] == str(tmp_path / "venv" / "bin" / "python")
    assert {"--require-hashes", "--no-deps"} <= set(hashed)
    assert hashed[-1].endswith("requirements/cpu.lock")
    assert torch[-1].endswith("requirements/torch-cpu.lock")


@pytest.mark.parametrize(
    ("hashed", "torch", "words"),
    [
        ("numpy==2.0\n", "torch==2.13.0", "no hash"),
        (f"--index-url http://127.0.0.1/\nnumpy==2.0 {HASH}\n", "torch==2.13.0", "--index-url"),
        (f"numpy>=2.0 {HASH}\n", "torch==2.13.0", "numpy>=2.0"),
        (f"numpy==2.0 {HASH}\n", "torch @ http://127.0.0.1/torch.whl", "torch @"),
        (f"numpy==2.0 {HASH}\n", "-e .", "-e"),
        (f"numpy==2.0 {HASH}\n -r other.txt\n", "torch==2.13.0", "-r other"),
    ],
)
def test_a_lock_that_says_more_than_pins_is_refused(tmp_path: Path, hashed: str, torch: str, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        plan_environment(locks(tmp_path / "code", hashed, torch), tmp_path / "venv")


def test_a_bundle_without_locks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such lock file"):
        plan_environment(tmp_path, tmp_path / "venv")


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        failing = "pip" in command
        output = "WARNING: retrying\nERROR: No matching distribution found for numpy==2.0\n" if failing else ""
        return subprocess.CompletedProcess(command, int(failing), "", output)

    monkeypatch.setattr("release.isolated.subprocess.run", run)
    with pytest.raises(OpenwrightError, match="No matching distribution") as caught:
        make_environment(plan_environment(locks(tmp_path / "code"), tmp_path / "venv"))
    assert "package index within reach" in caught.value.expected
    assert "--isolated" in caught.value.next_command


def test_an_environment_of_the_same_locks_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (tmp_path / "venv").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("release.isolated.subprocess.run", run)
    environment = plan_environment(locks(tmp_path / "code"), tmp_path / "venv")
    assert make_environment(environment) == environment.interpreter
    make_environment(environment)
    assert len(commands) == 3
    (tmp_path / "code" / "requirements" / "torch-cpu.lock").write_text("torch==2.14.0\n")
    make_environment(plan_environment(tmp_path / "code", tmp_path / "venv"))
    assert len(commands) == 6


def test_recorded_versions_pass_and_others_are_named() -> None:
    good = compare_versions(RECORDED, {"torch": "2.13.0+cpu", "numpy": "2.0", "pip": "24"}, "3.11.7")
    assert (good.check, good.verdict) == ("environment", "PASS")
    assert "2 distributions" in good.detail
    other = compare_versions(RECORDED, {"torch": "2.13.0+cu130", "numpy": "2.0"}, "3.12.0")
    assert other.verdict == "UNVERIFIED"
    assert "Python 3.12.0, recorded 3.11.7; torch 2.13.0+cu130, recorded 2.13.0+cpu" in other.detail


def test_what_is_installed_here_is_compared_with_the_record(tmp_path: Path) -> None:
    training = tmp_path / "model" / "training" / "pretrain"
    training.mkdir(parents=True)
    (training / "ledger.jsonl").write_text("")
    (tmp_path / "model" / "manifest.json").write_text('{"stages": [{"stage": "pretrain"}]}')
    (training / "environment.json").write_text(json.dumps({"python": "2.7", "distributions": {}}))
    result = check_environment(tmp_path, Interpreter(sys.executable))
    assert (result.check, result.verdict) == ("environment", "UNVERIFIED")
    assert "recorded 2.7" in result.detail


def test_an_isolated_python_hears_nothing_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PYTHONSTARTUP", "elsewhere")
    (tmp_path / "probe.py").write_text("import os, sys; print(sorted(n for n in os.environ if n[:6] == 'PYTHON'))")
    for isolated, told in ((True, b"['PYTHONDONTWRITEBYTECODE', 'PYTHONPATH']"), (False, b"PYTHONSTARTUP")):
        done = Interpreter(sys.executable, isolated).run(tmp_path, ["probe"], tmp_path, keep_output=True)
        assert told in done.stdout
    assert not list(tmp_path.rglob("__pycache__"))
