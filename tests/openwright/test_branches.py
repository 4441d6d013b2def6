"""`openwright branch`: from runs and bundles, with something changed or nothing, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_release
import tiny_runs
import yaml
from small_jobs import launch_here, records, run_here, small_config, small_job, stop_after

import train.jobs
from openwright import cli
from openwright.branching import write_branch
from openwright.pipeline import run_directory
from provenance.canonical import read_json, write_json
from provenance.config import load_config, recipe_of
from provenance.errors import ArtifactError, ConfigError, OpenwrightError, ResumeMismatch
from release.bundle import bundle_path
from release.verify import verify_bundle
from train.branch import BRANCHES, find_branch_point
from train.settings import PretrainConfig

STEPS = 8
CHANGES: dict[str, Any] = {
    "phases": [{"num_steps": 5, "sequences_per_step": 4}, {"num_steps": 3, "sequences_per_step": 8}],
    "checkpoints": {"weights_until_step": 1, "full_every_steps": 3},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def parent(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with full checkpoints at steps 3, 6 and 8."""
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("parent") / "run", **CHANGES)


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """The parts of a config directory that a branch reads."""
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "release.yaml").write_text('name: tiny\nversion: "0.1"  # of the parent\n')
    (directory / "pretrain.yaml").write_text("execution:\n  num_processes: 2\n")
    return directory


def branch(run: Path, step: int, config_dir: Path, *overrides: str, **options: Any) -> Path:
    """The new pretrain.yaml."""
    return write_branch(run, step, config_dir, config_dir / "../new", config_dir / "../store", overrides, **options)


def run_branch(corpus: Path, path: Path) -> Path:
    """Run a branch's config in this process; returns the run's directory."""
    config = load_config(path, PretrainConfig)
    assert config.branch is not None
    point = find_branch_point(path.parent.parent / "store" / "tiny", config.branch)
    run_dir = path.parent / "run"
    assert run_here(small_job(corpus, run_dir, config, branch_from=str(point)))
    return run_dir


def without_link(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "previous"}


def after_branch(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Records from the branch point on, without their links."""
    found = [record for record in records(run_dir) if record["kind"] != "start" and record.get("step", step) >= step]
    return [without_link(r) for r in found if (r["kind"], r.get("step")) not in (("step", step), ("evaluation", step))]


def test_an_unchanged_branch_repeats_its_parent(corpus: Path, parent: Path, config_dir: Path) -> None:
    path = branch(parent, 3, config_dir)
    assert load_config(path, PretrainConfig).execution.num_processes == 2  # how it runs comes from the directory
    run_dir = run_branch(corpus, path)
    start, checkpoint = records(run_dir)[:2]
    parent_start = records(parent)[0]
    recorded = next(r for r in records(parent, "checkpoint") if r["step"] == 3)
    before = records(parent)[records(parent).index(recorded) - 1]
    assert start["branch"]["state_digest"] == checkpoint["state_digest"] == recorded["state_digest"]
    assert start["branch"]["ledger_head"] == recorded["previous"] != before["previous"]
    assert start["recipe_digest"] != parent_start["recipe_digest"]
    assert after_branch(run_dir, 3) == after_branch(parent, 3)
    assert [record["step"] for record in records(run_dir, "step")] == [4, 5, 6, 7, 8]
    for name in ("model.safetensors", "optimizer.safetensors"):
        final = f"checkpoints/step-0000000{STEPS}/{name}"
        assert (run_dir / final).read_bytes() == (parent / final).read_bytes()


def test_a_branch_with_another_learning_rate_differs_from_its_first_step_on(
    corpus: Path, parent: Path, config_dir: Path
) -> None:
    run_dir = run_branch(corpus, branch(parent, 3, config_dir, "optimizer.peak_learning_rate=0.001"))
    ours, theirs = after_branch(run_dir, 3), after_branch(parent, 3)
    assert ours[0] == theirs[0]
    first, other = ours[1], theirs[1]
    assert (first["order_digest"], first["token_digest"], first["loss"], first["gradient_norm"]) == (
        *(other["order_digest"], other["token_digest"]),
        *(other["loss"], other["gradient_norm"]),
    )
    assert first["learning_rate"] != other["learning_rate"]
    assert all(a != b for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_a_branch_of_an_unfinished_run_with_steps_left_out(corpus: Path, tmp_path: Path, config_dir: Path) -> None:
    run = tmp_path / "unfinished"
    assert not run_here(small_job(corpus, run, small_config(**CHANGES)), stop_after(run, 5))
    run_dir = run_branch(corpus, branch(run, 3, config_dir, skips=[(5, 6)]))
    assert [record["step"] for record in records(run_dir, "step")] == [4, 7, 8]
    assert [(r["first"], r["last"]) for r in records(run_dir, "skip")] == [(5, 6)]


def test_steps_left_out_before_the_branch_point_stay_history(corpus: Path, tmp_path: Path, config_dir: Path) -> None:
    """The parent left out steps 2 and 5; a branch at step 3 records 5 only, and ends with the parent's bits."""
    changes = {**CHANGES, "skip_steps": [[2, 2], [5, 5]]}
    parent = small_jobs.run_small(corpus, tmp_path / "parent", **changes)
    path = branch(parent, 3, config_dir)
    assert load_config(path, PretrainConfig).skip_steps == ((2, 2), (5, 5))
    run_dir = run_branch(corpus, path)
    assert after_branch(run_dir, 3) == [r for r in after_branch(parent, 3) if r.get("first") != 2]


def test_a_branch_from_a_bundle(corpus: Path, parent: Path, tmp_path: Path, config_dir: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(parent / "checkpoints", bundle / "model" / "checkpoints" / "pretrain")
    for name in ("ledger.jsonl", "recipe.json"):
        target = bundle / "model" / "training" / "pretrain" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(parent / name, target)
    run_dir = run_branch(corpus, branch(bundle, 6, config_dir))
    assert after_branch(run_dir, 6) == after_branch(parent, 6)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=8"], "seed would be 8"),
        (["data.window_tokens=12"], r"data\.window_tokens would be 12"),
        (["phases=[{num_steps: 4, sequences_per_step: 4}, {num_steps: 4, sequences_per_step: 8}]"], "phases 0 to 0"),
        (["phases=[{num_steps: 8, sequences_per_step: 8}]"], "phases 0 to 0"),
    ],
)
def test_a_changed_past_is_refused(parent: Path, config_dir: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ResumeMismatch, match=words) as refused:
        branch(parent, 3, config_dir, *overrides)
    assert "up to step 3" in refused.value.expected
    assert not (config_dir.parent / "new").exists()


@pytest.mark.parametrize("skips", [[(1, 2)], [(2, 3)], [(3, 4)], [(5, 4)], [(8, 8)]])
def test_stretches_before_the_branch_or_at_the_end_are_refused(
    parent: Path, config_dir: Path, skips: list[tuple[int, int]]
) -> None:
    with pytest.raises((ConfigError, ResumeMismatch), match="skip_steps"):
        branch(parent, 3, config_dir, skips=skips)
    assert not (config_dir.parent / "new").exists()


def test_left_out_steps_before_the_branch_may_not_change(corpus: Path, tmp_path: Path, config_dir: Path) -> None:
    parent = small_jobs.run_small(corpus, tmp_path / "parent", **CHANGES, skip_steps=[[2, 2], [7, 7]])
    for change in ([], [[1, 2]], [[1, 1], [2, 2]]):
        with pytest.raises(ResumeMismatch, match="skip_steps before it"):
            branch(parent, 3, config_dir, f"skip_steps={change}")
    path = branch(parent, 3, config_dir, skips=[(5, 5)])  # between those that the parent had
    assert load_config(path, PretrainConfig).skip_steps == ((2, 2), (5, 5), (7, 7))


def test_later_phases_may_change(parent: Path, config_dir: Path) -> None:
    phases = "phases=[{num_steps: 5, sequences_per_step: 4}, {num_steps: 9, sequences_per_step: 16}]"
    path = branch(parent, 3, config_dir, phases)
    assert load_config(path, PretrainConfig).num_steps == 14


def test_a_step_without_full_checkpoint_is_refused_with_those_there_are(parent: Path, config_dir: Path) -> None:
    for step in (1, 4):
        with pytest.raises(ResumeMismatch, match=f"no full checkpoint of step {step}") as refused:
            branch(parent, step, config_dir)
        assert refused.value.expected == "one of the steps 3, 6, 8"


def test_a_directory_that_is_no_run_and_one_that_exists(parent: Path, config_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither a run nor a bundle"):
        branch(tmp_path, 3, config_dir)
    with pytest.raises(ConfigError, match="the directory exists"):
        write_branch(parent, 3, config_dir, config_dir, tmp_path / "store")


def test_a_branch_point_that_is_gone_or_another_is_refused(
    corpus: Path, parent: Path, config_dir: Path, tmp_path: Path
) -> None:
    path = branch(parent, 3, config_dir)
    config, store = load_config(path, PretrainConfig), config_dir.parent / "store" / "tiny"
    assert config.branch is not None
    point = find_branch_point(store, config.branch)
    other = parent / "checkpoints" / "step-00000006"
    with pytest.raises(ResumeMismatch, match="a checkpoint with state"):
        run_here(small_job(corpus, tmp_path / "run", config, branch_from=str(other)))
    forged = point / "checkpoint.json"
    write_json(forged, {**read_json(other / "checkpoint.json"), "step": 3})
    with pytest.raises(OpenwrightError, match="state digest"):
        run_here(small_job(corpus, tmp_path / "run", config, branch_from=str(point)))
    shutil.rmtree(store / BRANCHES)
    with pytest.raises(ResumeMismatch, match="is not here") as refused:
        find_branch_point(store, config.branch)
    assert "openwright branch" in refused.value.next_command


def test_the_branch_point_survives_retention_and_restarts(corpus: Path, parent: Path, config_dir: Path) -> None:
    path = branch(parent, 3, config_dir, "checkpoints.full_every_steps=1", "checkpoints.keep_last_full=1")
    config = load_config(path, PretrainConfig)
    assert config.branch is not None
    point = find_branch_point(config_dir.parent / "store" / "tiny", config.branch)
    run_dir = path.parent / "run"
    job = small_job(corpus, run_dir, config, branch_from=str(point))
    for step in (4, 6):
        assert not run_here(job, stop_after(run_dir, step))
    assert run_here(job)
    full = sorted(p.parent.name for p in run_dir.glob("checkpoints/*/optimizer.safetensors"))
    assert full == ["step-00000003", "step-00000007", "step-00000008"]
    assert [without_link(r)["loss"] for r in records(run_dir, "step")] == [
        r["loss"] for r in records(parent, "step") if r["step"] > 3
    ]


def test_the_command_writes_the_directory_and_names_the_next_one(
    parent: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("branch", str(parent), "--at", "3", "--config", str(config_dir), "--to", str(tmp_path / "new")),
        *("--skip", "5:6", "--set", "optimizer.weight_decay=0.2", "--artifacts", str(tmp_path / "store"), "--json"),
    ]
    assert cli.invoke(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["branch"] == (tmp_path / "new" / "pretrain.yaml").as_posix()
    release = (tmp_path / "new" / "release.yaml").read_text()
    assert re.search(r'version: "0\.1-branch\.[0-9a-f]{8}"  # of the parent', release)
    assert told["version"] in release, "another model does not go by the name of its parent"
    config = load_config(tmp_path / "new" / "pretrain.yaml", PretrainConfig)
    assert (config.skip_steps, config.optimizer.weight_decay) == (((5, 6),), 0.2)
    assert recipe_of(config)["branch"]["step"] == 3
    assert cli.invoke([*arguments[:3], "4", *arguments[4:7], str(tmp_path / "newer"), *arguments[8:]]) == 1
    capsys.readouterr()
    assert cli.invoke([*arguments[:7], str(tmp_path / "newer"), "--skip", "7:99", *arguments[12:]]) == 2
    assert "next: the same command with another --set, --skip" in capsys.readouterr().err
    assert not (tmp_path / "newer").exists()


def test_branches_that_differ_have_versions_that_differ(parent: Path, config_dir: Path, tmp_path: Path) -> None:
    def version(name: str, *overrides: str, of: Path = config_dir) -> str:
        write_branch(parent, 3, of, tmp_path / name, tmp_path / "store", overrides)
        return str(yaml.safe_load((tmp_path / name / "release.yaml").read_text())["version"])

    one = version("one", "optimizer.weight_decay=0.2")
    assert version("again", "optimizer.weight_decay=0.2") == one
    other = version("other", "optimizer.weight_decay=0.3", of=tmp_path / "one")
    assert other != one
    assert other.count("branch") == 1


def test_a_branched_release_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a finished run of the pipeline; what came before the branch point stays unverified, nothing fails."""
    monkeypatch.setattr(train.jobs, "launch", launch_here(stop=False))
    config_dir = tiny_release.write_configs(tmp_path / "config", tmp_path / "scratch")
    (config_dir / "sft.yaml").unlink()
    for name, changes in (("release", {"stages": ["corpus", "pretrain", "eval"]}), ("eval", {"models": ["pretrain"]})):
        path = config_dir / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, allow_unicode=True))
    store = tmp_path / "store"
    made = run_directory(config_dir, store=store, dev=True, until="pretrain")
    write_branch(made["pretrain"].path, 3, config_dir, tmp_path / "new", store, ["optimizer.weight_decay=0.2"])
    artifacts = run_directory(tmp_path / "new", store=store, dev=True)
    results = {result.name: result.verdict for result in verify_bundle(bundle_path(artifacts["release"]))}
    assert "FAIL" not in results.values()
    assert results["pretrain ledger"] == results["pretrain checkpoints"] == results["pretrain schedule"] == "PASS"
    assert results["pretrain branch"] == "UNVERIFIED"
