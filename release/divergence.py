"""What a replay is compared with, and what a difference means.

Every replayed ledger record must equal the recorded one byte for byte. The first one that does not is named, with its
cause. Bits are promised on one platform, and under `reduction: native` at one layout of processes: a difference in
numerics elsewhere is UNVERIFIED, never passed.
"""

import json
from pathlib import Path
from typing import Any

from provenance.canonical import Json, parse_json, read_json
from release.replay_layout import other_layout
from release.replay_segments import Segment
from release.verify import CheckResult

_DATA_FIELDS = ("order_digest", "token_digest", "tokens_by_source", "num_trained_tokens")
_CONFIG_FIELDS = ("learning_rate",)


def compare_records(bundle: Path, segment: Segment, output: Path, name: str, origin: str) -> CheckResult:
    """Compare the replayed records with the recorded ones, byte for byte, from the starting checkpoint on."""
    ledger = bundle / "model" / "training" / segment.stage / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines()
    start = int(read_json(segment.checkpoint / "checkpoint.json")["ledger"]["num_records"])
    recorded = [line for line in lines[start:] if _is_within(parse_json(line, str(ledger)), segment.last)]
    replayed = (output / "ledger.jsonl").read_bytes().splitlines()
    for place, (told, line) in enumerate(zip(recorded, replayed, strict=False), start=start + 1):
        if told != line:
            return _divergence(bundle, segment, output, name, (told, line), f"{ledger}:{place}")
    if len(replayed) != len(recorded):
        detail = f"the replay gave {len(replayed)} records, the ledger holds {len(recorded)} up to step {segment.last}"
        return CheckResult("replay", name, "FAIL", detail, str(ledger))
    num_steps = sum(parse_json(line, str(ledger))["kind"] == "step" for line in replayed)
    if not num_steps:
        detail = "the recipe leaves all of these steps out: there was nothing to replay"
        return CheckResult("replay", name, "UNVERIFIED", detail, str(ledger))
    left_out = segment.last - segment.first + 1 - num_steps
    counted = f"{num_steps} steps" + (f" ({left_out} left out by the recipe)" if left_out else "")
    detail = f"bitwise: {counted}, {len(replayed)} ledger records equal byte for byte ({origin})"
    return CheckResult("replay", name, "PASS", detail, str(ledger))


def _is_within(record: dict[str, Any], last_step: int) -> bool:
    """Whether a replay up to a step writes this record again: the run's end is not part of any step."""
    return record["kind"] != "end" and int(record.get("first", record.get("step", 0))) <= last_step


def _divergence(
    bundle: Path, segment: Segment, output: Path, name: str, lines: tuple[bytes, bytes], where: str
) -> CheckResult:
    """Say what differs first: data, config or numerics; numerics on another platform are not judged."""
    recorded, replayed = (parse_json(line, where) for line in lines)
    fields = sorted(key for key in {**recorded, **replayed} if recorded.get(key) != replayed.get(key))
    cause = _cause(fields)
    examples = [f"{key}: recorded {_short(recorded.get(key))}, replayed {_short(replayed.get(key))}" for key in fields]
    step = replayed.get("step", "?")
    detail = f"first difference at step {step}, record {replayed.get('kind')}: {cause}; " + "; ".join(examples)
    differing = _platform_differences(bundle, segment.stage, output)
    if cause == "numerics" and differing:
        detail += f"; this platform is not the recorded one ({', '.join(differing)}), where equal bits are not promised"
        return CheckResult("replay", name, "UNVERIFIED", detail, where)
    elsewhere = other_layout(bundle, segment, output)
    if cause == "numerics" and elsewhere:
        return CheckResult("replay", name, "UNVERIFIED", f"{detail}; {elsewhere}", where)
    return CheckResult("replay", name, "FAIL", detail, where)


def _cause(fields: list[str]) -> str:
    if fields == ["previous"]:
        return "the chain before this record"
    if any(field in _DATA_FIELDS for field in fields):
        return "data"
    if any(field in _CONFIG_FIELDS for field in fields):
        return "config"
    return "numerics"


def _short(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _platform_differences(bundle: Path, stage: str, output: Path) -> list[str]:
    recorded = read_json(bundle / "model" / "training" / stage / "environment.json")["platform"]
    here: dict[str, Any] = read_json(output / "environment.json")["platform"]
    keys = sorted({*recorded, *here} - {"digest"})
    return [key for key in keys if recorded.get(key) != here.get(key)]
