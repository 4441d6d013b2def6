"""What stops a job without a crash: another job in its directory, a full or read-only disk, a signal."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
from safetensors import SafetensorError
from small_jobs import differing, run_here, run_job_at, small_config, small_job

import train.loop
from provenance.errors import ArtifactError, StoppedForRequeue, TrainingError
from train.checkpoint_files import UNKNOWN_ERROR, error_number
from train.job import LOCK, OUTCOME, STOP_REQUEST, TrainingJob
from train.jobs import launch
from train.launcher import Launcher
from train.run_directory import disk_error, lock_directory, read_outcome, report_outcome, unlock_directory

DIRECT = Launcher((sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', "
                   "'provenance.program', *sys.argv[-3:]]))"))  # fmt: skip
"""Starts one worker without accelerate's launcher, whose module its command line still names."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def straight(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("straight") / "run")


# ---- one job at a time ----------------------------------------------------------------------------------------------

HOLDER = (
    "import sys, time; from pathlib import Path; from train.run_directory import lock_directory\n"
    "lock = lock_directory(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a run's directory."""
    (tmp_path / "run").mkdir()
    root = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_later_jobs_are_refused_and_touch_nothing(
    holder: "subprocess.Popen[str]", corpus: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    job = small_job(corpus, run_dir, small_config())
    (run_dir / STOP_REQUEST).touch()
    for _ in range(2):
        with pytest.raises(TrainingError, match="another process is training") as refused:
            launch(job, 1, 1)
        assert refused.value.exit_code == 1
        assert refused.value.where == str(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == [LOCK, STOP_REQUEST]
    holder.kill()
    holder.wait()
    lock = lock_directory(run_dir)
    unlock_directory(run_dir, lock)
    assert not (run_dir / LOCK).exists()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock, calls = fcntl.flock, []

    def holder_leaves(file: Any, how: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr("train.run_directory.fcntl.flock", holder_leaves)
    lock_directory(tmp_path)
    assert len(calls) == 2
    assert (tmp_path / LOCK).exists()


# ---- full and read-only disks ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


BREAKS = (
    "import train.worker\n"
    "run_steps = train.worker.run_steps\n"
    "def breaking(run, listeners):\n"
    "    return run_steps(run, [*listeners, lambda step, _: step == 3 and breakage(run)])\n"
    "train.worker.run_steps = breaking\n"
    "def weights(run):\n"
    "    run.finish_checkpoint()\n"
    "    return (run.run_dir / 'checkpoints' / 'step-00000002' / 'model.safetensors').stat().st_size\n"
)
"""A worker whose disk breaks once step 3 is done, one step before a full checkpoint."""

LIMITED = (
    "import resource\n"
    "def breakage(run):\n"
    "    limits = (weights(run) + 10_000, resource.RLIM_INFINITY)\n"
    "    resource.prlimit(run.writer.process.pid, resource.RLIMIT_FSIZE, limits)\n"
)
FULL = (
    "import shutil\n"
    "def breakage(run):\n"
    "    left = 2 * weights(run)  # room for the weights, not for the optimizer's state\n"
    "    filler = run.run_dir.parent / 'filler'\n"
    "    filler.write_bytes(bytes(shutil.disk_usage(run.run_dir).free - left))\n"
)
READ_ONLY = (
    "import os, subprocess\n"
    "def breakage(run):\n"
    "    place = str(run.run_dir / 'checkpoints')\n"
    "    weights(run)\n"
    "    if os.geteuid():\n"
    "        return os.chmod(place, 0o500)\n"
    "    for words in (['--bind', place, place], ['-o', 'remount,ro,bind', place]):\n"
    "        subprocess.run(['mount', *words], check=True)\n"
)


def worker_of(program: str) -> Launcher:
    """Starts this program in place of the worker."""
    command = [sys.executable, "-c", program]
    start = f"import subprocess, sys; sys.exit(subprocess.call([*{command}, *sys.argv[-2:]]))"
    return Launcher((sys.executable, "-c", start))


def launch_and_break(job: TrainingJob, breakage: str, words: str) -> None:
    """Run a job's worker, whose disk breaks: the error is clear, the last checkpoint whole, the next one absent."""
    with pytest.raises(TrainingError, match=words) as broken:
        launch(job, 1, 1, launcher=worker_of(f"{BREAKS}{breakage}train.worker.main()"))
    assert broken.value.exit_code == 1
    assert "step-00000004" in broken.value.where
    assert "make room" in broken.value.next_command
    kept = sorted(path.name for path in (Path(job.run_dir) / "checkpoints").iterdir())
    assert kept == ["step-00000000", "step-00000001", "step-00000002"]


def test_a_disk_that_fills_up_and_one_that_is_read_only(corpus: Path, straight: Path, small_disk: Path) -> None:
    """Full in the middle of a run, then read-only from the start; with room the run ends with equal bits."""
    run_dir = small_disk / "run"
    job = small_job(corpus, run_dir, small_config(execution={"num_processes": 1}))
    launch_and_break(job, FULL, r"the disk is full\n")
    (small_disk / "filler").unlink()
    remount(small_disk, "ro")
    with pytest.raises(TrainingError, match="the disk is read-only"):
        launch(job, 1, 1, launcher=DIRECT)
    remount(small_disk, "rw")
    assert run_here(job)
    assert [name for name in differing(run_dir, straight) if name not in (OUTCOME, LOCK)] == []


def test_a_file_size_limit_while_a_checkpoint_is_written(corpus: Path, straight: Path, tmp_path: Path) -> None:
    """Without any right to mount: files may not grow beyond some bytes. The ledger may, the optimizer's may not."""
    run_dir = tmp_path / "run"
    weights = (straight / "checkpoints" / "step-00000002" / "model.safetensors").stat().st_size
    assert run_job_at((1, 1), corpus, run_dir, {}, limit_files, weights + 10_000) == [errno.EFBIG]
    found = json.loads((run_dir / "error.json").read_text())
    assert "the disk is full" in found["found"]
    assert found["where"].endswith("step-00000002")
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-00000000", "step-00000001"]
    (run_dir / "error.json").unlink()
    assert run_job_at((2, 1), corpus, run_dir, {}) == [0, 0]
    assert differing(run_dir, straight) == []


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[Path]:
    """A run's directory that is mended afterwards, whatever the worker did to it."""
    place = tmp_path / "run" / "checkpoints"
    place.mkdir(parents=True)
    yield place.parent
    mend(place)


def mend(place: Path) -> None:
    while f" {place} " in Path("/proc/self/mounts").read_text():  # a bind mount has the device of its directory
        subprocess.run(["umount", str(place)], check=True)
    place.chmod(0o700)


@pytest.mark.parametrize(
    ("breakage", "words"), [(LIMITED, "full .file size limit"), (READ_ONLY, "read-only|not writable")]
)
def test_a_disk_that_breaks_while_a_run_goes_on(
    breakage: str, words: str, corpus: Path, straight: Path, breakable: Path
) -> None:
    """While a checkpoint is written, or before; once mended, the run ends with equal bits."""
    if breakage is READ_ONLY and not os.geteuid() and not may_mount(breakable):
        pytest.skip("root may not mount here")
    job = small_job(corpus, breakable, small_config(execution={"num_processes": 1}))
    launch_and_break(job, breakage, words)
    mend(breakable / "checkpoints")
    step_2 = "checkpoints/step-00000002"
    assert differing(breakable / step_2, straight / step_2) == []
    assert run_here(job)
    assert [name for name in differing(breakable, straight) if name not in (OUTCOME, LOCK)] == []


def may_mount(place: Path) -> bool:
    bound = subprocess.run(["mount", "--bind", str(place), str(place)], capture_output=True).returncode == 0
    mend(place)
    return bound


def test_a_file_size_limit_while_the_ledger_grows(corpus: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run_job_at((1, 1), corpus, run_dir, {}, limit_files_after_step_3) == [errno.EFBIG]
    assert not (run_dir / "ledger.jsonl").read_bytes().endswith(b"\n")
    (run_dir / "error.json").unlink()
    assert run_job_at((1, 1), corpus, run_dir, {}) == [0]
    assert differing(run_dir, straight) == []


def limit_files(run_dir: Path, size_bytes: int) -> None:
    """Let files grow to some bytes only; a disk error becomes the exit code, its message a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))
    write_errors(run_dir)


def limit_files_after_step_3(run_dir: Path) -> None:
    """Leave the ledger room for a hundred bytes once step 3 is done."""
    train_step = train.loop.TrainingRun.train_step

    def step_then_limit(self: Any, step: int) -> Any:
        numbers = train_step(self, step)
        if step == 3:
            self.finish_checkpoint()
            size_bytes = (run_dir / "ledger.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 100, resource.RLIM_INFINITY))
        return numbers

    train.loop.TrainingRun.train_step = step_then_limit  # type: ignore[method-assign]
    # The journal would meet the limit first in some runs; this test is about the ledger.
    train.loop.TrainingRun.note = lambda *_, **__: None  # type: ignore[method-assign]
    write_errors(run_dir)


def write_errors(run_dir: Path) -> None:
    run_steps = small_jobs.run_steps

    def run_or_say(run: Any) -> bool:
        try:
            return run_steps(run)
        except OSError as caught:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            error = disk_error(caught)
            (run_dir / "error.json").write_text(json.dumps({"found": error.found, "where": error.where}))
            os._exit(caught.errno or 1)

    small_jobs.run_steps = run_or_say  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "file size limit"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "not writable"),
    ],
)
def test_disk_errors_say_what_to_do(number: int, words: str) -> None:
    error = disk_error(OSError(number, os.strerror(number), "checkpoints/step-00000002"))
    assert words in error.found
    assert error.where == "checkpoints/step-00000002"
    assert error.exit_code == 1


def test_other_errors_of_the_system_are_not_called_a_full_disk() -> None:
    with pytest.raises(ConnectionResetError):
        disk_error(ConnectionResetError(errno.ECONNRESET, "reset"))


def test_an_outcome_goes_where_there_is_room_or_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, scratch = tmp_path / "gone", tmp_path / "scratch"
    scratch.mkdir()
    error = TrainingError("the disk is full", expected="room")
    report_outcome((gone, scratch), "failed", error)
    assert read_outcome((gone, scratch))["error"]["found"] == "the disk is full"
    report_outcome((gone,), "failed", error)
    assert "the disk is full" in capsys.readouterr().err
    assert read_outcome((gone,)) == {"outcome": "died"}


def test_an_error_on_any_process_names_the_disk_on_all() -> None:
    rust = SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
    assert error_number(rust) == error_number(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert error_number(ValueError("x")) == error_number(SafetensorError("odd")) == UNKNOWN_ERROR > 2**16


# ---- what a stop leaves ---------------------------------------------------------------------------------------------


def test_a_tampered_ledger_is_not_continued(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = small_job(corpus, run_dir, small_config())
    assert not run_here(job, small_jobs.stop_after(run_dir, 3))
    ledger = run_dir / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"step":3', b'"step":4'))
    with pytest.raises((TrainingError, ArtifactError), match="ledger"):
        run_here(job)


def test_sigusr1_reaches_the_caller_as_exit_code_75(corpus: Path, tmp_path: Path) -> None:
    job = small_job(corpus, tmp_path / "run", small_config(phases=[{"num_steps": 4000, "sequences_per_step": 4}]))
    ask = "import os, sys, time; time.sleep(1); os.kill(int(sys.argv[1]), 10)"
    with (
        subprocess.Popen([sys.executable, "-c", ask, str(os.getpid())]),
        pytest.raises(StoppedForRequeue) as stopped,
    ):
        launch(job, 1, 1, launcher=DIRECT)
    assert stopped.value.exit_code == 75
    assert list((tmp_path / "run" / "checkpoints").glob("requeue-*"))


def test_a_run_that_is_done_does_not_fail_while_its_process_is_torn_down(corpus: Path, tmp_path: Path) -> None:
    """Threads of torch abort Python's own end now and then; by then all of the run was written."""
    job = small_job(corpus, tmp_path / "run", small_config(execution={"num_processes": 1}))
    aborting = "import atexit, os, train.worker; atexit.register(os.abort); train.worker.main()"
    launch(job, 1, 1, launcher=worker_of(aborting))
    assert not (tmp_path / "run" / OUTCOME).exists()
