from datetime import UTC, datetime, timedelta

import pytest

from openwright.status import find_runs, status_of, statuses
from provenance.errors import ArtifactError
from provenance.ledger import ChainWriter

START = {"kind": "start", "stage": "pretrain", "order": {"phases": [{"num_steps": 30}, {"num_steps": 10}]}}


def write_run(directory, num_steps, stopped=False):
    ledger, journal = ChainWriter(directory / "ledger.jsonl"), ChainWriter(directory / "journal.jsonl")
    seen = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
    ledger.append(START)
    ledger.append({"kind": "checkpoint", "step": 0})
    journal.append({"kind": "start", "time_utc": seen, "step": 0})
    for step in range(1, num_steps + 1):
        ledger.append({"kind": "step", "step": step, "loss": (8.0 / step).hex()})
        journal.append({"kind": "step", "time_utc": seen, "step": step, "tokens_per_second": (1000.0).hex()})
    if num_steps >= 4:
        ledger.append({"kind": "evaluation", "step": 4, "bits_per_byte": (2.5).hex()})
        ledger.append({"kind": "checkpoint", "step": 4})
    if stopped:
        journal.append({"kind": "stop", "time_utc": seen, "step": num_steps})
    ledger.close()
    journal.close()
    return directory


def test_a_run_under_way(tmp_path):
    run = write_run(tmp_path / "tiny" / "pretrain" / ".work-abc", 4)
    with (run / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind":"ste')  # a line is being written just now
    status = status_of(run)
    assert (status.stage, status.state, status.step, status.num_steps) == ("pretrain", "unfinished", 4, 40)
    assert (status.loss, status.heldout_bits_per_byte, status.last_checkpoint) == (2.0, 2.5, 4)
    assert status.tokens_per_second == 1000.0
    assert status.age_seconds is not None
    assert 90 < status.age_seconds < 200
    line = status.line()
    assert "step 4 of 40" in line
    assert "last sign of life" in line


def test_before_the_first_step_nothing_is_claimed(tmp_path):
    status = status_of(write_run(tmp_path, 0))
    assert (status.step, status.loss, status.tokens_per_second) == (0, None, None)
    assert status.last_checkpoint == 0
    assert "loss" not in status.line()


def test_stopped_and_finished_runs(tmp_path):
    assert status_of(write_run(tmp_path / "a", 3, stopped=True)).state == "stopped"
    run = write_run(tmp_path / "b", 3)
    (run / "manifest.json").write_text("{}")
    assert status_of(run).state == "finished"


def test_runs_are_found_below_a_directory_of_artifacts(tmp_path):
    paths = [write_run(tmp_path / "крошка" / stage / "abc", 2) for stage in ("pretrain", "sft")]
    assert sorted(find_runs(tmp_path)) == sorted(paths)
    assert len(list(statuses(tmp_path / "крошка"))) == 2
    assert find_runs(paths[0]) == [paths[0]]


def test_no_run_is_an_error_with_the_next_command(tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match="openwright run"):
            find_runs(root)


def test_a_tampered_ledger_is_not_reported(tmp_path):
    run = write_run(tmp_path, 4)
    data = (run / "ledger.jsonl").read_bytes()
    (run / "ledger.jsonl").write_bytes(data.replace(b"0x1.0000000000000p+3", b"0x1.0000000000000p+1"))
    with pytest.raises(ArtifactError, match="chained"):
        status_of(run)
