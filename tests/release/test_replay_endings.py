"""What a replay that does not come to its end says of the steps, by how it ended: stand-ins that train nothing."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_replays import Change, Edit, cut_short, honest, other_loss, pretend_to_replay, unchanged

from provenance.errors import JobKilled
from release.replay_report import ReplayReport, ReplayResult, replay_report
from release.reproduce import reproduce
from train import replay as replay_program

Replaying = Callable[..., ReplayResult]


@pytest.fixture
def ended(bundle_of: Any, monkeypatch: pytest.MonkeyPatch) -> Replaying:
    """Replay steps 5 to 8 with a stand-in that writes what it is told and then ends with a code."""

    def end(code: int, edit: Edit | None, change: Change = unchanged) -> ReplayResult:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            if edit is not None:
                pretend_to_replay(json.loads(Path(command[-1]).read_text()), edit, change)
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        (result,) = reproduce(bundle_of("roomy"), steps=(5, 8), num_processes=1)
        return result

    return end


@pytest.mark.parametrize("code", [-9, 137, -15, 143, -1, 75])
def test_a_replay_that_was_killed_or_stopped_is_unverified_and_says_what_to_repeat(ended: Replaying, code: int) -> None:
    for edit in (None, cut_short):
        result = ended(code, edit)
        assert result.verdict == "UNVERIFIED"
        assert result.detail.endswith("replay these very steps again: --stage pretrain --step 5:8")
    assert re.match("until then 2 of [0-9]+ ledger records came out equal byte for byte; the replay was", result.detail)


@pytest.mark.parametrize("code", [1, 2, -11, 139, -6, 134, 255])
def test_a_replay_that_ended_by_itself_fails_whatever_it_wrote(ended: Replaying, code: int) -> None:
    for edit in (None, cut_short, honest):
        result = ended(code, edit)
        assert (result.verdict, result.detail.startswith("the replay failed")) == ("FAIL", True)


@pytest.mark.parametrize("code", [-9, 75])
def test_a_kill_hides_no_difference_that_was_written_before_it(ended: Replaying, code: int) -> None:
    result = ended(code, lambda lines: cut_short(other_loss(lines)))
    assert result.verdict == "FAIL"
    assert "first difference at step 5" in result.detail
    more = ended(code, lambda lines: [*lines, lines[-1]])
    assert (more.verdict, " records, the ledger holds " in more.detail) == ("FAIL", True)


def test_no_kill_is_a_pass_and_none_is_judged_by_tolerance(ended: Replaying) -> None:
    assert ended(0, honest).verdict == "PASS"
    assert ended(-9, honest).verdict == "UNVERIFIED"

    def elsewhere(output: Path) -> None:
        environment = json.loads((output / "environment.json").read_text())
        environment["platform"]["machine"] = "another"
        (output / "environment.json").write_text(json.dumps(environment))

    result = ended(-9, lambda lines: cut_short(other_loss(lines)), elsewhere)
    assert (result.verdict, result.judgement) == ("UNVERIFIED", None)
    assert "equal bits are not promised here" in result.detail
    assert "was killed (SIGKILL)" in result.detail


def test_half_a_record_is_put_down_to_the_kill_only_where_there_was_one(ended: Replaying) -> None:
    def half(lines: list[bytes]) -> list[bytes]:
        return [*lines[:2], lines[2][:30]]

    assert ended(-9, half).verdict == "UNVERIFIED"
    assert "what is no record" in ended(0, half).detail


def test_a_killed_replay_is_reported_as_such(ended: Replaying, bundle_of: Any) -> None:
    report = ReplayReport.model_validate(replay_report(bundle_of("roomy"), [ended(-9, cut_short)]))
    (segment,) = report.segments
    assert (segment.verdict, segment.num_equal_records, segment.num_equal_steps) == ("UNVERIFIED", 2, 1)


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143)])
def test_the_program_in_a_bundle_ends_as_its_job_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def replay(_: object) -> None:
        raise JobKilled("killed", signal_number=number, expected="", where="", next_command="")

    request = {"format": replay_program.REPLAY_FORMAT, "stage": "pretrain", "recipe": "", "corpus": ""}
    request |= {"base_checkpoint": "", "from_checkpoint": "", "last_step": 1, "num_processes": None}
    (tmp_path / "request.json").write_text(json.dumps({**request, "output": str(tmp_path / "run")}))
    monkeypatch.setattr(replay_program, "replay", replay)
    monkeypatch.setattr("sys.argv", ["train.replay", str(tmp_path / "request.json")])
    assert replay_program.main() == code
    assert (tmp_path / "run" / replay_program.ERROR_FILE).read_text() == "killed"
