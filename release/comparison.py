"""A replay compared with the records of the bundle: every ledger record must come out byte for byte."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from provenance.canonical import Json, hex_float, parse_json, read_json
from release.divergence import Divergence, find_divergence
from release.replay_segments import Segment
from release.verify import CheckResult


@dataclass(frozen=True)
class Judgement:
    """What became of a replay on another platform than the recorded one.

    Attributes:
        verdict: PASS (within tolerance), FAIL or UNVERIFIED.
        reason: why.
        distances: relative distance from what is recorded, by measure (`release.tolerance`); empty where nothing could
            be compared.
        told: the distances in words.
    """

    verdict: str
    reason: str
    distances: dict[str, float] = field(default_factory=dict)
    told: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.told}" if self.told else self.reason

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        distances = {name: hex_float(value) for name, value in self.distances.items()}
        return {"verdict": self.verdict, "reason": self.reason, "distances": distances}


@dataclass(frozen=True)
class Comparison:
    """What comparing a segment found.

    Attributes:
        result: the check result.
        divergence: the first difference, where two records differ; None otherwise.
        judgement: what the distance of the weights says, where the environment explains the difference.
    """

    result: CheckResult
    divergence: Divergence | None = None
    judgement: Judgement | None = None

    @property
    def how(self) -> Literal["bitwise", "within tolerance"]:
        """How the verdict came about."""
        passed = self.judgement is not None and self.judgement.verdict == "PASS"
        return "within tolerance" if passed else "bitwise"

    def explained(self, explain: Callable[[Divergence], Divergence]) -> "Comparison":
        """The same with more said of a divergence, in the result's detail too."""
        if self.divergence is None:
            return self
        told = explain(self.divergence)
        return Comparison(replace(self.result, detail=str(told)), told)

    def cut_off(self, reason: str) -> "Comparison":
        """The same of a replay that was stopped or killed, with the reason."""
        return replace(self, result=replace(self.result, detail=f"{self.result.detail}; {reason}"))

    def judged(self, judge: Callable[[Divergence], Judgement]) -> "Comparison":
        """The same with the verdict of a tolerance, where the environment alone explains the divergence."""
        if self.divergence is None or self.divergence.cause != "environment":
            return self
        found = judge(self.divergence)
        detail = f"{found}; {self.result.detail}"
        return Comparison(replace(self.result, verdict=found.verdict, detail=detail), self.divergence, found)


def compare_records(
    bundle: Path, segment: Segment, output: Path, name: str, origin: str, *, is_cut_off: bool = False
) -> Comparison:
    """Compare the replayed records with the recorded ones, from the starting checkpoint on.

    Args:
        output: directory of the replay.
        name: name of the check.
        origin: how the segment came to be chosen.
        is_cut_off: the replay was stopped or killed on the way: what it wrote can fail, and cannot pass.
    """
    ledger = bundle / "model" / "training" / segment.stage / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines()
    start = int(read_json(segment.checkpoint / "checkpoint.json")["ledger"]["num_records"])
    recorded = [line for line in lines[start:] if is_within(parse_json(line, str(ledger)), segment.last)]
    replayed = (output / "ledger.jsonl").read_bytes().splitlines()
    for place, (told, line) in enumerate(zip(recorded, replayed, strict=False), start=start + 1):
        if told != line:
            where = f"{ledger}:{place}"
            divergence = find_divergence(bundle, segment, output, parse_json(told, where), parse_json(line, where))
            return Comparison(CheckResult("replay", name, divergence.verdict, str(divergence), where), divergence)
    if is_cut_off and len(replayed) <= len(recorded):
        detail = f"until then {len(replayed)} of {len(recorded)} ledger records came out equal byte for byte"
        return Comparison(CheckResult("replay", name, "UNVERIFIED", detail, ""))
    if len(replayed) != len(recorded):
        detail = f"the replay gave {len(replayed)} records, the ledger holds {len(recorded)} up to step {segment.last}"
        return Comparison(CheckResult("replay", name, "FAIL", detail, str(ledger)))
    num_steps = sum(parse_json(line, str(ledger))["kind"] == "step" for line in replayed)
    if not num_steps:
        detail = "the recipe leaves all of these steps out: there was nothing to replay"
        return Comparison(CheckResult("replay", name, "UNVERIFIED", detail, str(ledger)))
    left_out = segment.last - segment.first + 1 - num_steps
    counted = f"{num_steps} steps" + (f" ({left_out} left out by the recipe)" if left_out else "")
    detail = f"bitwise: {counted}, {len(replayed)} ledger records equal byte for byte ({origin})"
    return Comparison(CheckResult("replay", name, "PASS", detail, str(ledger)))


def is_within(record: dict[str, Any], last_step: int) -> bool:
    """Whether a replay up to a step writes this record again: the run's end is not part of any step."""
    return record["kind"] != "end" and int(record.get("first", record.get("step", 0))) <= last_step
