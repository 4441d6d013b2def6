"""Replays of an honest bundle, and of forged ones whose ledgers were chained anew by code of the test's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import forge
import pytest

from data_recipes.order import Order
from provenance.errors import BundleError, ConfigError
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.replay_segments import resumable_checkpoints
from release.reproduce import reproduce

WINDOW_TOKENS = 32


@pytest.fixture
def forged(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the honest bundle, to be changed."""
    shutil.copytree(bundle, tmp_path / "forged")
    return tmp_path / "forged"


def replay(bundle: Path, first: int, last: int) -> Any:
    (result,) = reproduce(bundle, steps=(first, last), num_processes=1)
    return result


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_an_honest_segment_replays_at_every_number_of_processes(bundle: Path, num_processes: int) -> None:
    (result,) = reproduce(bundle, steps=(4, 6), num_processes=num_processes)
    assert (result.check, result.verdict) == ("replay", "PASS")
    assert "bitwise: 3 steps" in result.detail


def test_random_segments_name_their_seed_and_what_they_leave_open(bundle: Path) -> None:
    (result,) = reproduce(bundle, segments=1, seed=5, stage="sft")
    assert result.verdict == "PASS"
    assert "drawn with seed 5: 1 of 2 segments" in result.detail
    assert "missed with chance 0.50" in result.detail


def test_a_loss_changed_in_its_last_bit_and_chained_anew_fails(forged: Path) -> None:
    def edit(records: list[dict[str, Any]]) -> None:
        record = next(r for r in records if r["kind"] == "step" and r["step"] == 5)
        record["loss"] = forge.next_float(record["loss"])

    forge.edit_ledger(forged, "pretrain", edit)
    result = replay(forged, 4, 6)
    assert result.verdict == "FAIL"
    assert "first difference at step 5" in result.detail
    assert "numerics; loss" in result.detail
    assert "tensors of the checkpoint at step 6 come out bit for bit" in result.detail


@pytest.mark.usefixtures("replaying_here")
def test_a_swapped_checkpoint_fails_at_its_state_digest(forged: Path) -> None:
    three, six = (forged / "model/checkpoints/pretrain" / f"step-0000000{step}" for step in (3, 6))
    for name in ("model.safetensors", "optimizer.safetensors"):
        held = (three / name).read_bytes()
        (three / name).write_bytes((six / name).read_bytes())
        (six / name).write_bytes(held)
    result = replay(forged, 4, 5)
    assert result.verdict == "FAIL"
    assert "state digest" in result.detail


@pytest.mark.usefixtures("replaying_here")
def test_a_fabricated_chain_of_checkpoints_fails_at_the_first_replayed_step(forged: Path) -> None:
    """The later state is passed off as the earlier one, in the checkpoint and in the ledger alike."""
    three, six = (forged / "model/checkpoints/pretrain" / f"step-0000000{step}" for step in (3, 6))
    for name in ("model.safetensors", "optimizer.safetensors"):
        shutil.copyfile(six / name, three / name)
    later = json.loads((six / "checkpoint.json").read_text())
    digests = {key: later[key] for key in ("weights_digest", "state_digest")}
    path = three / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **digests}))

    def edit(records: list[dict[str, Any]]) -> None:
        next(r for r in records if r["kind"] == "checkpoint" and r["step"] == 3).update(digests)

    forge.edit_ledger(forged, "pretrain", edit)
    result = replay(forged, 4, 6)
    assert result.verdict == "FAIL"
    assert "first difference at step 4" in result.detail
    assert "numerics" in result.detail
    assert "first differing tensor at step 6: " in result.detail
    assert " elements differ" in result.detail


@pytest.mark.usefixtures("replaying_here")
def test_one_changed_token_fails_as_data(forged: Path) -> None:
    with (forged / "model" / "training" / "pretrain" / "ledger.jsonl").open() as ledger:
        start = json.loads(ledger.readline())
    order = Order.from_json({key: v for key, v in start["order"].items() if key not in ("split", "window_tokens")})
    draw = order.step_draws(5)[0]
    tokens = json.loads((forged / "dataset" / "tokens" / "tokens.json").read_text())
    shards = tokens["splits"]["train"]["sources"][draw.source]["shards"]
    assert len(shards) == 1
    path = forged / "dataset" / shards[0]["files"]["tokens"]["path"]
    data = bytearray(path.read_bytes())
    data[2 * (draw.window * WINDOW_TOKENS + 3)] ^= 1
    path.write_bytes(data)
    result = replay(forged, 5, 5)
    assert result.verdict == "FAIL"
    assert "data" in result.detail
    assert "token_digest" in result.detail


@pytest.mark.usefixtures("replaying_here")
def test_another_learning_rate_in_the_recipe_fails_as_config(forged: Path) -> None:
    path = forged / "model" / "training" / "pretrain" / "recipe.json"
    values = json.loads(path.read_text())
    values["optimizer"]["peak_learning_rate"] = (0.01 * 1.0001).hex()
    path.write_text(json.dumps(values))
    result = replay(forged, 4, 5)
    assert result.verdict == "FAIL"
    assert "config; " in result.detail
    assert "learning_rate" in result.detail


def test_what_cannot_be_replayed_is_refused(bundle: Path, forged: Path) -> None:
    assert sorted(resumable_checkpoints(bundle, "pretrain")) == [0, 3, 6]
    with pytest.raises(ConfigError, match="within 1:6"):
        reproduce(bundle, steps=(1, 7))
    with pytest.raises(ConfigError, match="--stage dpo"):
        reproduce(bundle, stage="dpo")
    for num_processes in (3, 8):  # 4 logical replicas: the bundle is not to blame, so nothing runs and nothing FAILs
        with pytest.raises(ConfigError, match="4 logical replicas: 1, 2, 4"):
            reproduce(bundle, steps=(4, 6), num_processes=num_processes)
        with pytest.raises(ConfigError, match=f"--processes {num_processes}"):
            plan_rebuild(bundle, forged.parent / "work", RebuildOptions(num_processes=num_processes))
    shutil.rmtree(forged / "dataset")
    with pytest.raises(BundleError, match="tokens"):
        reproduce(forged)
