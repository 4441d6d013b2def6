"""What a run will not be taken for: another recipe, corpus, order or code; and what another platform means."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
from small_jobs import differing, launch_here, records, run_here, small_config, small_job, stop_after

import train.jobs
from provenance.artifacts import Artifact
from provenance.canonical import read_json, write_json
from provenance.digests import Parent
from provenance.errors import ResumeMismatch, StoppedForRequeue, TrainingError
from provenance.ledger import Journal
from provenance.stage import StageContext
from train.identity import IDENTITY_NAME, begin_or_go_on, run_identity
from train.jobs import pretrain
from train.records import differences


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def straight(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_jobs.run_small(corpus.path, tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def stopped(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked to stop after step 3."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    assert not run_here(small_job(corpus.path, run_dir, small_config()), stop_after(run_dir, 3))
    return run_dir


# ---- one directory, other inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 8}, "order.seed: 7 in the run, 8 now"),
        ({"optimizer": {"peak_learning_rate": 1e-3}}, "recipe_digest: "),
        ({"num_logical_replicas": 2}, "num_logical_replicas: 4 in the run, 2 now"),
        ({"reduction": "native"}, "reduction: exact in the run, native now"),
        ({"phases": [{"num_steps": 6, "sequences_per_step": 8}]}, "order.phases.0.sequences_per_step: 4 in the run"),
    ],
)
def test_another_recipe_is_refused_with_a_table(
    corpus: Artifact, stopped: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    with pytest.raises(ResumeMismatch) as refused:
        run_here(small_job(corpus.path, run_dir, small_config(**changes)))
    assert f"\n  {line}" in refused.value.found
    assert f"openwright branch {run_dir} --at STEP" in refused.value.next_command
    assert refused.value.exit_code == 1
    assert small_jobs.results(run_dir) == small_jobs.results(stopped)


def test_another_corpus_is_refused(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tiny_runs, "make_texts", lambda seed, count, make=tiny_runs.make_texts: make(seed + 40, count))
        other = tiny_runs.make_corpus(tmp_path / "other").path
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    with pytest.raises(ResumeMismatch, match=r"order\.tokens_digest: [0-9a-f]{64} in the run, [0-9a-f]{64} now"):
        run_here(small_job(other, run_dir, small_config()))


def test_the_same_inputs_go_on(corpus: Artifact, stopped: Path, straight: Path, tmp_path: Path) -> None:
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    execution = {"on_loss_spike": "stop", "num_processes": 1}  # never part of what is compared
    assert run_here(small_job(corpus.path, run_dir, small_config(execution=execution)))
    assert differing(run_dir, straight) == []


def test_differences_name_every_place() -> None:
    found = {"a": 1, "b": [1, {"c": 2}], "d": {"e": 3}, "same": {"x": [1]}}
    expected = {"a": 1, "b": [1, {"c": 4}], "d": {"e": 3, "f": 5}, "same": {"x": [1]}}
    assert differences(found, expected) == ["b.1.c: 2 in the run, 4 now", "d.f: None in the run, 5 now"]
    assert differences(found, found) == []


# ---- the pipeline's directories -------------------------------------------------------------------------------------

PARENTS = [Parent("corpus", "tiny/corpus", "a" * 64)]


def identity(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = run_identity({"seed": 1}, PARENTS, ("provenance",), ("numpy",), "c" * 40)
    for name, values in changes.items():
        made[name] = {**made[name], **values}
    return made


@pytest.fixture
def unfinished(stopped: Path, tmp_path: Path) -> Path:
    """The directory of an unfinished run of the stage."""
    work = small_jobs.copy_run(stopped, tmp_path / "store" / ".work-000000000000")
    begin_or_go_on(work, identity(), fresh=False)
    return work


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"recipe": {"seed": 2}}, "recipe.seed: 1 in the run, 2 now"),
        ({"parents": {"corpus": "b" * 64}}, f"parents.corpus: {'a' * 64} in the run, {'b' * 64} now"),
        ({"sources": {"provenance/errors.py": "d" * 64}}, "sources.provenance/errors.py: "),
        ({"sources": {"provenance/new.py": "d" * 64}}, "sources.provenance/new.py: None in the run, "),
        ({"libraries": {"numpy": "0"}}, "libraries.numpy: "),
    ],
)
def test_an_unfinished_run_that_was_begun_with_something_else_is_not_passed_by(
    unfinished: Path, changes: dict[str, Any], line: str
) -> None:
    work = unfinished.with_name(".work-111111111111")
    work.mkdir()
    with pytest.raises(ResumeMismatch) as refused:
        begin_or_go_on(work, identity(**changes), fresh=False)
    assert "an unfinished run, at step 3, was begun with something else" in refused.value.found
    assert f"\n  {line}" in refused.value.found
    assert f"openwright branch {unfinished} --at 3" in refused.value.next_command
    assert "--fresh" in refused.value.next_command
    assert not work.exists()
    work.mkdir()
    begin_or_go_on(work, identity(**changes), fresh=True)
    begin_or_go_on(work, identity(**changes), fresh=False)  # begun, so it goes on
    assert read_json(unfinished / IDENTITY_NAME) == identity()


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"recipe": {"seed": 2}}, False),
        ({"recipe": {"seed": 2, "z_loss": 1}}, False),
        ({"parents": {"base": "b" * 64}}, False),
        ({"recipe": {"z_loss": 1}}, True),
        ({"sources": {"provenance/new.py": "d" * 64}}, True),
    ],
)
def test_in_a_sweep_other_seeds_hold_nobody_up_and_the_same_seed_does(
    unfinished: Path, changes: dict[str, Any], is_refused: bool
) -> None:
    work = unfinished.with_name(".work-111111111111")
    work.mkdir()
    if is_refused:
        with pytest.raises(ResumeMismatch):
            begin_or_go_on(work, identity(**changes), fresh=False, in_sweep=True)
    else:
        begin_or_go_on(work, identity(**changes), fresh=False, in_sweep=True)
        assert read_json(work / IDENTITY_NAME) == identity(**changes)


def test_a_long_table_is_cut_and_says_so(unfinished: Path) -> None:
    work = unfinished.with_name(".work-111111111111")
    work.mkdir()
    sources = {f"provenance/new{number:02}.py": "d" * 64 for number in range(25)}
    with pytest.raises(ResumeMismatch, match="and 5 more"):
        begin_or_go_on(work, identity(sources=sources), fresh=False)


def test_a_run_without_any_full_checkpoint_holds_nobody_up(unfinished: Path) -> None:
    for name in ("requeue-00000003", "step-00000002"):
        path = unfinished / "checkpoints" / name / "checkpoint.json"
        write_json(path, {**read_json(path), "kind": "weights", "state_digest": None})
    work = unfinished.with_name(".work-111111111111")
    work.mkdir()
    begin_or_go_on(work, identity(recipe={"seed": 2}), fresh=False)
    assert read_json(work / IDENTITY_NAME)["recipe"] == {"seed": 2}


def test_a_stage_refuses_goes_on_and_begins_anew(
    corpus: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tiny_runs.context(tmp_path)
    monkeypatch.setattr(train.jobs, "launch", launch_here(stop=True))
    with pytest.raises(StoppedForRequeue):
        pretrain(small_config(), context, corpus)
    monkeypatch.setattr(train.jobs, "launch", launch_here(stop=False))
    with pytest.raises(ResumeMismatch, match=r"recipe\.seed: 7 in the run, 9 now"):
        pretrain(small_config(seed=9), context, corpus)
    fresh = StageContext(context.name, context.store, context.code, fresh=True)
    other = pretrain(small_config(seed=9), fresh, corpus)
    made = pretrain(small_config(), context, corpus)
    assert other.path != made.path
    assert [record["step"] for record in records(made.path, "resume", "journal.jsonl")] == [3]
    assert not list(context.store.glob("pretrain/.work-*"))


# ---- another platform -----------------------------------------------------------------------------------------------


def move_to_another_platform(run_dir: Path) -> None:
    """Write the run's journal once more, as if it had run elsewhere."""
    notes = records(run_dir, name="journal.jsonl")
    (run_dir / "journal.jsonl").unlink()
    journal = Journal(run_dir / "journal.jsonl")
    for note in notes:
        forged = {key: value for key, value in note.items() if key != "previous"}
        journal.append(forged | ({"platform": "e" * 64} if "platform" in note else {}))
    journal.close()


def test_a_run_goes_on_elsewhere_in_a_new_bitwise_segment(
    corpus: Artifact, stopped: Path, straight: Path, tmp_path: Path
) -> None:
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    move_to_another_platform(run_dir)
    job = small_job(corpus.path, run_dir, small_config())
    assert not run_here(job, stop_after(run_dir, 4))
    (change,) = records(run_dir, "environment_change", "journal.jsonl")
    assert (change["step"], change["platform_before"]) == (3, "e" * 64)
    assert run_here(job)
    kinds = [record["kind"] for record in records(run_dir, name="journal.jsonl")]
    starts = [record for record in records(run_dir, name="journal.jsonl") if record["kind"] in ("start", "resume")]
    assert kinds.count("environment_change") == 1
    assert [record["bitwise_segment"] for record in starts] == [1, 2, 2]
    assert differing(run_dir, straight) == []  # here the platform is the same in truth


ELSEWHERE = (
    "import sys; from pathlib import Path; from small_jobs import *; from provenance.errors import TrainingError\n"
    "corpus, run_dir = Path(sys.argv[1]), Path(sys.argv[2])\n"
    "try: run_here(small_job(corpus, run_dir, small_config(execution={'on_environment_change': 'stop'})))\n"
    "except TrainingError as error: print(error.found)\n"
    "assert run_here(small_job(corpus, run_dir, small_config()))\n"
)


def test_a_run_goes_on_where_torch_really_computes_with_other_kernels(
    corpus: Artifact, stopped: Path, straight: Path, tmp_path: Path
) -> None:
    """Nothing is forged: torch reads this variable once, so that a process of its own goes on with plain kernels."""
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    tests = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent.parent}", "ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", ELSEWHERE, str(corpus.path), str(run_dir)]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    before = records(stopped, "start", "journal.jsonl")[0]["platform"]
    (change,) = records(run_dir, "environment_change", "journal.jsonl")
    assert (change["step"], change["platform_before"]) == (3, before)
    assert said.startswith(f"the platform is {change['platform'][:12]}, and the run was on {before[:12]} before")
    starts = [note for note in records(run_dir, name="journal.jsonl") if note["kind"] in ("start", "resume")]
    assert [(note["bitwise_segment"], note["platform"]) for note in starts] == [(1, before), (2, change["platform"])]
    here, there = (records(path, "step") for path in (straight, run_dir))
    assert here[:3] == there[:3]
    losses = [[float.fromhex(record["loss"]) for record in found] for found in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_run_stops_on_another_platform_where_the_config_says_so(
    corpus: Artifact, stopped: Path, tmp_path: Path
) -> None:
    run_dir = small_jobs.copy_run(stopped, tmp_path / "run")
    config = small_config(execution={"on_environment_change": "stop"})
    move_to_another_platform(run_dir)
    before = (run_dir / "journal.jsonl").read_bytes()
    with pytest.raises(TrainingError, match="the platform is") as refused:
        run_here(small_job(corpus.path, run_dir, config))
    assert "e" * 12 in refused.value.found
    assert "on_environment_change" in refused.value.next_command
    assert (run_dir / "journal.jsonl").read_bytes() == before
