"""Sweeps over seeds: what is asked for, one after the other on this machine, and the table that is read from disk."""

import json
import os
import statistics

import pytest

from openwright import cli, configs, pipeline
from openwright.seeds import SeedOptions, Sweep, parse_seeds
from openwright.sweep_jobs import SWEEPS_NAME
from openwright.sweep_table import sweep_lines
from openwright.sweeps import read_sweep, run_sweep
from provenance.canonical import write_json
from provenance.config import Config, recipe_of
from provenance.errors import ConfigError
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageSpec, run_stage

BITS = {1: 2.0, 2: 2.5, 3: 2.25}
ORDER = ("corpus", "pretrain", "sft", "eval")


class TinyRelease(Config):
    name: str = "tiny"
    stages: tuple[str, ...] = ORDER
    plan_only: str = ""


class TinyStage(Config):
    seed: int = 1


@pytest.mark.parametrize(
    ("text", "seeds"), [("7", (7,)), ("1:4", (1, 2, 3, 4)), ("5,1,2", (1, 2, 5)), ("0:1,9", (0, 1, 9)), ("3:3", (3,))]
)
def test_seeds_are_ranges_and_numbers(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "A:B with both ends"),
        ("1-4", "A:B with both ends"),
        ("-1", "A:B with both ends"),
        ("1,,2", "A:B with both ends"),
        ("4:1", "a range that is not empty"),
        ("1,2,1", "1 is named twice"),
        ("1:4,3:6", "3 is named twice"),
        ("1:10001", "at most 10,000"),
        ("9" * 16, "A:B with both ends"),
    ],
)
def test_wrong_seeds_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_seeds(text)


def test_the_stages_that_take_the_seeds_are_named_and_those_after_the_first_are_made_for_each():
    both = SeedOptions("1:2").sweep(ORDER, ORDER)
    assert both.overrides(7) == ("pretrain.seed=7", "sft.seed=7")
    assert both.split(ORDER) == (("corpus",), ("pretrain", "sft", "eval"))
    tuned = SeedOptions("1:2", ("sft",)).sweep(ORDER, ORDER)
    assert tuned.overrides(7) == ("sft.seed=7",)
    assert tuned.split(ORDER) == (("corpus", "pretrain"), ("sft", "eval"))
    assert [Sweep(seeds, ()).array() for seeds in ((4,), (1, 2, 3), (1, 2, 5))] == ["4", "1-3", "1,2,5"]


@pytest.mark.parametrize(
    ("seed_of", "order", "stages", "words"),
    [
        (("eval",), ORDER, ORDER, "--seed-of eval"),
        (("sft",), ("corpus", "pretrain"), ("corpus", "pretrain"), "--seed-of sft"),
        ((), ORDER, ("corpus",), "none of corpus takes"),
        (("sft",), ORDER, ("corpus", "pretrain"), "none of corpus, pretrain takes"),
    ],
)
def test_seeds_that_would_change_nothing_are_refused(seed_of, order, stages, words):
    with pytest.raises(ConfigError, match=words):
        SeedOptions("1:2", seed_of).sweep(order, stages)


@pytest.fixture
def ran(monkeypatch):
    """Replace the stages by ones that write what a sweep reads; returns what was made, in order."""
    made: list[tuple[str, int | None]] = []

    def run_one(stage, stage_configs, context, artifacts, tolerances=None):
        config = stage_configs.models[stage]

        def body(work):
            made.append((stage, context.seed))
            bits = {"bits_per_byte": BITS[config.seed].hex()} if stage in ("pretrain", "sft") else {}
            write_json(work / "run.json", {"heldout": {"last": {"loss": (9.0).hex(), **bits}}})
            score = {"model": "sft", "task": "openwright_cloze", "metric": "acc", "value": (0.25).hex()}
            write_json(work / "results.json", {"rows": [score], "recipe": recipe_of(config)})

        parents = [artifact.as_parent(name) for name, artifact in artifacts.items()]
        return run_stage(context, StageSpec(stage, (), ()), recipe_of(config), parents, body)

    monkeypatch.setattr(pipeline, "run_one", run_one)
    monkeypatch.setattr(pipeline, "_check_phases", lambda *_: None)
    monkeypatch.setattr(pipeline, "code_identity", lambda: CodeIdentity("c" * 40, False, "d" * 64))
    return made


@pytest.fixture
def config_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "_check_mixtures", lambda *_: None)
    monkeypatch.setattr(configs, "config_model", lambda stage: TinyRelease if stage == "release" else TinyStage)
    directory = tmp_path / "крошка"
    directory.mkdir()
    for stage in (*ORDER, "release"):
        (directory / f"{stage}.yaml").write_text("name: tiny\n" if stage == "release" else "seed: 1\n")
    return directory


def how(tmp_path, seeds="1:3", until=""):
    return (), tmp_path / "artifacts", until, SeedOptions(seeds)


def test_seeds_run_one_after_the_other_and_what_exists_is_found(config_dir, ran, tmp_path):
    run_sweep(config_dir, *how(tmp_path, "1:2", "sft"))
    assert ran == [("corpus", 1), ("pretrain", 1), ("sft", 1), ("pretrain", 2), ("sft", 2)]
    del ran[:]
    run_sweep(config_dir, *how(tmp_path, "1:3", "sft"))
    assert ran == [("pretrain", 3), ("sft", 3)]
    names = {path.name for path in (tmp_path / "artifacts" / "tiny").glob("last_run*")}
    assert names == {f"last_run-seed-{seed}.json" for seed in (1, 2, 3)}


def test_the_table_tells_what_the_seeds_reached_and_which_are_not_there(config_dir, ran, tmp_path):
    run_sweep(config_dir, *how(tmp_path))
    pipeline.run_directory(config_dir, ["pretrain.seed=4"], tmp_path / "artifacts", until="corpus")
    sweep = read_sweep(config_dir, *how(tmp_path, "1:4"))
    assert [row["state"] for row in sweep["shared"]] == ["finished"]
    states = {(row["seed"], row["stage"]): row["state"] for row in sweep["tasks"]}
    assert {state for (seed, _), state in states.items() if seed == 4} == {"not begun"}
    assert {state for (seed, _), state in states.items() if seed != 4} == {"finished"}
    bits = next(row for row in sweep["measures"] if row["measure"] == "pretrain held-out bits per byte")
    assert bits["values"] == {"1": 2.0, "2": 2.5, "3": 2.25}
    assert (bits["num_seeds"], bits["min"], bits["max"], bits["mean"]) == (3, 2.0, 2.5, 2.25)
    assert bits["standard_deviation"] == statistics.stdev(BITS.values()) == 0.25
    assert sweep["slurm"] == "not used"
    lines = "\n".join(sweep_lines(sweep))
    assert "2.5000 bits per byte" in lines
    assert "sft cloze acc" in lines
    alone = read_sweep(config_dir, *how(tmp_path, "2"))
    assert {row["standard_deviation"] for row in alone["measures"]} == {None}


def test_results_of_another_recipe_or_another_parent_are_not_taken_for_the_sweep(config_dir, ran, tmp_path):
    run_sweep(config_dir, *how(tmp_path, "1:2", "sft"))
    (config_dir / "sft.yaml").write_text("seed: 3\n")
    tuned = SeedOptions("1:2", ("pretrain",))
    sweep = read_sweep(config_dir, (), tmp_path / "artifacts", "sft", tuned)
    assert [row["state"] for row in sweep["tasks"]] == ["finished", "not begun"] * 2
    (config_dir / "corpus.yaml").write_text("seed: 2\n")
    pipeline.run_directory(config_dir, (), tmp_path / "artifacts", until="corpus")
    sweep = read_sweep(config_dir, *how(tmp_path, "1:2", "sft"))
    assert {row["state"] for row in sweep["tasks"]} == {"not begun"}


def test_slurm_tells_what_waits_from_what_failed(config_dir, ran, tmp_path, monkeypatch):
    run_sweep(config_dir, *how(tmp_path, "1", "sft"))
    directory, programs = tmp_path / "artifacts" / "tiny" / "slurm", tmp_path / "bin"
    directory.mkdir()
    record = {"seeds": [1, 2, 3], "seed_of": ["pretrain", "sft"], "overrides": [], "jobs": {}}
    for number, stage in enumerate(ORDER[:3], start=11):
        record["jobs"][stage] = {"job_id": str(number), "is_array": stage != "corpus"}
    old = {**record, "jobs": {stage: {**job, "job_id": "5"} for stage, job in record["jobs"].items()}}
    (directory / SWEEPS_NAME).write_text(json.dumps(old) + "\n" + json.dumps(record) + "\n")
    programs.mkdir()
    monkeypatch.setenv("PATH", os.fspath(programs), prepend=os.pathsep)

    def states(squeue):
        (programs / "squeue").write_text(f"#!/bin/bash\n{squeue}\n")
        (programs / "squeue").chmod(0o755)
        sweep = read_sweep(config_dir, *how(tmp_path, "1:3", "sft"))
        return sweep, [row["state"] for row in sweep["tasks"]]

    sweep, found = states('echo "12 2 RUNNING"; echo "13 2 PENDING"; echo "11 N/A COMPLETING"; echo "5 3 RUNNING"')
    assert found == ["finished", "finished", "running", "pending", "failed", "not run"]
    assert sweep["tasks"][4]["log"] == f"{directory}/pretrain-12-seed-3.log"
    assert f"seed 3: pretrain failed; log {directory}/pretrain-12-seed-3.log" in sweep_lines(sweep)
    sweep, found = states("exit 1")
    assert found == ["finished", "finished", *["not begun"] * 4]
    assert any("squeue does not answer" in line for line in sweep_lines(sweep))


@pytest.mark.parametrize(
    "arguments",
    [["--sweep", "x"], ["--seeds", "1:2"], ["--sweep", "x", "--seeds", "1:2", "--follow"], ["--set", "a=1"]],
)
def test_options_of_status_that_do_not_go_together_are_refused(arguments, capsys):
    assert cli.invoke(["status", *arguments]) == 2
    assert "do not go together" in capsys.readouterr().err


def test_stages_for_seeds_need_seeds(capsys):
    assert cli.invoke(["run", "x", "--seed-of", "sft"]) == 2
    assert "--seed-of without --seeds" in capsys.readouterr().err
