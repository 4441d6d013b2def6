import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.job import OUTCOME
from train.watchdog import HANG_FORMAT, Watchdog

HANGING = """
import sys, time, threading
from pathlib import Path
from train import watchdog
from train.watchdog import Watchdog

watchdog._CALLBACK_SECONDS = 0.5

def note(hang):
    Path(sys.argv[1], "journal").write_text(f"{hang.last_step}")
    time.sleep(float(sys.argv[3]))

def a_step_that_never_ends():
    threading.Event().wait()

root = Path(sys.argv[1])
dog = Watchdog(root, root / "hangs", 3, floor_seconds=float(sys.argv[2]), grace_seconds=0.1, on_hang=note).start()
for step in range(1, 6):
    time.sleep(0.02)
    dog.beat(step)
a_step_that_never_ends()
"""


def run_hanging(root: Path, callback_seconds: float = 0.0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", HANGING, str(root), "0.6", str(callback_seconds)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_process_that_hangs_leaves_its_stacks_and_ends_with_the_code_for_requeue(tmp_path: Path) -> None:
    done = run_hanging(tmp_path)
    assert done.returncode == 75, done.stderr
    (path,) = (tmp_path / "hangs").glob("hang-rank3-*.txt")
    first, _, stacks = path.read_text().partition("\n")
    record = json.loads(first)
    assert (record["format"], record["rank"], record["last_step"]) == (HANG_FORMAT, 3, 5)
    assert 0.01 < record["median_seconds"] < 0.5
    assert record["waited_seconds"] > record["limit_seconds"] == 0.6
    assert "a_step_that_never_ends" in stacks
    assert (tmp_path / "journal").read_text() == "5"
    outcome = json.loads((tmp_path / OUTCOME).read_text())
    assert outcome["outcome"] == "hung"
    assert "after step 5 (rank 3)" in outcome["error"]["found"]
    assert str(path) in done.stderr


def test_an_outcome_that_another_process_reported_is_kept(tmp_path: Path) -> None:
    (tmp_path / OUTCOME).write_text('{"outcome": "failed"}')
    assert run_hanging(tmp_path).returncode == 75
    assert json.loads((tmp_path / OUTCOME).read_text()) == {"outcome": "failed"}


def test_a_callback_that_hangs_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run_hanging(tmp_path, callback_seconds=1000.0).returncode == 75
    assert time.monotonic() - started < 45


def test_steps_that_end_are_left_alone(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, tmp_path / "hangs", 0, floor_seconds=0.5).start()
    for step in range(1, 15):
        time.sleep(0.1)
        dog.beat(step)
    dog.stop()
    assert not (tmp_path / "hangs").exists()
    assert not (tmp_path / OUTCOME).exists()


def test_slow_steps_raise_the_limit(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, tmp_path, 0, floor_seconds=0.2, factor=10)
    assert dog.limit_seconds() == 0.2
    for step in range(1, 4):
        time.sleep(0.05)
        dog.beat(step)
    assert 0.5 <= dog.limit_seconds() < 5


WAITING = """
import sys, time
from pathlib import Path
from train.watchdog import Watchdog

root = Path(sys.argv[1])
dog = Watchdog(root, root / "hangs", 0, floor_seconds=1.5, grace_seconds=0.0).start()
print("ready", flush=True)
while not (root / "go").exists():
    time.sleep(0.05)
dog.beat(1)
dog.stop()
"""


@pytest.mark.parametrize(("suspended", "code"), [(True, 0), (False, 75)])
def test_time_in_which_the_whole_process_was_suspended_does_not_count(
    tmp_path: Path, suspended: bool, code: int
) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if suspended:
            process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        (tmp_path / "go").touch()
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=30) == code
