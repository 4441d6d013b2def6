"""What a process finds when it goes on with a run: its place in the ledger, and the bitwise segment it enters."""

from pathlib import Path

import pytest
import tiny_runs

from provenance.errors import ResumeMismatch, TrainingError
from provenance.ledger import Journal
from train.layout import Layout, World
from train.loop import TrainingRun, run_job
from train.records import enter_segment

HERE, ELSEWHERE = "a" * 64, "b" * 64


def write_journal(path: Path, *, segment: int = 1) -> None:
    """A start long ago, steps, a checkpoint, steps; the start is damaged, so that reading it again would fail."""
    journal = Journal(path)
    journal.note("start", step=0, platform=HERE, bitwise_segment=segment)
    for step in range(1, 5):
        journal.note("step", step=step)
    journal.note("checkpoint", step=4, platform=HERE, bitwise_segment=segment)
    journal.note("step", step=5)
    journal.close()
    path.write_bytes(path.read_bytes().replace(b'"kind":"start"', b'"kind"="start"'))


def test_a_new_run_enters_the_first_segment(tmp_path: Path) -> None:
    assert enter_segment(tmp_path / "journal.jsonl", HERE, "stop") == (1, None)


def test_the_same_platform_stays_in_its_segment_and_only_the_end_of_the_journal_is_read(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", segment=3)
    assert enter_segment(tmp_path / "journal.jsonl", HERE, "stop") == (3, None)


def test_another_platform_begins_a_segment_or_stops(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl")
    assert enter_segment(tmp_path / "journal.jsonl", ELSEWHERE, "continue") == (2, HERE)
    with pytest.raises(TrainingError, match="the platform is"):
        enter_segment(tmp_path / "journal.jsonl", ELSEWHERE, "stop")


def test_a_ledger_that_the_checkpoint_does_not_continue_is_refused(tmp_path: Path) -> None:
    corpus = tiny_runs.make_corpus(tmp_path).path
    phases = [{"num_steps": 3, "sequences_per_step": 8}]
    config = tiny_runs.pretrain_config(phases=phases, schedule={"warmup_steps": 1})
    job = tiny_runs.make_job("pretrain", config, corpus, tmp_path / "run")
    assert run_job(job, Layout(World()))
    ledger = tmp_path / "run" / "ledger.jsonl"
    lines = ledger.read_bytes().split(b"\n")
    step_three = next(index for index, line in enumerate(lines) if b'"kind":"step"' in line and b'"step":3' in line)
    last = next(index for index in range(len(lines)) if b'"kind":"checkpoint"' in lines[index] and index > step_three)
    lines[last - 1] = lines[last - 1].replace(b"0x1", b"0x2")
    ledger.write_bytes(b"\n".join(lines))
    with pytest.raises(ResumeMismatch, match="not the one that the checkpoint continues"):
        TrainingRun(job, Layout(World())).start()
