"""What the first difference between recorded and replayed records means, and which tensor shows it first.

The cause is the first of these that is found: another recipe than the recorded one (config), other tokens or another
order (data), another source tree (code), another platform or other libraries (environment), another layout under
`reduction: native` (layout); else numerics. Bits are promised on one platform, with the same libraries, and under
`reduction: native` at one layout of processes: what differs only there is UNVERIFIED, never passed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provenance.canonical import Json, read_json
from release.environment_diff import EnvironmentDifference, difference_lines, environment_differences
from release.recorded_inputs import changed_code, changed_recipe, changed_tokens
from release.replay_layout import other_layout
from release.replay_segments import Segment
from release.tensor_diff import TensorReport

DATA_FIELDS = ("order_digest", "token_digest", "tokens_by_source", "num_trained_tokens")
_CONFIG_FIELDS = ("learning_rate",)
_NOT_JUDGED = ("environment", "layout")
_NUMERIC = ("code", "environment", "layout", "numerics")
CHAIN = "the chain before this record"


@dataclass(frozen=True)
class Divergence:
    """The first difference between a recorded run and its replay.

    Attributes:
        stage: the training stage.
        step: step of the record that differs.
        record: its kind.
        fields: recorded and replayed value of each field that differs, shortened.
        cause: `data`, `config`, `code`, `environment`, `layout`, `numerics`, or the chain before the record.
        reasons: what says so.
        environment: how the environment of the replay differs from the recorded one.
        tensors: the comparison of two checkpoints, at the first step from `step` on that has both.
        tensors_note: why there is none.
    """

    stage: str
    step: int
    record: str
    fields: dict[str, tuple[str, str]]
    cause: str
    reasons: tuple[str, ...]
    environment: tuple[EnvironmentDifference, ...]
    tensors: TensorReport | None = None
    tensors_note: str = ""

    @property
    def verdict(self) -> str:
        """FAIL, or UNVERIFIED where equal bits are not promised."""
        return "UNVERIFIED" if self.cause in _NOT_JUDGED else "FAIL"

    @property
    def is_numeric(self) -> bool:
        """Whether the tensors of both runs tell more: their recipe and data are the same."""
        return self.cause in _NUMERIC

    def __str__(self) -> str:
        examples = [f"{name}: recorded {told}, replayed {found}" for name, (told, found) in self.fields.items()]
        parts = [f"first difference at step {self.step}, record {self.record}: {self.cause}", *examples]
        parts += self.reasons
        if self.tensors is not None and self.tensors.first is not None:
            parts.append(f"first differing tensor at step {self.tensors.step}: {self.tensors.first}")
        elif self.tensors is not None:
            parts.append(self.tensors.lines()[0].rstrip(":"))
        elif self.tensors_note:
            parts.append(self.tensors_note)
        return "; ".join(parts)

    def lines(self) -> list[str]:
        """Tables for people: tensors and environments."""
        tables = self.tensors.lines() if self.tensors is not None else []
        if self.environment:
            tables = [*tables, "environment:", *difference_lines(self.environment)]
        return [f"{self.stage}, step {self.step}: {self.cause}", *tables] if tables else []

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        return {
            "stage": self.stage,
            "step": self.step,
            "record": self.record,
            "fields": {name: {"recorded": told, "replayed": found} for name, (told, found) in self.fields.items()},
            "cause": self.cause,
            "reasons": list(self.reasons),
            "environment": [difference.as_json() for difference in self.environment],
            "tensors": self.tensors and self.tensors.as_json(),
            "tensors_note": self.tensors_note,
        }

    def with_tensors(self, tensors: TensorReport | None, note: str = "") -> "Divergence":
        """The same with what comparing checkpoints found, or why none were compared."""
        return replace(self, tensors=tensors, tensors_note=note)


def find_divergence(
    bundle: Path, segment: Segment, output: Path, recorded: Mapping[str, Any], replayed: Mapping[str, Any]
) -> Divergence:
    """Say what two records that differ first mean.

    Args:
        output: directory of the replay.
        recorded: the bundle's record.
        replayed: the replay's.
    """
    names = sorted(name for name in {**recorded, **replayed} if recorded.get(name) != replayed.get(name))
    told = read_json(bundle / "model" / "training" / segment.stage / "environment.json")
    environment = tuple(environment_differences(told, read_json(output / "environment.json")))
    cause, reasons = _cause(bundle, segment, output, names, environment)
    return Divergence(
        stage=segment.stage,
        step=int(replayed.get("step", replayed.get("first", 0))),
        record=str(replayed.get("kind")),
        fields={name: (_short(recorded.get(name)), _short(replayed.get(name))) for name in names},
        cause=cause,
        reasons=tuple(reasons),
        environment=environment,
    )


def _cause(
    bundle: Path, segment: Segment, output: Path, names: list[str], environment: tuple[EnvironmentDifference, ...]
) -> tuple[str, list[str]]:
    """The cause of a difference in these fields, and what says so."""
    stage = segment.stage
    if names == ["previous"]:
        return CHAIN, []
    recipe = changed_recipe(bundle, stage)
    if recipe:
        return "config", recipe
    code = changed_code(bundle, stage)
    if any(name in DATA_FIELDS for name in names):
        tokens = changed_tokens(bundle, stage)
        return ("code", code) if code and not tokens else ("data", tokens)
    if code:
        return "code", code
    if any(name in _CONFIG_FIELDS for name in names):
        return "config", []
    decisive = [difference.field for difference in environment if difference.is_decisive]
    if decisive:
        fields = ", ".join(decisive)
        return "environment", [f"this environment is not the recorded one ({fields}), equal bits are not promised here"]
    layout = other_layout(bundle, segment, output)
    return ("layout", [layout]) if layout else ("numerics", [])


def _short(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
