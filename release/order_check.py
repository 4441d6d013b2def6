"""The order of every step of every stage, by a second implementation than that of `verify.py`, and without a sample."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_recipes.order_file import ORDER_FILE, FileOrder, read_order
from data_recipes.order_numpy import order_digests
from provenance.ledger import read_chain

_BLOCK_STEPS = 4096

Step = tuple[int, str]  # its number and its order digest


def compare_order(path: Path) -> tuple[int, str | None]:
    """Recompute the order of all steps that a ledger records; the ledger is read in blocks.

    Returns:
        How many steps the ledger records, and the first thing that is wrong.
    """
    records = read_chain(path)
    start = next(records)
    order = read_order(start["order"], path.parent)
    giver = ORDER_FILE if isinstance(order, FileOrder) else "the seed"
    skipped: list[int] = []
    num_steps = 0
    for stretch in _stretches(records, skipped):
        computed = order_digests(order, stretch[0][0], stretch[-1][0])
        for (step, digest), expected in zip(stretch, computed, strict=True):
            if digest != expected:
                return num_steps, f"step {step} of {path.parent.name} has another order than {giver} gives"
        num_steps += len(stretch)
    begin = start["branch"]["step"] if "branch" in start else 0
    num_due = order.num_steps - begin - sum(skipped)
    if num_steps != num_due:
        return num_steps, f"{path.parent.name} records {num_steps} of {num_due} steps"
    return num_steps, None


def _stretches(records: Iterable[dict[str, Any]], skipped: list[int]) -> Iterator[list[Step]]:
    """Neighbouring steps, in lists of bounded length; lengths of stretches that are left out go into `skipped`."""
    stretch: list[Step] = []
    for record in records:
        if record["kind"] == "skip":
            skipped.append(record["last"] - record["first"] + 1)
        elif record["kind"] == "step":
            if stretch and (record["step"] != stretch[-1][0] + 1 or len(stretch) == _BLOCK_STEPS):
                yield stretch
                stretch = []
            stretch.append((record["step"], record["order_digest"]))
    if stretch:
        yield stretch
