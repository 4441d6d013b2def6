"""`openwright branch` on runs that it cannot read, and config directories that are none: refused in words."""

import json
from pathlib import Path

import pytest

from openwright import cli
from provenance.ledger import ChainWriter

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
ORDER = {
    "version": "order/1",
    "tokens_digest": "0" * 64,
    "seed": 1,
    "sources": [{"name": "alpha", "num_windows": 8}],
    "phases": [{"num_steps": 2, "sequences_per_step": 2, "counts": [4]}],
}


def write_run(run: Path, *records: object, recipe: object = None) -> Path:
    run.mkdir()
    writer = ChainWriter(run / "ledger.jsonl")
    for record in records:
        writer.append(record)  # type: ignore[arg-type]
    writer.close()
    (run / "recipe.json").write_text(json.dumps(recipe))
    return run


def branched(run: Path, config_dir: Path, target: Path) -> int:
    return cli.invoke(["branch", str(run), "--at", "1", "--config", str(config_dir), "--to", str(target)])


@pytest.mark.parametrize(
    "records",
    [
        (),
        ({"x": 1},),
        ({"kind": "start", "stage": "average", "order": ORDER},),
        ({"kind": "start", "stage": "pretrain"},),
        ({"kind": "start", "stage": ["pretrain"], "order": ORDER},),
    ],
)
def test_a_ledger_that_begins_with_no_training_run(tmp_path, capsys, records):
    assert branched(write_run(tmp_path / "run", *records), QUICKSTART, tmp_path / "to") == 1
    told = capsys.readouterr().err
    assert "ledger.jsonl: the ledger does not begin with the start of a training run" in told
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("recipe", [{}, [], {"seed": 1, "phases": "many"}, {"unheard_of": 1}])
def test_a_recipe_that_this_version_does_not_read(tmp_path, capsys, recipe):
    run = write_run(tmp_path / "run", {"kind": "start", "stage": "pretrain", "order": ORDER}, recipe=recipe)
    assert branched(run, QUICKSTART, tmp_path / "to") == 1
    told = capsys.readouterr().err
    assert "recipe.json: field " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("verb", ["branch", "plan", "run"])
def test_the_directory_above_config_directories_is_told_from_one(tmp_path, capsys, verb):
    run = write_run(tmp_path / "run", {"kind": "start", "stage": "pretrain", "order": ORDER})
    above = tmp_path / "configs"
    (above / "mine").mkdir(parents=True)
    (above / "mine" / "release.yaml").write_text("name: mine\n")
    code = branched(run, above, tmp_path / "to") if verb == "branch" else cli.invoke([verb, str(above)])
    told = capsys.readouterr().err
    assert code == 2
    assert "configs: no release.yaml" in told
    assert "below it is mine" in told
    assert f"next: the same command with {above / 'mine'}" in told
