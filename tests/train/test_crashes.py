"""Jobs killed with `kill -9` and gone on with: every result file is the one of the straight run."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import kill_points
import pytest
import small_jobs
import tiny_runs
from small_jobs import differing, end_job, records, run_job_at, start_job

from train.checkpoint_records import CHECKPOINTS, newest_resumable, read_record, requeue_name
from train.job import STOP_REQUEST
from train.worker import _stop_on_signals

RETAINED = {"weights_until_step": 2, "full_every_steps": 1, "keep_last_full": 2, "published_full_steps": [4]}
LONG: dict[str, Any] = {"phases": [{"num_steps": 9, "sequences_per_step": 4}], "checkpoints": RETAINED}
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("straight") / "run", **LONG)


def test_a_kill_before_any_change_of_the_disk_loses_nothing(corpus: Path, straight: Path, tmp_path: Path) -> None:
    """Kills before file operations and in half-written lines, at changing layouts; then a run to the end."""
    draw, run_dir = random.Random(20261125), tmp_path / "run"
    kills = 0
    for layout in ((1, 1), (2, 2), (1, 1), (2, 1), (1, 1), (1, 1)):
        codes = run_job_at(layout, corpus, run_dir, LONG, kill_points.at_change, draw.randint(1, 90))
        kills += codes[0] == KILLED
        assert codes[0] in (0, KILLED)
    assert kills >= 4
    assert run_job_at((2, 2), corpus, run_dir, LONG) == [0, 0]
    assert differing(run_dir, straight) == []


POINTS = [
    kill_points.while_hashing,
    kill_points.before_a_file_of_tensors,
    kill_points.before_the_rename,
    kill_points.between_rename_and_ledger,
    kill_points.while_retention_removes,
    kill_points.before_the_end_record,
]


def test_a_kill_at_each_delicate_point_loses_nothing(corpus: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for point in POINTS:
        assert run_job_at((1, 1), corpus, run_dir, LONG, point) == [KILLED], point.__name__
    assert run_job_at((1, 1), corpus, run_dir, LONG) == [0]
    assert differing(run_dir, straight) == []


def test_a_kill_seen_from_outside_while_a_checkpoint_is_written(corpus: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (process,) = start_job(1, 1, corpus, run_dir, LONG, slow_writing)
    wait_for(lambda: list(run_dir.glob("checkpoints/.step-*[1-9].tmp")))
    process.kill()
    assert end_job([process]) == [KILLED]
    assert list(run_dir.glob("checkpoints/.step-*.tmp"))
    assert run_job_at((2, 1), corpus, run_dir, LONG) == [0, 0]
    assert differing(run_dir, straight) == []


def test_a_single_killed_process_ends_the_others(corpus: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    processes = start_job(2, 2, corpus, run_dir, LONG, None)
    wait_for(lambda: newest_resumable(run_dir) is not None)
    processes[1].kill()
    codes = end_job(processes, 20)
    assert codes[1] == KILLED
    assert codes[0] not in (0, None)
    assert run_job_at((1, 1), corpus, run_dir, LONG) == [0]
    assert differing(run_dir, straight) == []


@pytest.mark.parametrize("layout", [(1, 1), (2, 2)])
def test_a_killed_helper_ends_the_job_with_a_clear_error(
    corpus: Path, straight: Path, tmp_path: Path, layout: tuple[int, int]
) -> None:
    """The process beside process 0 is killed alone, between two checkpoints: all processes end, none waits for ever."""
    run_dir = tmp_path / "run"
    codes = run_job_at(layout, corpus, run_dir, LONG, kill_points.the_helper_alone)
    assert set(codes) == {1}
    assert "the process that writes checkpoints ended with code -9" in (run_dir / "error.txt").read_text()
    (run_dir / "error.txt").unlink()
    assert run_job_at((1, 1), corpus, run_dir, LONG) == [0]
    assert differing(run_dir, straight) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_a_checkpoint_is_written_stops_with_another_one(
    corpus: Path, straight: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run_dir = tmp_path / "run"
    (process,) = start_job(1, 1, corpus, run_dir, LONG, slow_writing)
    wait_for(lambda: list(run_dir.glob("checkpoints/.step-*[1-9].tmp")))
    assert process.pid is not None
    send(process.pid, number)
    assert end_job([process]) == [75]
    (stopped,) = (run_dir / CHECKPOINTS).glob(requeue_name("*"))
    step = read_record(stopped).step
    assert read_record(stopped).kind == "full"
    assert records(run_dir, "stop", "journal.jsonl")[-1]["step"] == step
    assert run_job_at((1, 1), corpus, run_dir, LONG) == [0]
    assert records(run_dir, "resume", "journal.jsonl")[-1]["step"] == step
    assert differing(run_dir, straight) == []


def slow_writing(run_dir: Path) -> None:
    """Each file of tensors takes a while to write; signals ask for a stop as in a worker."""
    kill_points.in_helper("slow_writing")
    _stop_on_signals(run_dir)


def send(pid: int, number: signal.Signals) -> None:
    import os

    os.kill(pid, number)


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_checkpoints_made_for_a_stop_go_when_the_schedule_has_a_newer_one(corpus: Path, tmp_path: Path) -> None:
    run_dir, config = tmp_path / "run", small_jobs.small_config()
    job = small_jobs.small_job(corpus, run_dir, config)
    seen = {}
    for step in (3, 5):
        assert not small_jobs.run_here(job, small_jobs.stop_after(run_dir, step))
        seen[step] = sorted(path.name for path in (run_dir / CHECKPOINTS).glob(requeue_name("*")))
    assert seen == {3: [requeue_name(3)], 5: [requeue_name(5)]}
    assert (run_dir / STOP_REQUEST).exists()
    assert small_jobs.run_here(job)
    assert not list((run_dir / CHECKPOINTS).glob(requeue_name("*")))
