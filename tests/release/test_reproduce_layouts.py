"""What a replay is compared with, and what a difference means: stand-ins for the replaying program, no training."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_replays import Edit, cut_short, honest, other_loss, other_tokens, pretend_to_replay
from pydantic import ValidationError

from provenance.canonical import canonical_json
from provenance.errors import ConfigError
from release.replay_report import ReplayReport, replay_report
from release.replay_segments import resumable_checkpoints
from release.reproduce import reproduce
from release.verify import CheckResult
from train.replay import ERROR_FILE


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Edit], list[dict[str, Any]]]:
    """Put in place of the bundle's replay one that repeats the recorded records, edited; returns the requests."""
    requests: list[dict[str, Any]] = []

    def install(edit: Edit) -> list[dict[str, Any]]:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            request = json.loads(Path(command[-1]).read_text())
            requests.append(request)
            pretend_to_replay(request, edit)
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        return requests

    return install


def replay(bundle: Path, first: int, last: int, num_processes: int | None = None) -> CheckResult:
    (result,) = reproduce(bundle, steps=(first, last), num_processes=num_processes)
    return result


def write_journal(bundle: Path, *notes: dict[str, Any]) -> None:
    previous, lines = "0" * 64, []
    for note in notes:
        lines.append(canonical_json({**note, "previous": previous}))
        previous = hashlib.sha256(lines[-1]).hexdigest()
    path = bundle / "model" / "training" / "pretrain" / "journal.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def test_a_replay_over_steps_left_out_compares_their_record(bundle_of: Any, replaying: Any) -> None:
    replaying(honest)
    result = replay(bundle_of("skips"), 1, 6)
    assert result.verdict == "PASS"
    assert "bitwise: 3 steps (3 left out by the recipe)" in result.detail


def test_nothing_but_steps_left_out_is_no_pass(bundle_of: Any, replaying: Any) -> None:
    replaying(honest)
    result = replay(bundle_of("skips"), 7, 8)
    assert result.verdict == "UNVERIFIED"
    assert "nothing to replay" in result.detail


def test_a_replay_that_stops_early_fails(bundle_of: Any, replaying: Any) -> None:
    replaying(cut_short)
    result = replay(bundle_of("plain"), 1, 4)
    assert result.verdict == "FAIL"
    assert "the replay gave 2 records" in result.detail


def test_a_branch_is_replayed_from_its_own_beginning(bundle_of: Any, replaying: Any) -> None:
    requests = replaying(honest)
    assert replay(bundle_of("branch"), 5, 7).verdict == "PASS"
    assert requests[0]["from_checkpoint"].endswith("step-00000002")
    with pytest.raises(ConfigError, match="within 3:7"):
        replay(bundle_of("branch"), 1, 4)


def test_segments_lie_between_the_full_checkpoints_that_are_kept(bundle_of: Any, replaying: Any) -> None:
    replaying(honest)
    assert sorted(resumable_checkpoints(bundle_of("retained"), "pretrain")) == [0, 4, 8, 10]
    results = reproduce(bundle_of("retained"), segments=9, seed=1, stage="pretrain")
    assert sorted(result.name for result in results) == [
        "pretrain steps 1-4",
        "pretrain steps 5-8",
        "pretrain steps 9-10",
    ]
    assert {result.verdict for result in results} == {"PASS"}


@pytest.mark.parametrize(
    ("run", "num_processes", "edit", "verdict", "reason"),
    [
        ("retained", 4, honest, "PASS", "bitwise"),
        ("retained", 4, other_loss, "UNVERIFIED", "recorded 1 processes in shards of 1, replayed 4 processes"),
        ("retained", 4, other_tokens, "FAIL", "data"),
        ("retained", 1, other_loss, "FAIL", "numerics"),
        ("retained", None, other_loss, "FAIL", "numerics"),
        ("roomy", 2, other_loss, "FAIL", "numerics"),
    ],
)
def test_native_reduction_binds_bits_to_the_layout(
    bundle_of: Any, replaying: Any, run: str, num_processes: int | None, edit: Edit, verdict: str, reason: str
) -> None:
    replaying(edit)
    result = replay(bundle_of(run), 5, 6, num_processes)
    assert result.verdict == verdict
    assert reason in result.detail


def test_a_native_replay_takes_the_layout_that_the_journal_tells(copy_of: Any, replaying: Any) -> None:
    bundle, requests = copy_of("retained"), replaying(other_loss)
    began = {"kind": "start", "step": 0, "num_processes": 2}
    within = {"tensor_size": 2, "context_size": 2}
    resumed = {"kind": "resume", "step": 4, "num_processes": 4, "shard_size": 2, **within}
    write_journal(bundle, began, {"kind": "resume", "step": 8, "num_processes": 8, "shard_size": 8}, resumed)
    assert replay(bundle, 1, 4).verdict == "FAIL"
    assert replay(bundle, 9, 10).verdict == "FAIL"
    fields = ("num_processes", "shard_size", "tensor_size", "context_size")
    assert [tuple(request[name] for name in fields) for request in requests] == [(2, 1, 1, 1), (4, 2, 2, 2)]


@pytest.mark.parametrize(
    ("told", "listed", "visible"),
    [("cpu", [], ""), ("cpu", ["A GPU"], ""), ("A GPU", ["A GPU"], None), (None, [], ""), (None, ["A GPU"], None)],
)
def test_what_ran_on_cpus_is_replayed_out_of_sight_of_gpus(
    copy_of: Any, monkeypatch: pytest.MonkeyPatch, told: str | None, listed: list[str], visible: str | None
) -> None:
    """By the journal; where an old one does not tell the device, by the GPUs that the machine had."""
    bundle, seen = copy_of("plain"), []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        seen.append(options["env"].get("CUDA_VISIBLE_DEVICES"))
        pretend_to_replay(json.loads(Path(command[-1]).read_text()), honest)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("release.interpreters.subprocess.run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    write_journal(bundle, {"kind": "start", "step": 0, "num_processes": 1, **({"device": told} if told else {})})
    path = bundle / "model" / "training" / "pretrain" / "environment.json"
    environment = json.loads(path.read_text())
    environment["platform"]["devices"] = listed
    path.write_text(json.dumps(environment))
    assert replay(bundle, 1, 4).verdict == "PASS"
    assert seen == [visible]


@pytest.mark.parametrize(("device", "is_refused"), [("A GPU", True), ("cpu", False)])
def test_more_processes_than_gpus_are_bad_usage_where_gpus_are_needed(
    copy_of: Any, replaying: Any, monkeypatch: pytest.MonkeyPatch, device: str, is_refused: bool
) -> None:
    bundle, requests = copy_of("plain"), replaying(honest)
    monkeypatch.setattr("release.replay_layout.num_gpus", lambda: 1)
    write_journal(bundle, {"kind": "start", "step": 0, "num_processes": 1, "device": device})
    if is_refused:
        with pytest.raises(ConfigError, match="--processes 2"):
            replay(bundle, 1, 4, num_processes=2)
    else:
        assert replay(bundle, 1, 4, num_processes=2).verdict == "PASS"
    assert len(requests) == (not is_refused)


def test_the_report_names_the_layout_and_what_differs_from_the_recorded_one(copy_of: Any, replaying: Any) -> None:
    bundle, _ = copy_of("retained"), replaying(other_loss)
    write_journal(bundle, {"kind": "start", "step": 0, "num_processes": 4, "shard_size": 2, "tensor_size": 2})
    results = reproduce(bundle, steps=(1, 4))
    report = replay_report(bundle, results)
    assert report["format"] == "openwright-replay-report/2"
    sizes = {"num_processes": 4, "shard_size": 2, "tensor_size": 2, "context_size": 1}
    assert report["segments"][0]["layout"] == sizes
    assert ReplayReport.model_validate(report).model_dump() == report
    with pytest.raises(ValidationError, match="layouts of another version"):
        ReplayReport.model_validate({**report, "format": "openwright-replay-report/1"})
    detail = replay(bundle, 1, 4, 2).detail
    assert "recorded 4 processes in shards of 2, tensor 2, replayed 2 processes in shards of 1" in detail


def test_a_segment_made_at_two_layouts_or_at_an_unknown_one_is_never_a_fail_for_its_numerics(
    copy_of: Any, replaying: Any
) -> None:
    bundle = copy_of("retained")
    replaying(other_loss)
    write_journal(
        bundle,
        {"kind": "start", "step": 0, "num_processes": 2, "shard_size": 1},
        {"kind": "resume", "step": 6, "num_processes": 4, "shard_size": 1},
    )
    result = replay(bundle, 5, 8)
    assert result.verdict == "UNVERIFIED"
    assert "2 processes in shards of 1 and 4 processes in shards of 1" in result.detail
    write_journal(bundle, {"kind": "stop", "step": 0})
    result = replay(bundle, 5, 8)
    assert (result.verdict, "recorded an unknown layout" in result.detail) == ("UNVERIFIED", True)


def test_what_the_bundles_code_says_of_its_failure_is_told_on_one_line(
    bundle_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        output = Path(json.loads(Path(command[-1]).read_text())["output"])
        output.mkdir(parents=True)
        (output / ERROR_FILE).write_text("no memory\n  expected: some\n" + "x" * 5000)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("release.interpreters.subprocess.run", run)
    result = replay(bundle_of("roomy"), 5, 6)
    assert result.verdict == "FAIL"
    assert result.detail.startswith("the replay failed: no memory expected: some x")
    assert len(result.detail) < 1100
