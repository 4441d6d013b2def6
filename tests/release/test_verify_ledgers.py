"""The standalone verifier on ledgers of every form: honest ones pass, and each rule was seen to catch its forgery."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest
from conftest import RUNS
from fake_runs import PARENT_HEAD, state_digest
from safetensors.torch import load_file, save_file

from release.verify import CheckResult, verify_bundle

Record = dict[str, Any]
Forgery = Callable[[Path], None]


def results_of(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_bundle(bundle, tokens="all")}


@pytest.mark.parametrize("name", RUNS)
def test_an_honest_run_of_every_form_passes(name: str, bundle_of: Callable[[str], Path]) -> None:
    verdicts = {check: result.verdict for check, result in results_of(bundle_of(name)).items()}
    open_ones = {"identity", "pretrain branch"} if name == "branch" else {"identity"}
    assert {check for check, verdict in verdicts.items() if verdict != "PASS"} == open_ones
    assert "FAIL" not in verdicts.values()


def test_what_came_before_a_branch_is_unverified_and_the_parent_is_named(bundle_of: Callable[[str], Path]) -> None:
    result = results_of(bundle_of("branch"))["pretrain branch"]
    assert (result.check, result.verdict) == ("records", "UNVERIFIED")
    assert PARENT_HEAD in result.detail
    assert "steps 1 to 2" in result.detail


def test_what_is_left_out_and_what_is_removed_is_said(bundle_of: Callable[[str], Path]) -> None:
    skips, retained = results_of(bundle_of("skips")), results_of(bundle_of("retained"))
    assert "steps 1 to 9 without 2 to 3, 4 to 4, 7 to 8" in skips["pretrain ledger"].detail
    assert "all 4 steps" in skips["pretrain tokens"].detail
    assert "1 older ones were removed" in retained["pretrain checkpoints"].detail


# ---- forgeries, resealed --------------------------------------------------------------------------------------------


def in_ledger(edit: Callable[[list[Record]], object]) -> Forgery:
    def forgery(bundle: Path) -> None:
        def edit_records(records: list[Record]) -> None:
            edit(records)

        forge.edit_ledger(bundle, "pretrain", edit_records)

    return forgery


def in_recipe(**changes: Any) -> Forgery:
    return lambda bundle: forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe.update(changes))


def in_checkpoints(**changes: Any) -> Forgery:
    return lambda bundle: forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["checkpoints"].update(changes))


def in_router(**changes: Any) -> Forgery:
    return in_ledger(lambda records: of(records, "step", 1)["router"]["layers"][0].update(changes))


def of(records: list[Record], kind: str, step: int) -> Record:
    """The record of a kind at a step; for `skip` the one that begins there."""
    return next(r for r in records if r["kind"] == kind and step in (r.get("step"), r.get("first")))


def drop(kind: str, step: int) -> Forgery:
    return in_ledger(lambda records: records.remove(of(records, kind, step)))


def put_after(kind: str, step: int, record: Record) -> Forgery:
    return in_ledger(lambda records: records.insert(records.index(of(records, kind, step)) + 1, record))


def swap_skip_with_the_checkpoint_before(records: list[Record]) -> None:
    place = records.index(of(records, "skip", 2))
    records[place - 1], records[place] = records[place], records[place - 1]


def without_record_and_files(step: int) -> Forgery:
    def forgery(bundle: Path) -> None:
        remove(step)(bundle)
        drop("checkpoint", step)(bundle)

    return forgery


def remove(step: int) -> Forgery:
    return lambda bundle: shutil.rmtree(forge.checkpoint(bundle, "pretrain", step))


def demote(step: int) -> Forgery:
    return lambda bundle: forge.demote_checkpoint(bundle, "pretrain", step)


def demote_in_the_ledger_too(step: int) -> Forgery:
    def forgery(bundle: Path) -> None:
        demote(step)(bundle)
        weights = {"checkpoint_kind": "weights", "state_digest": None}
        in_ledger(lambda records: of(records, "checkpoint", step).update(weights))(bundle)

    return forgery


def demote_with_a_state(bundle: Path) -> None:
    path = forge.checkpoint(bundle, "pretrain", 2) / "checkpoint.json"
    forge.write(path, {**forge.read(path), "state_digest": "0" * 64})


def edit_optimizer(edit: Callable[[dict[str, Any]], object]) -> Forgery:
    """Edit the optimizer's tensors at step 2 and make every digest of that state agree."""

    def forgery(bundle: Path) -> None:
        folder = forge.checkpoint(bundle, "pretrain", 2)
        optimizer = load_file(folder / "optimizer.safetensors")
        edit(optimizer)
        save_file(optimizer, folder / "optimizer.safetensors")
        digest = state_digest({**load_file(folder / "model.safetensors"), **optimizer})
        forge.write(folder / "checkpoint.json", {**forge.read(folder / "checkpoint.json"), "state_digest": digest})
        in_ledger(lambda records: of(records, "checkpoint", 2).update(state_digest=digest))(bundle)

    return forgery


def rename_moment(optimizer: dict[str, Any]) -> None:
    optimizer["model.norm.weight.exp_average"] = optimizer.pop("model.norm.weight.exp_avg")


def misplace_a_tensor(bundle: Path) -> None:
    path = forge.checkpoint(bundle, "pretrain", 2) / "optimizer.safetensors.index.json"
    index = forge.read(path)
    name = min(index["weight_map"])
    index["weight_map"][name] = "optimizer-00002-of-00002.safetensors"
    forge.write(path, index)


EVALUATION = {"kind": "evaluation", "split": "heldout", "num_tokens": 1, "num_bytes": 1}
SCORES = {"loss": "0x1.0000000000000p+0", "bits_per_byte": "0x1.0000000000000p+0"}
FORGERIES: list[tuple[str, str, Forgery, str, str]] = [
    # what the ledger promises
    ("reduction of another recipe", "plain", in_ledger(lambda r: r[0].update(reduction="native")), "recipe", "reduc"),
    ("unknown reduction", "plain", in_ledger(lambda r: r[0].update(reduction="fast")), "ledger", "exact|native"),
    ("no reduction", "plain", in_ledger(lambda r: r[0].pop("reduction")), "ledger", "reduction"),
    # stretches that are left out
    ("skip not ordered", "skips", in_recipe(skip_steps=[[2, 3], [4, 4]]), "recipe", "skip_steps"),
    ("skips merged", "skips", in_recipe(skip_steps=[[2, 4], [7, 8]]), "recipe", "skip_steps"),
    ("ordered skip missing", "plain", in_recipe(skip_steps=[[2, 2]]), "recipe", "skip_steps"),
    ("malformed skip_steps", "plain", in_recipe(skip_steps=[[2, "3"]]), "recipe", "skip_steps"),
    ("skip record dropped", "skips", drop("skip", 2), "ledger", "left out"),
    ("skip shortened", "skips", in_ledger(lambda r: of(r, "skip", 7).update(last=7)), "ledger", "out of place"),
    ("skip to the end", "skips", in_ledger(lambda r: of(r, "skip", 7).update(last=9)), "ledger", "left out"),
    ("skip backwards", "skips", in_ledger(lambda r: of(r, "skip", 7).update(last=6)), "ledger", "left out"),
    ("skip too early", "skips", in_ledger(swap_skip_with_the_checkpoint_before), "ledger", "out of place"),
    (
        "evaluation of a step left out",
        "skips",
        put_after("skip", 2, {**EVALUATION, **SCORES, "step": 3}),
        "ledger",
        "out of place",
    ),
    # branches
    (
        "another state",
        "branch",
        in_ledger(lambda r: r[0]["branch"].update(state_digest="1" * 64)),
        "ledger",
        "branch begins",
    ),
    ("no first checkpoint", "branch", drop("checkpoint", 2), "ledger", "no checkpoint record for step 2"),
    (
        "evaluation before the branch",
        "branch",
        in_ledger(lambda r: r.insert(1, {**EVALUATION, **SCORES, "step": 2})),
        "ledger",
        "out of place",
    ),
    ("another parent", "branch", in_ledger(lambda r: r[0]["branch"].update(ledger_head="d" * 64)), "recipe", "branch"),
    ("branch from elsewhere", "branch", in_ledger(lambda r: r[0]["branch"].update(step=1)), "ledger", "out of place"),
    ("branch denied", "branch", in_ledger(lambda r: r[0].pop("branch")), "ledger", "out of place"),
    ("branch without head", "branch", in_ledger(lambda r: r[0]["branch"].pop("ledger_head")), "ledger", "ledger_head"),
    ("first state removed", "branch", remove(2), "checkpoints", "step 2"),
    # routers
    ("loads above the total", "experts", in_router(smallest_load=10**6), "ledger", "loads"),
    ("loads below the total", "experts", in_router(largest_load=1), "ledger", "loads"),
    ("negative load", "experts", in_router(smallest_load=-1), "ledger", "smallest_load"),
    ("load as text", "experts", in_router(num_choices="9"), "ledger", "num_choices"),
    ("unknown router field", "experts", in_router(mean=1), "ledger", "mean"),
    (
        "no digest of counts",
        "experts",
        in_ledger(lambda r: of(r, "step", 2)["router"].update(counts_sha256="x")),
        "ledger",
        "sha256",
    ),
    # checkpoints: what was made, and what is kept
    ("checkpoint never recorded", "plain", without_record_and_files(3), "schedule", "step 3 has no checkpoint"),
    ("full one made a weights one", "plain", demote_in_the_ledger_too(2), "schedule", "orders full"),
    ("schedule changed", "plain", in_checkpoints(weights_every_steps=0, weights_until_step=0), "schedule", "step 1"),
    ("held-out loss dropped", "plain", drop("evaluation", 3), "schedule", "held-out loss of step 3"),
    ("published one never made", "plain", in_checkpoints(published_full_steps=[3]), "schedule", "published_full_steps"),
    ("weights removed", "plain", remove(1), "checkpoints", "step 1"),
    ("first weights removed", "retained", remove(0), "checkpoints", "step 0"),
    ("full one removed", "plain", remove(2), "checkpoints", "step 2"),
    ("full one demoted", "plain", demote(2), "checkpoints", "weights is kept, expected full"),
    ("published one removed", "retained", remove(4), "checkpoints", "step 4"),
    ("published one demoted", "retained", demote(4), "checkpoints", "step 4"),
    ("newest one removed", "retained", remove(8), "checkpoints", "step 8"),
    ("last one demoted", "retained", demote(10), "checkpoints", "step 10"),
    ("due weights removed", "retained", remove(2), "checkpoints", "nothing is kept, expected full or weights"),
    ("weights that are not due", "roomy", demote(6), "checkpoints", "weights is kept, expected full or nothing"),
    ("demoted with a state", "retained", demote_with_a_state, "checkpoints", "does not say"),
    # optimizers and files
    ("no step count", "plain", edit_optimizer(lambda o: o.pop("optimizer.step")), "checkpoints", "optimizer.step"),
    ("unknown state", "plain", edit_optimizer(rename_moment), "checkpoints", "exp_average"),
    ("tensor not where it belongs", "experts", misplace_a_tensor, "checkpoints", "not where the index says"),
]


@pytest.mark.parametrize(
    ("run", "forgery", "check", "detail"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES]
)
def test_a_forgery_is_caught_by_its_check(
    copy_of: Callable[[str], Path], run: str, forgery: Forgery, check: str, detail: str
) -> None:
    bundle = copy_of(run)
    forgery(bundle)
    forge.reseal(bundle)
    results = results_of(bundle)
    assert not [r for r in results.values() if r.check == "bytes" and r.verdict == "FAIL"], "resealed: bytes agree"
    assert results[f"pretrain {check}"].verdict == "FAIL"
    assert detail in results[f"pretrain {check}"].detail


def test_the_forgers_tool_changes_nothing_by_itself(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("branch")
    before = json.loads((bundle / "model" / "manifest.json").read_text())
    in_recipe()(bundle)
    forge.reseal(bundle)
    assert forge.read(bundle / "model" / "manifest.json") == before


def test_a_sample_of_a_ledger_with_stretches_left_out_draws_recorded_steps(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.verify.NUM_TOKEN_STEPS", 2)
    monkeypatch.setattr("release.verify.MAX_ORDER_STEPS", 3)
    results = {r.name: r for r in verify_bundle(bundle_of("skips"), rng_seed=1)}
    assert results["pretrain tokens"].verdict == results["pretrain order"].verdict == "PASS"
    assert "2 of 4 steps drawn at random (--seed 1; a single wrong step is missed" in results["pretrain tokens"].detail
    assert "3 of 4 steps" in results["pretrain order"].detail
