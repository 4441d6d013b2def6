import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from openwright import status as status_module
from openwright.status import RunReader, duration, find_runs, follow, status_of, statuses
from provenance.errors import ArtifactError
from provenance.ledger import ChainWriter

START = {"kind": "start", "stage": "pretrain", "order": {"phases": [{"num_steps": 30}, {"num_steps": 10}]}}


class FakeRun:
    """Writes ledger and journal as a training job does; every step takes two seconds."""

    def __init__(self, directory):
        self.directory = directory
        self.ledger = ChainWriter(directory / "ledger.jsonl")
        self.journal = ChainWriter(directory / "journal.jsonl")
        self.seen = datetime.now(UTC) - timedelta(seconds=100)
        self.ledger.append(START)
        self.ledger.append({"kind": "checkpoint", "step": 0})
        self.note("start", step=0)

    def note(self, kind, **facts):
        self.journal.append({"kind": kind, "time_utc": self.seen.isoformat(), **facts})

    def steps(self, first, last):
        for step in range(first, last + 1):
            self.seen += timedelta(seconds=2)
            self.ledger.append({"kind": "step", "step": step, "loss": (8.0 / step).hex()})
            self.note("step", step=step, tokens_per_second=(1000.0).hex())
            if step == 4:
                self.ledger.append({"kind": "evaluation", "step": 4, "bits_per_byte": (2.5).hex()})
                self.ledger.append({"kind": "checkpoint", "step": 4})
        return self.directory


def write_run(directory, num_steps):
    return FakeRun(directory).steps(1, num_steps)


def test_a_run_under_way(tmp_path):
    run = write_run(tmp_path / "tiny" / "pretrain" / ".work-abc", 4)
    with (run / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind":"ste')  # a line is being written just now
    status = status_of(run)
    assert (status.stage, status.state, status.step, status.num_steps) == ("pretrain", "unfinished", 4, 40)
    assert (status.loss, status.heldout_bits_per_byte, status.last_checkpoint) == (2.0, 2.5, 4)
    assert (status.tokens_per_second, status.num_restarts) == (1000.0, 0)
    assert status.seconds_left == 36 * 2
    assert status.age_seconds is not None
    assert 80 < status.age_seconds < 200
    line = status.line()
    assert "step 4 of 40" in line
    assert "72 s left" in line
    assert "last sign of life" in line


def test_utilisation_is_told_where_a_peak_is_known_and_said_to_be_unknown_elsewhere(tmp_path):
    fake = FakeRun(tmp_path)
    fake.steps(1, 1)
    assert "FLOP/s" not in status_of(tmp_path).line()  # a journal of before
    rate = {"seconds": (2.0).hex(), "tokens_per_second": (1000.0).hex()}
    fake.note("step", step=2, flops=5_000_000_000, **rate)
    status = status_of(tmp_path)
    assert (status.flops_per_second, status.mfu) == (2.5e9, None)
    assert "2.5 GFLOP/s (MFU unknown: no published peak of this device)" in status.line()
    fake.note("step", step=3, flops=8 * 10**14, mfu=(0.4).hex(), **rate)
    status = status_of(tmp_path)
    assert (status.flops_per_second, status.mfu) == (4e14, 0.4)
    assert "400.0 TFLOP/s (MFU 40.0%)" in status.line()


def test_before_the_first_step_nothing_is_claimed(tmp_path):
    status = status_of(write_run(tmp_path, 0))
    assert (status.step, status.loss, status.tokens_per_second, status.seconds_left) == (0, None, None, None)
    assert status.last_checkpoint == 0
    assert "loss" not in status.line()


def test_stopped_and_finished_runs(tmp_path):
    fake = FakeRun(tmp_path / "a")
    fake.steps(1, 3)
    reader = RunReader(tmp_path / "a")
    assert reader.read().state == "unfinished"
    fake.note("stop", step=3)
    assert reader.read().state == "stopped"
    fake.note("energy", step=3)
    assert reader.read().state == status_of(tmp_path / "a").state == "stopped"
    fake.note("resume", step=3)
    assert reader.read().state == "unfinished"
    run = write_run(tmp_path / "b", 3)
    (run / "manifest.json").write_text("{}")
    assert status_of(run).state == "finished"


def test_restarts_are_counted_and_the_pace_is_that_of_the_last_stretch(tmp_path):
    fake = FakeRun(tmp_path)
    fake.steps(1, 5)
    for _ in range(2):
        fake.seen += timedelta(hours=1)
        fake.note("resume", step=5)
    fake.steps(6, 8)
    status = status_of(tmp_path)
    assert (status.num_restarts, status.seconds_left) == (2, 64)
    assert "restarts 2" in status.line()


def test_a_reader_goes_on_where_it_was_and_agrees_with_a_fresh_one(tmp_path, monkeypatch):
    monkeypatch.setattr(status_module, "_BLOCK_BYTES", 64)  # shorter than a line: every record spans blocks
    fake = FakeRun(tmp_path)
    reader = RunReader(tmp_path)
    for first, last in ((1, 1), (2, 3), (4, 9), (10, 12)):
        fake.steps(first, last)
        found, fresh = reader.read().as_json(), status_of(tmp_path).as_json()
        found.pop("age_seconds")
        fresh.pop("age_seconds")
        assert found == fresh
        assert found["step"] == last
    fake.note("resume", step=9)
    ledger = (tmp_path / "ledger.jsonl").read_bytes().split(b"\n")
    (tmp_path / "ledger.jsonl").write_bytes(b"\n".join(ledger[:8]) + b"\n")  # a resume cuts the ledger back
    found = reader.read()
    assert (found.step, found.num_restarts) == (status_of(tmp_path).step, 1)
    assert found.step < 12


def test_only_the_end_of_a_long_ledger_is_read(tmp_path):
    run = write_run(tmp_path, 4)
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    torn = b"this is not JSON and would stop a reader of the whole chain\n" * 5000
    (run / "ledger.jsonl").write_bytes(lines[0] + torn + b"".join(lines[1:]))
    assert status_of(run).step == 4


def test_runs_are_found_below_a_directory_of_artifacts(tmp_path):
    paths = [write_run(tmp_path / "крошка" / stage / "abc", 2) for stage in ("pretrain", "sft")]
    assert sorted(find_runs(tmp_path)) == sorted(paths)
    assert len(list(statuses(tmp_path / "крошка"))) == 2
    assert find_runs(paths[0]) == [paths[0]]


def test_no_run_is_an_error_with_the_next_command(tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match="openwright run"):
            find_runs(root)


@pytest.mark.parametrize(
    "line", ["garbage", "[1]", '{"x":1}', '{"kind":"step","step":"one"}', '{"kind":"step","step":1,"loss":3}', "\udcff"]
)
def test_a_ledger_of_something_else_is_refused_by_its_place(tmp_path, line):
    run = write_run(tmp_path, 2)
    with (run / "ledger.jsonl").open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactError, match=r"not that of a training run") as caught:
        status_of(run)
    assert caught.value.where == str(run)


def test_following_goes_on_until_the_run_has_finished(tmp_path):
    fake = FakeRun(tmp_path / "pretrain" / ".work-abc")
    seen, looks = [], []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) < 3:
            fake.steps(len(looks), len(looks))
        else:
            (fake.directory / "manifest.json").write_text("{}")
            fake.directory.rename(tmp_path / "pretrain" / "abc")

    follow(fake.directory, lambda found: seen.append([(s.step, s.state) for s in found]), 7.0, sleep)
    assert seen == [[(0, "unfinished")], [(1, "unfinished")], [(2, "unfinished")], [(2, "finished")]]
    assert set(looks) == {7.0}


def test_following_waits_while_the_corpus_is_being_made(tmp_path, capsys):
    work = tmp_path / "artifacts" / "tiny" / "corpus" / ".work-abc"
    work.mkdir(parents=True)
    seen, looks = [], []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            run = write_run(tmp_path / "artifacts" / "tiny" / "pretrain" / "def", 5)
            (run / "manifest.json").write_text("{}")

    follow(tmp_path / "artifacts", seen.extend, 7.0, sleep)
    assert [(status.step, status.state) for status in seen] == [(5, "finished")]
    assert capsys.readouterr().err.count("corpus is being made") == 1
    with pytest.raises(ArtifactError, match="corpus is being made, or was left"):
        find_runs(work.parent)
    work.rmdir()
    with pytest.raises(ArtifactError, match="no run here"):
        follow(work.parent, seen.extend, 7.0, sleep)


def test_following_as_json_prints_one_line_per_change(openwright, tmp_path):
    run = write_run(tmp_path / "abc", 5)
    (run / "manifest.json").write_text("{}")
    done = openwright("status", str(tmp_path), "--follow", "--every", "0.1", "--json")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["run"]["step"] == 5
    plain = openwright("status", str(tmp_path), "--follow")
    assert plain.stdout.count("\n") == 1
    assert "pretrain finished: step 5 of 40" in plain.stdout


def test_ctrl_c_ends_following_in_peace(project_copy, tmp_path):
    write_run(tmp_path / "abc", 5)
    command = [sys.executable, "-u", "-m", "openwright", "status", str(tmp_path), "--follow", "--every", "0.1"]
    with subprocess.Popen(command, cwd=project_copy, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert b"step 5 of 40" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors == b""


def test_help_says_that_status_does_not_verify(openwright):
    assert "not checked here" in " ".join(openwright("status", "--help").stdout.split())


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (60 * 12, "12 min"), (12_000, "3 h 20 min"), (86_400 * 2 + 10_800, "2 d 3 h")]
)
def test_lengths_of_time(seconds, text):
    assert duration(seconds) == text
