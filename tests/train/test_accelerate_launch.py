"""The launcher ends as its processes ended, and a job that was killed is told apart from one that failed."""

import signal
import sys
from pathlib import Path

import pytest
import tiny_runs
import yaml

from provenance.errors import JobKilled, TrainingError
from provenance.lifetime import killed_by
from train import accelerate_launch
from train.accelerate_launch import first_failure
from train.jobs import accelerate_file, launch
from train.launcher import Launcher

SCRIPT = """
import os, signal, sys, time
if os.environ.get("RANK", "1") == "1":
    os.kill(os.getpid(), int(sys.argv[1])) if int(sys.argv[1]) else sys.exit(int(sys.argv[2]))
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code", "expected"), [(9, 0, 137), (11, 0, 139), (0, 7, 7), (0, 0, 0)])
def test_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, expected: int) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    words = ["launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    monkeypatch.setattr(sys, "argv", [*words, "--dynamo_backend", "no", str(script), str(number), str(code)])
    assert accelerate_launch.main() == expected


@pytest.mark.parametrize(("number", "code", "expected"), [(9, 0, 137), (0, 7, 7)])
def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, expected: int) -> None:
    """One is killed or fails by itself; the other, which would go on for a minute, is ended by torch."""
    script, config = tmp_path / "program.py", tmp_path / "accelerate.yaml"
    script.write_text(SCRIPT)
    config.write_text(yaml.safe_dump(accelerate_file(2)))
    words = Launcher().command(config, [str(script), str(number), str(code)])
    monkeypatch.setattr(sys, "argv", ["launch", *words[words.index("--config_file") :]])
    assert accelerate_launch.main() == expected


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([(5, 1), (5, -9)], -9),  # a peer of one that was killed loses its connection
        ([(5, -15), (5, 1)], 1),  # torch ends the peers of one that failed
        ([(5, 1), (35, -9)], 1),  # and kills them after half a minute
        ([(6, 1), (5, -11)], -11),
        ([(5, -15)], -15),
    ],
)
def test_of_several_processes_the_first_that_failed_counts(failures: list[tuple[int, int]], code: int) -> None:
    assert first_failure(failures) == code


def test_signals_of_others_are_told_from_faults() -> None:
    assert [killed_by(code) for code in (-9, 137, 143, -1)] == [
        signal.SIGKILL,
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGHUP,
    ]
    assert [killed_by(code) for code in (0, 1, 2, 9, 75, 128, -11, 139, 134, 135, 255)] == [None] * 11


@pytest.mark.parametrize(("command", "is_killed"), [("kill -9 $$", True), ("exit 137", True), ("exit 139", False)])
def test_a_job_that_was_killed_says_so(tmp_path: Path, command: str, is_killed: bool) -> None:
    (tmp_path / "run").mkdir()
    job = tiny_runs.make_job("pretrain", tiny_runs.pretrain_config(), tmp_path, tmp_path / "run")
    with pytest.raises(TrainingError) as caught:
        launch(job, 1, 1, launcher=Launcher(("sh", "-c", command)))
    assert isinstance(caught.value, JobKilled) is is_killed
    assert ("killed from outside (SIGKILL)" if is_killed else "ended with code 139") in str(caught.value)
