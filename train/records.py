"""Records of a run that are not made by its steps: how it starts, what it must equal to go on, what it amounts to."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from data_recipes.order import Order
from provenance.canonical import Json
from provenance.digests import tagged_digest
from provenance.errors import ResumeMismatch, TrainingError
from provenance.ledger import read_back, read_chain
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
    if config.branch is not None:
        record["branch"] = config.branch.model_dump(exclude={"draws_before"})  # they are in the order
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
            next_command=(
                f"openwright branch {run_dir} --at STEP --config CONFIG_DIR --to NEW_DIR, to go on from a checkpoint "
                "with something changed"
            ),
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


def enter_segment(journal: Path, platform: str, on_change: str) -> tuple[int, str | None]:
    """Number of the bitwise segment that a process enters: a run on another platform than before begins a new one.

    Args:
        journal: the run's journal so far; may be absent.
        platform: digest of the platform now.
        on_change: `continue` or `stop`.

    Returns:
        The segment, from 1, and the platform before where it was another one.

    Raises:
        TrainingError: when the platform changed and the config says `stop`.
    """
    # Every checkpoint's record names the segment again, so that a long journal is read back to its last one only.
    records = read_back(journal) if journal.is_file() else iter(())
    last = next((record for record in records if "bitwise_segment" in record), None)
    if last is None:
        return 1, None
    if last["platform"] == platform:
        return int(last["bitwise_segment"]), None
    if on_change == "stop":
        raise TrainingError(
            f"the platform is {platform[:12]}, and the run was on {last['platform'][:12]} before",
            expected="the same platform, as execution.on_environment_change: stop asks",
            where=str(journal),
            next_command="go on where it ran before, or set execution.on_environment_change: continue",
        )
    return int(last["bitwise_segment"]) + 1, str(last["platform"])


def recent_losses(ledger: Path, num_steps: int) -> list[float]:
    """Losses of the last steps of a ledger, the newest last."""
    losses = (float.fromhex(record["loss"]) for record in read_back(ledger) if record["kind"] == "step")
    return list(islice(losses, num_steps))[::-1]


def ledger_totals(ledger: Path) -> tuple[int, dict[str, Json]]:
    """Tokens read by the steps of a ledger, and its first and last held-out record (a resumed run has all of it)."""
    num_tokens, heldout = 0, []
    for record in read_chain(ledger):
        if record["kind"] == "step":
            num_tokens += sum(record["tokens_by_source"].values())
        elif record["kind"] == "evaluation":
            heldout.append(record)
    keys = ("step", "loss", "bits_per_byte", "num_tokens", "num_bytes")
    ends = (("first", heldout[0]), ("last", heldout[-1]))
    return num_tokens, {place: {key: record[key] for key in keys} for place, record in ends}
