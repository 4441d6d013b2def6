"""Records of a run that are not made by its steps: how it starts, what it must equal to go on, what it amounts to."""

from collections.abc import Mapping
from pathlib import Path

from data_recipes.order import Order
from provenance.canonical import Json
from provenance.digests import tagged_digest
from provenance.errors import ResumeMismatch
from provenance.ledger import read_chain
from train.job import TrainingJob

LEDGER_FORMAT = "openwright-ledger/1"
RUN_FORMAT = "openwright-run/1"


def start_record(job: TrainingJob, order: Order) -> dict[str, Json]:
    """The ledger's first record: everything that decides what the run computes, but the code."""
    config = job.config
    record: dict[str, Json] = {
        "kind": "start",
        "format": LEDGER_FORMAT,
        "stage": job.stage,
        "recipe_digest": tagged_digest("recipe/1", job.recipe),
        "reduction": config.reduction,
        "num_logical_replicas": config.num_logical_replicas,
        "order": {**order.as_json(), "split": config.data.split, "window_tokens": config.data.window_tokens},
        "parents": list(job.parents),
    }
    return record


def check_same_run(run_dir: Path, expected: Mapping[str, Json]) -> None:
    """Refuse to go on with a ledger that another recipe, corpus or order began.

    Raises:
        ResumeMismatch: with a table of what differs.
    """
    found = next(read_chain(run_dir / "ledger.jsonl"), None)
    if found is None:
        return
    table = differences({key: value for key, value in found.items() if key != "previous"}, dict(expected))
    if table:
        raise ResumeMismatch(
            "this run was begun with something else:\n" + "\n".join(f"  {line}" for line in table),
            expected="the recipe, corpus and order that began it",
            where=str(run_dir / "ledger.jsonl"),
            next_command=f"openwright branch {run_dir} --at STEP, to go on from a checkpoint with something changed",
        )


def differences(found: Json, expected: Json, at: str = "") -> list[str]:
    """One line for each value that differs: where, what was found, what is expected."""
    if isinstance(found, dict) and isinstance(expected, dict):
        lines = []
        for key in sorted({*found, *expected}):
            lines += differences(found.get(key), expected.get(key), f"{at}.{key}" if at else key)
        return lines
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{at}.{index}")]
    return [] if found == expected else [f"{at}: {found} in the run, {expected} now"]


def heldout_summary(ledger: Path) -> dict[str, Json]:
    """First and last held-out record, read from the ledger so that a resumed run has both."""
    records = [record for record in read_chain(ledger) if record["kind"] == "evaluation"]
    keys = ("step", "loss", "bits_per_byte", "num_tokens", "num_bytes")
    return {
        place: {key: record[key] for key in keys} for place, record in (("first", records[0]), ("last", records[-1]))
    }
