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

from release.verify import CheckResult, read_chain, verify_bundle

Record = dict[str, Any]
Forgery = Callable[[Path], None]


def results_of(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_bundle(bundle, tokens="all")}


@pytest.mark.parametrize("name", RUNS)
def test_an_honest_run_of_every_form_passes(name: str, bundle_of: Callable[[str], Path]) -> None:
    verdicts = {check: result.verdict for check, result in results_of(bundle_of(name)).items()}
    open_ones = {"identity", "pretrain branch"} if name in ("branch", "without") else {"identity"}
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


def in_order(edit: Callable[[Record], object]) -> Forgery:
    return in_ledger(lambda records: edit(records[0]["order"]))


def swap_pools(one: int, other: int) -> Forgery:
    """Swap pools of the order, and the counts of its phases with them."""

    def edit(order: Record) -> None:
        for entries in (order["sources"], *(phase["counts"] for phase in order["phases"])):
            entries[one], entries[other] = entries[other], entries[one]

    return in_order(edit)


def lengthen_in_the_recipe(bundle: Path) -> None:
    forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["phases"][1].update(window_tokens=48))


def longer_windows_first(order: Record) -> None:
    for entries in (order["sources"], *(phase["counts"] for phase in order["phases"])):
        entries[:] = [*entries[2:], *entries[:2]]


def shorten_every_window(bundle: Path) -> None:
    """Say in recipe and ledger that all phases read windows of the usual length, as an `order/1`."""

    def edit(order: Record) -> None:
        order.pop("first_step")
        order.update(version="order/1", sources=order["sources"][:2])
        for source in order["sources"]:
            del source["window_tokens"], source["draws_before"]
        for phase in order["phases"]:
            del phase["window_tokens"]
            phase["counts"] = [sum(phase["counts"][m::2]) for m in (0, 1)]

    forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["phases"][1].pop("window_tokens"))
    in_order(edit)(bundle)


def call_it_order_2(order: Record) -> None:
    order.update(version="order/2", first_step=1)
    for source in order["sources"]:
        source.update(window_tokens=order["window_tokens"], draws_before=0)
    for phase in order["phases"]:
        phase["window_tokens"] = order["window_tokens"]


def move_draws_before(bundle: Path) -> None:
    """Say in recipe and ledger that one window less of the first source was read before, and one more of the other."""

    def edit(recipe: Record) -> None:
        pools = recipe["branch"]["draws_before"]["pools"]
        pools[0]["num_draws"], pools[1]["num_draws"] = pools[0]["num_draws"] - 1, pools[1]["num_draws"] + 1

    forge.edit_recipe(bundle, "pretrain", edit)
    in_order(lambda order: order["sources"][0].update(draws_before=order["sources"][0]["draws_before"] - 1))(bundle)
    in_order(lambda order: order["sources"][1].update(draws_before=order["sources"][1]["draws_before"] + 1))(bundle)


def without_draws_in_the_recipe(bundle: Path) -> None:
    forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["branch"].pop("draws_before"))


def begin_the_order_later(order: Record) -> None:
    first = order["phases"][0]
    order["first_step"] += 1
    first["num_steps"] -= 1
    first["counts"][0] -= 2


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
    # orders with pools, and orders that begin later
    (
        "longer windows said short",
        "longer",
        in_order(lambda o: o["phases"][1].update(window_tokens=16)),
        "ledger",
        "len",
    ),
    ("the same in the recipe", "longer", shorten_every_window, "order", "order_digest of step 5"),
    ("another length in the recipe only", "longer", lengthen_in_the_recipe, "recipe", "that the order lacks"),
    (
        "short pools said long",
        "longer",
        in_order(lambda o: o["sources"][0].update(window_tokens=8)),
        "ledger",
        "length",
    ),
    ("swapped sources", "longer", swap_pools(0, 1), "windows", "window counts"),
    ("swapped pools of a source", "longer", swap_pools(0, 2), "windows", "window counts"),
    ("longer windows first", "longer", in_order(longer_windows_first), "recipe", "window lengths"),
    ("a pool twice", "longer", in_order(lambda o: o["sources"][1].update(name="alpha")), "ledger", "stands twice"),
    ("order/2 said order/1", "longer", in_order(lambda o: o.update(version="order/1")), "ledger", "unknown fields"),
    ("order/1 said order/2", "plain", in_order(call_it_order_2), "recipe", "order is order/1 in the recipe"),
    ("draws before step 1", "longer", in_order(lambda o: o["sources"][0].update(draws_before=1)), "ledger", "step 1"),
    (
        "draws before added",
        "without",
        in_order(lambda o: o["sources"][0].update(draws_before=5)),
        "recipe",
        "draws_before",
    ),
    (
        "draws before denied",
        "without",
        in_order(lambda o: o["sources"][1].update(draws_before=0)),
        "recipe",
        "draws_bef",
    ),
    ("the same in the recipe, too", "without", move_draws_before, "order", "order_digest of step 5"),
    ("draws before in the ledger only", "without", without_draws_in_the_recipe, "recipe", "draws_before"),
    ("an order that begins later", "without", in_order(begin_the_order_later), "ledger", "begins after its first step"),
    ("an order that begins earlier", "without", in_order(lambda o: o.update(first_step=4)), "ledger", "out of place"),
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
    asked: list[str] = []
    monkeypatch.setattr("release.verify.read_chain", lambda tree, path: asked.append(path) or read_chain(tree, path))
    results = {r.name: r for r in verify_bundle(bundle_of("skips"), rng_seed=1)}
    assert results["pretrain tokens"].verdict == results["pretrain order"].verdict == "PASS"
    assert "2 of 4 steps drawn at random (--seed 1; a single wrong step is missed" in results["pretrain tokens"].detail
    assert "3 of 4 steps" in results["pretrain order"].detail
    ledgers = [path for path in asked if path.endswith("ledger.jsonl")]
    assert sorted(ledgers) == sorted(set(ledgers)), "a ledger is read once, and its sampled steps by their places"
