"""Stand-ins for the replaying program: they repeat the recorded records, edited, and train nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge

from provenance.canonical import canonical_json

Edit = Callable[[list[bytes]], list[bytes]]
Change = Callable[[Path], None]


def honest(lines: list[bytes]) -> list[bytes]:
    return lines


def other_loss(lines: list[bytes]) -> list[bytes]:
    place = next(number for number, line in enumerate(lines) if json.loads(line)["kind"] == "step")
    record = json.loads(lines[place])
    return [*lines[:place], canonical_json({**record, "loss": forge.next_float(record["loss"])}), *lines[place + 1 :]]


def other_tokens(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"token_digest":"', b'"token_digest":"0') for line in lines]


def cut_short(lines: list[bytes]) -> list[bytes]:
    return lines[:2]


def unchanged(output: Path) -> None:
    pass


def pretend_to_replay(request: dict[str, Any], edit: Edit, change: Change = unchanged) -> None:
    """Write what a replay writes.

    Args:
        edit: changes the ledger's lines.
        change: changes files of the output: `environment.json`, `checkpoints/`.
    """
    training, output = Path(request["recipe"]).parent, Path(request["output"])
    start = json.loads((Path(request["from_checkpoint"]) / "checkpoint.json").read_text())["ledger"]["num_records"]
    lines = []
    for line in (training / "ledger.jsonl").read_bytes().splitlines()[start:]:
        record = json.loads(line)
        if record["kind"] == "end" or record.get("step", record.get("first")) > request["last_step"]:
            break
        lines.append(line)
    output.mkdir(parents=True)
    (output / "ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in edit(lines)))
    (output / "environment.json").write_bytes((training / "environment.json").read_bytes())
    sizes = {name: request.get(name, 1) for name in ("shard_size", "tensor_size", "context_size")}
    layout = {"num_processes": request["num_processes"] or 2, **sizes}
    note = canonical_json({"kind": "replay", "step": 0, **layout, "previous": "0" * 64})
    (output / "journal.jsonl").write_bytes(note + b"\n")
    kept = training.parent.parent / "checkpoints" / training.name
    shutil.copytree(kept, output / "checkpoints")
    change(output)
