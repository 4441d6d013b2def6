"""Records of another form are refused by file and field before anything runs; no bytes end a command otherwise."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import replace_file
from fake_replays import honest, pretend_to_replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_verify_fuzz import mutated

from provenance.errors import BundleError, OpenwrightError
from release.execution import execution_of
from release.interpreters import THIS_PYTHON
from release.isolated import plan_environment
from release.rebuild_compare import compare_stage
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.replay_layout import Layout, recorded_layouts
from release.replay_report import ReplayResult, replay_report
from release.reproduce import plan_replays, run_replays

RUN, KEPT = "model/training/pretrain", "model/checkpoints/pretrain"
REPLAYED = (
    *("model/manifest.json", "model/code/CODE.json", f"{RUN}/manifest.json", f"{RUN}/run.json", f"{RUN}/recipe.json"),
    *(f"{RUN}/ledger.jsonl", f"{RUN}/journal.jsonl", f"{RUN}/environment.json"),
    *(f"{KEPT}/step-00000002/checkpoint.json", f"{KEPT}/step-00000003/checkpoint.json"),
    *("dataset/tokens/tokens.json", "dataset/tombstones.json", "model/code/requirements/cpu.lock"),
)
REBUILT = ("dataset/manifest.json", "dataset/sources.lock", "model/openness/components.json")
WRITTEN = ("ledger.jsonl", "journal.jsonl", "environment.json", "checkpoints/step-00000004/checkpoint.json")

TOMBSTONE = {"document_id": "1" * 64, "text_sha256": "2" * 64, "date": "2026-11-25", "reason": "asked for"}
BLANK = {
    "format": "openwright-tombstones/1",
    "tombstones": [TOMBSTONE],
    "blanked": {"token": 0, "files": [{"path": "x", "ranges": [[1, 2]]}]},
}

few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
Replaying = Callable[..., list[ReplayResult]]


@pytest.fixture
def small(copy_of: Callable[[str], Path]) -> Path:
    """A bundle with little code, since its digest is taken often, and with a config directory."""
    bundle = copy_of("plain")
    code = bundle / "model" / "code"
    for path in code.glob("*/**/*.py"):
        path.unlink()
    (code / "configs" / "some").mkdir(parents=True)
    (code / "configs" / "some" / "release.yaml").write_text("name: some\n")
    forge.write(bundle / "dataset" / "tombstones.json", BLANK)
    return bundle


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Replaying:
    """Plan and replay steps 1 to 4 as the command does, with a stand-in whose records differ in the platform."""

    def replay(bundle: Path, change: Callable[[Path], None] = lambda output: None) -> list[ReplayResult]:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            pretend_to_replay(json.loads(Path(command[-1]).read_text()), honest, change)
            return subprocess.CompletedProcess(command, 0)

        plan = plan_replays(bundle, steps=(1, 4))
        execution_of(bundle, THIS_PYTHON, plan.lines(), network="").lines()
        plan_environment(bundle / "model" / "code", bundle.parent / "venv")
        monkeypatch.setattr("release.interpreters.subprocess.run", run)
        results = run_replays(plan)
        json.dumps(replay_report(bundle, results))
        return results

    return replay


def test_the_honest_bundle_is_read(small: Path, replaying: Replaying, tmp_path: Path) -> None:
    (small / "model" / "code" / "requirements" / "torch-cpu.lock").write_text("torch==1.0\n")
    assert [result.verdict for result in replaying(small)] == ["PASS"]
    assert plan_rebuild(small, tmp_path / "work", RebuildOptions()).obstacles == ()


@few
@given(st.randoms(use_true_random=False), st.sampled_from(REPLAYED))
def test_a_mutated_record_is_refused_or_replayed(
    small: Path, replaying: Replaying, draw: random.Random, name: str
) -> None:
    (small / "model" / "code" / "requirements" / "torch-cpu.lock").write_text("torch==1.0\n")
    before, refused = (small / name).read_bytes(), list[OpenwrightError]()
    (small / name).write_bytes(mutated(before, draw))
    try:
        assert {result.verdict for result in replaying(small)} <= {"PASS", "FAIL", "UNVERIFIED"}
    except OpenwrightError as error:
        refused.append(error)
    finally:
        (small / name).write_bytes(before)
    assert all(error.found and error.where for error in refused)


@few
@given(st.randoms(use_true_random=False), st.sampled_from((*REPLAYED, *REBUILT)))
def test_a_mutated_record_is_refused_or_rebuilt(small: Path, tmp_path: Path, draw: random.Random, name: str) -> None:
    before, refused = (small / name).read_bytes(), list[OpenwrightError]()
    (small / name).write_bytes(mutated(before, draw))
    try:
        plan_rebuild(small, tmp_path / "work", RebuildOptions()).lines()
        compare_stage(small, "pretrain", small / RUN)
    except OpenwrightError as error:
        refused.append(error)
    finally:
        (small / name).write_bytes(before)
    assert all(error.found and error.where for error in refused)


@few
@given(st.randoms(use_true_random=False), st.sampled_from(WRITTEN))
def test_whatever_a_bundles_code_writes_is_compared_or_fails(
    small: Path, replaying: Replaying, draw: random.Random, name: str
) -> None:
    def change(output: Path) -> None:
        (output / name).write_bytes(mutated((output / name).read_bytes(), draw))

    (small / "model" / "code" / "requirements" / "torch-cpu.lock").write_text("torch==1.0\n")
    assert {result.verdict for result in replaying(small, change)} <= {"PASS", "FAIL", "UNVERIFIED"}


def edited(path: str, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    """A change of one JSON file."""

    def change(bundle: Path) -> None:
        value = forge.read(bundle / path)
        edit(value)
        forge.write(bundle / path, value)

    return change


def a_line(path: str, number: int, **fields: Any) -> Callable[[Path], None]:
    """A change of one record of a chain, and of all links that come after it."""

    def change(bundle: Path) -> None:
        records = [json.loads(line) for line in (bundle / path).read_text().splitlines()]
        records[number] |= fields
        previous, lines = "0" * 64, []
        for record in records:
            record["previous"] = previous
            lines.append(json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")))
            previous = forge.digest_bytes(lines[-1].encode())
        (bundle / path).write_text("".join(f"{line}\n" for line in lines))

    return change


def gone(path: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / path).unlink()


def other(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda bundle: replace_file(bundle / path, content)


def an_edited_step(bundle: Path) -> None:
    path = bundle / RUN / "ledger.jsonl"
    replace_file(path, path.read_bytes().replace(b'"step":2', b'"step":3'))


RECIPE, ENVIRONMENT, ROOT = f"{RUN}/recipe.json", f"{RUN}/environment.json", "model/manifest.json"
LEDGER, JOURNAL, CHECKPOINT = f"{RUN}/ledger.jsonl", f"{RUN}/journal.jsonl", f"{KEPT}/step-00000002/checkpoint.json"
TOKENS, A_VERSION = "dataset/tokens/tokens.json", {"torch": {"version": 2}}

ODD = {
    "steps of text": (edited(f"{RUN}/run.json", lambda v: v.update(num_steps="4")), "run.json", "num_steps"),
    "no final": (edited(f"{RUN}/run.json", lambda v: v.pop("final")), "run.json", "final"),
    "a version": (edited(f"{RUN}/run.json", lambda v: v.update(format="openwright-run/9")), "run.json", "run/9"),
    "a list": (other(RECIPE, b"[]"), "recipe.json", "object"),
    "no split": (edited(RECIPE, lambda v: v["data"].pop("heldout_split")), "recipe.json", "heldout_split"),
    "a pair of one": (edited(RECIPE, lambda v: v.update(skip_steps=[[2]])), "recipe.json", "skip_steps"),
    "a branch of text": (edited(RECIPE, lambda v: v.update(branch="x")), "recipe.json", "branch"),
    "a platform of text": (edited(ENVIRONMENT, lambda v: v.update(platform="x")), "environment.json", "platform"),
    "a number of a version": (edited(ENVIRONMENT, lambda v: v.update(distributions=A_VERSION)), "", "torch.version"),
    "no environment": (gone(ENVIRONMENT), "environment.json", "missing"),
    "no journal": (gone(JOURNAL), "journal.jsonl", "missing"),
    "processes of text": (a_line(JOURNAL, 0, kind="start", num_processes="2"), "journal.jsonl:1", "num_processes"),
    "an empty ledger": (other(LEDGER, b""), "ledger.jsonl", "start record"),
    "a loss of text": (a_line(LEDGER, 3, loss="low"), "ledger.jsonl:4", "loss"),
    "a broken link": (an_edited_step, "ledger.jsonl:", "chained"),
    "no place": (edited(CHECKPOINT, lambda v: v["ledger"].pop("num_records")), "step-00000002", "ledger.num_records"),
    "a step of text": (edited(CHECKPOINT, lambda v: v.update(step="2")), "step-00000002/checkpoint.json", "step"),
    "a stage elsewhere": (edited(ROOT, lambda v: v["stages"][1].update(stage="../pretrain")), "", "../pretrain"),
    "no digest": (edited(ROOT, lambda v: v["stages"][1]["code"].pop("packages_digest")), "", "packages_digest"),
    "a number of a commit": (edited("model/code/CODE.json", lambda v: v.update(commit=1)), "CODE.json", "commit"),
    "no such split": (edited(TOKENS, lambda v: v["splits"].pop("heldout")), "tokens.json", "lacks heldout"),
    "a split of nothing": (edited(TOKENS, lambda v: v["splits"].update(train={})), "tokens.json", "digest"),
}


@pytest.mark.parametrize(("change", "file", "field"), ODD.values(), ids=ODD)
def test_file_and_field_are_named(
    small: Path, change: Callable[[Path], None], file: str, field: str, tmp_path: Path
) -> None:
    change(small)
    for plan in (
        lambda: plan_replays(small, steps=(1, 4)),
        lambda: plan_rebuild(small, tmp_path / "work", RebuildOptions()),
    ):
        with pytest.raises(BundleError) as refused:
            plan()
        assert file in refused.value.where
        assert field in f"{refused.value.where} {refused.value.found}"
        assert refused.value.next_command == f"openwright verify {small}"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_replay_that_writes_no_records_fails_and_the_file_is_named(
    small: Path, replaying: Replaying, name: str
) -> None:
    (small / "model" / "code" / "requirements" / "torch-cpu.lock").write_text("torch==1.0\n")
    (result,) = replaying(small, lambda output: (output / name).write_text("[1]\n") and None)
    assert result.verdict == "FAIL"
    assert name.rpartition("/")[2] in result.detail
    assert result.segment.num_equal_steps == 0


@pytest.mark.parametrize("name", ["", *WRITTEN])
def test_what_a_replay_writes_as_a_link_is_not_followed(small: Path, replaying: Replaying, name: str) -> None:
    """Whoever looks only at plain files, and reads what a name leads to, reads what was never looked at."""

    def link(output: Path) -> None:
        path, elsewhere = output / name, output.parent / "elsewhere"
        path.rename(elsewhere)
        (elsewhere if name else elsewhere / "environment.json").write_text("[1]\n")
        path.symlink_to(elsewhere)

    (small / "model" / "code" / "requirements" / "torch-cpu.lock").write_text("torch==1.0\n")
    (result,) = replaying(small, link)
    assert (result.verdict, result.segment.num_equal_steps) == ("FAIL", 0)


def test_a_journal_that_begins_at_every_step_to_come_is_read_at_once(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("retained")
    a_line(f"{RUN}/journal.jsonl", 0, kind="start", num_processes=4, shard_size=2)(bundle)
    edited(f"{RUN}/run.json", lambda value: value.update(num_steps=2**52))(bundle)
    plan = plan_replays(bundle, steps=(1, 2**52))
    assert recorded_layouts(bundle, plan.segments[0]) == {Layout(4, 2)}
