"""Bundles whose order a file gives (`order/3`): both checks pass on an honest one and were seen to catch forgeries."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pytest

from data_recipes.order_file import read_order
from openwright.forgetting import make_receipt, make_tombstones
from openwright.inspection import Readings
from openwright.known_runs import known_runs
from provenance.canonical import read_json
from provenance.errors import BundleError
from provenance.ledger import read_chain
from release.checks import check_order, verify_release
from release.rebuild_plan import RebuildOptions, plan_rebuild
from release.recorded_inputs import changed_tokens
from release.replay_segments import segment_of_steps
from release.replay_tokens import tokens_not_here
from release.verify import CheckResult, Mismatch, Order, Unverifiable, fit, verify_bundle

RUN = Path("model/training/pretrain")
Record = dict[str, Any]


def results_of(bundle: Path) -> dict[str, CheckResult]:
    return {result.name: result for result in verify_bundle(bundle, tokens="all")}


def numbers_of(bundle: Path) -> list[int]:
    data = (bundle / RUN / "order.bin").read_bytes()
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def put(bundle: Path, numbers: list[int], *, pin: bool) -> None:
    """Write another file of numbers, pinned anew in ledger and recipe or not."""
    data = struct.pack(f"<{len(numbers)}I", *numbers)
    (bundle / RUN / "order.bin").write_bytes(data)
    if pin:
        digest = hashlib.sha256(data).hexdigest()
        forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["data"]["order"].update(sha256=digest))
        forge.edit_ledger(bundle, "pretrain", lambda records: records[0]["order"]["file"].update(sha256=digest))


def swapped(bundle: Path) -> list[int]:
    """The numbers with the first of two steps in each other's place, both of one source."""
    numbers = numbers_of(bundle)
    numbers[0], numbers[2] = numbers[2], numbers[0]
    return numbers


def rewrite_order_digests(bundle: Path) -> None:
    numbers = numbers_of(bundle)

    def edit(records: list[Record]) -> None:
        for record in records:
            if record["kind"] == "step":
                ids = numbers[2 * record["step"] - 2 : 2 * record["step"]]
                record["order_digest"] = hashlib.sha256(struct.pack("<2Q", *ids)).hexdigest()

    forge.edit_ledger(bundle, "pretrain", edit)


def in_recipe(edit: Callable[[Record], None]) -> Callable[[Path], None]:
    return lambda bundle: forge.edit_recipe(bundle, "pretrain", lambda recipe: edit(recipe["data"]))


def forge_digests_too(bundle: Path) -> None:
    put(bundle, swapped(bundle), pin=True)
    rewrite_order_digests(bundle)


FORGERIES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("another file", lambda b: put(b, swapped(b), pin=False), "order", "not the file that the ledger names"),
    ("the same pinned", lambda b: put(b, swapped(b), pin=True), "order", "order_digest of step 1 does not follow"),
    ("order digests too", forge_digests_too, "tokens", "token_digest of step 1 does not follow"),
    ("a window beyond", lambda b: put(b, [*numbers_of(b), 10**6], pin=True), "order", "none of the"),
    ("a step without numbers", lambda b: put(b, numbers_of(b)[:10], pin=True), "order", "expected 12 numbers"),
    ("no file", lambda b: (b / RUN / "order.bin").unlink(), "order", "missing"),
    ("pinned by nothing", in_recipe(lambda d: d.update(order=None)), "recipe", "order is order/1 in the recipe"),
]


@pytest.mark.parametrize(
    ("forgery", "check", "told"), [row[1:] for row in FORGERIES], ids=[row[0] for row in FORGERIES]
)
def test_a_forged_file_fails(
    forgery: Callable[[Path], object], check: str, told: str, copy_of: Callable[[str], Path]
) -> None:
    bundle = copy_of("by file")
    forgery(bundle)
    forge.reseal(bundle)
    result = results_of(bundle)[f"pretrain {check}"]
    assert result.verdict == "FAIL"
    assert told in result.detail


def test_an_order_of_another_form_is_refused(bundle_of: Callable[[str], Path]) -> None:
    stated = next(read_chain(bundle_of("by file") / RUN / "ledger.jsonl"))["order"]
    assert Order(stated, "ledger").num_steps == 6
    for changes in ({"file": {**stated["file"], "dtype": "i32"}}, {"first_step": 1}, {"file": None}):
        with pytest.raises(Mismatch):
            Order({**stated, **changes}, "ledger")
    with pytest.raises(Unverifiable, match="not here"):
        Order(stated, "ledger").step_windows(1)
    with pytest.raises(Mismatch, match="object"):
        fit("order.bin", "pinned", "recipe", "order")


def test_the_checks_with_libraries_pass_and_numpy_sees_a_forged_file_too(
    bundle_of: Callable[[str], Path], copy_of: Callable[[str], Path]
) -> None:
    results = {result.name: result for result in verify_release(bundle_of("by file"), expect=None, tokens="none")}
    assert "FAIL" not in {result.verdict for result in results.values()}
    assert results["order by numpy"].verdict == "PASS"
    bundle = copy_of("by file")
    numbers = swapped(bundle)
    put(bundle, numbers, pin=False)
    assert changed_tokens(bundle, "pretrain") == ["order.bin is not the file that the ledger names"]
    put(bundle, numbers, pin=True)
    assert changed_tokens(bundle, "pretrain") == []
    assert check_order(bundle).detail == "step 1 of pretrain has another order than order.bin gives"


def test_steps_documents_and_receipts_follow_from_the_file(bundle_of: Callable[[str], Path]) -> None:
    bundle = bundle_of("by file")
    readings, numbers = Readings(bundle), numbers_of(bundle)
    order = read_order(next(read_chain(bundle / RUN / "ledger.jsonl"))["order"], bundle / RUN)
    read: dict[str, set[int]] = {}
    for step in range(1, 7):
        windows = readings.step(step)
        ids = [order.window_offsets[[s.name for s in order.sources].index(w["source"])] + w["window"] for w in windows]
        assert ids == numbers[2 * step - 2 : 2 * step]
        for document in (document for window in windows for document in window["documents"]):
            read.setdefault(document["document_id"], set()).add(step)
    assert len(read) > 3
    for document_id, steps in read.items():
        assert readings.document(document_id)["steps"] == sorted(steps)
    runs = known_runs([bundle])
    document_id = min(read)
    stones = make_tombstones(runs, [document_id], "2026-11-26", "asked", with_duplicates=False)
    (entry,) = make_receipt(runs, stones)["documents"]
    assert entry["readings"][0]["steps"] == sorted(read[document_id])
    assert tokens_not_here(bundle, segment_of_steps(bundle, "pretrain", 1, 2)) == ""


def test_a_rebuild_finds_the_file_of_the_bundle(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = copy_of("by file")
    config = bundle / "model" / "code" / "configs" / "tiny" / "release.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("name: tiny\n")
    plan = plan_rebuild(bundle, tmp_path / "work", RebuildOptions())
    place = tmp_path / "work" / "orders" / "pretrain"
    assert f'pretrain.execution.data_dir="{place}"' in plan.overrides
    assert not any(override.startswith("sft.execution.data_dir") for override in plan.overrides)
    assert (place / "orders" / "backwards.bin").read_bytes() == (bundle / RUN / "order.bin").read_bytes()
    forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe["data"]["order"].update(path="../../outside"))
    with pytest.raises(BundleError, match="outside"):
        plan_rebuild(bundle, tmp_path / "work", RebuildOptions())


def test_the_card_says_that_a_file_gives_the_order(bundle_of: Callable[[str], Path]) -> None:
    cards = {name: (bundle_of(name) / "model" / "README.md").read_text() for name in ("plain", "by file")}
    assert "| Seed of the order | 1 |\n" in cards["plain"]
    assert "| Order | given by `training/pretrain/order.bin`, sha256 `" in cards["by file"]
    assert cards["by file"].count("Seed of the order") == cards["plain"].count("Seed of the order") - 1


def test_the_file_stands_against_no_rule_of_openness(bundle_of: Callable[[str], Path]) -> None:
    profiles = [
        read_json(bundle_of(name) / "model" / "openness" / "verdict.json")["profiles"] for name in ("plain", "by file")
    ]
    assert [p["counts"] for p in profiles[0]] == [p["counts"] for p in profiles[1]]
