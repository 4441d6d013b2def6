"""Bundles whose order is an `order/2`: what libraries check of them, what documents and look-ups say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_runs import WINDOW

from data_recipes.tombstones import Tombstone, write_tombstones
from openwright.inspection import Readings, document_lines
from provenance.errors import DataError
from release.checks import verify_release
from release.facts import read_ledger

LEDGER = "model/training/pretrain/ledger.jsonl"


@pytest.mark.parametrize("name", ["longer", "without"])
def test_the_checks_with_libraries_pass(name: str, bundle_of: Callable[[str], Path]) -> None:
    results = {result.name: result for result in verify_release(bundle_of(name), expect=None, tokens="none")}
    assert "FAIL" not in {result.verdict for result in results.values()}
    for check in ("order by numpy", "openness verdict", "generated documents"):
        assert results[check].verdict == "PASS", results[check].detail


def test_another_order_than_the_seed_gives_is_seen_by_numpy_too(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("without")

    def edit(records: list[dict[str, Any]]) -> None:
        first, second = (source["draws_before"] for source in records[0]["order"]["sources"][:2])
        for source, draws in zip(records[0]["order"]["sources"], (first - 1, second + 1), strict=False):
            source["draws_before"] = draws

    forge.edit_ledger(bundle, "pretrain", edit)
    forge.reseal(bundle)
    results = {result.name: result for result in verify_release(bundle, expect=None, tokens="none")}
    assert results["order by numpy"].verdict == "FAIL"
    assert "step 5 of pretrain has another order" in results["order by numpy"].detail


def test_a_ledger_whose_order_begins_later_records_the_steps_after_its_branch(bundle_of: Callable[[str], Path]) -> None:
    facts = read_ledger(bundle_of("without") / LEDGER)
    assert (facts.first_step, facts.start["order"]["first_step"]) == (4, 5)
    assert [step for step, _ in facts.losses] == [5, 6, 7, 8, 9]


def test_the_card_says_how_long_the_windows_are(bundle_of: Callable[[str], Path]) -> None:
    cards = {name: (bundle_of(name) / "model" / "README.md").read_text() for name in ("plain", "longer")}
    assert f"| Sequences per step | 2 of {WINDOW} tokens |\n" in cards["plain"]
    assert f"| Sequences per step | 2 of {WINDOW} tokens; 2 of {2 * WINDOW} tokens |\n" in cards["longer"]


def test_a_step_and_a_document_are_looked_up_at_either_length(bundle_of: Callable[[str], Path]) -> None:
    readings = Readings(bundle_of("longer"))
    steps = {step: readings.step(step) for step in range(1, 8)}
    read: dict[str, set[int]] = {}
    for step, windows in steps.items():
        for window in windows:
            for document in window["documents"]:
                read.setdefault(document["document_id"], set()).add(step)
    assert any(len(found & {5, 6, 7}) and len(found & {1, 2, 3, 4}) for found in read.values())
    for row in map(readings.lookup.index.row, range(readings.lookup.index.num_documents)):
        if row.decision == "kept" and row.split == "train":
            assert readings.document(row.document_id)["steps"] == sorted(read.get(row.document_id, ()))


def test_a_document_tells_what_it_stands_for_and_when_it_was_taken_down(copy_of: Callable[[str], Path]) -> None:
    bundle = copy_of("plain")
    path = bundle / "dataset" / "documents" / "documents-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1] |= {"decision": "dropped", "rule": "duplicate", "duplicate_of": rows[0]["document_id"]}
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    kept, dropped = (Readings(bundle).document(row["document_id"]) for row in rows[:2])
    assert kept["stands_for"] == [f"{dropped['source']}: {dropped['path']} (duplicate)"]
    assert (dropped["stands_for"], kept["taken_down"]) == ([], "")
    write_tombstones(
        bundle / "dataset" / "tombstones.json", [Tombstone(kept["document_id"], "0" * 64, "2026-11-25", "asked")]
    )
    assert Readings(bundle).document(kept["document_id"])["taken_down"] == "2026-11-25: asked"
    assert any(
        "taken_down: 2026-11-25: asked" in line
        for line in document_lines(Readings(bundle).document(kept["document_id"]))
    )


def test_a_step_before_the_order_begins_is_in_no_bundle(bundle_of: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match="step 4") as refused:
        Readings(bundle_of("without")).step(4)
    assert "in the order of the run that it comes from" in refused.value.expected
