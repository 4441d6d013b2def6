"""`openwright reproduce`: replay steps of a bundle in fresh processes, with its own code and data, and compare bits.

Every replayed ledger record must equal the recorded one byte for byte; the parameter checksum in each step's record
makes even a few steps conclusive for these steps. What was not replayed is not judged. Bits are promised on one
platform, and under `reduction: native` at one layout of processes: a difference elsewhere is UNVERIFIED, never passed.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from provenance.canonical import Json, parse_json, read_json, write_json
from provenance.console import heading
from provenance.errors import BundleError, ConfigError, StoppedForRequeue
from provenance.ledger import read_chain
from release.verify import CheckResult
from train.replay import ERROR_FILE, REPLAY_FORMAT, ReplayRequest

_DATA_FIELDS = ("order_digest", "token_digest", "tokens_by_source", "num_trained_tokens")
_CONFIG_FIELDS = ("learning_rate",)
_BEGINNINGS = ("start", "resume")


@dataclass(frozen=True)
class Segment:
    """Steps `first..last` of a stage, replayed from a checkpoint at an earlier step."""

    stage: str
    checkpoint: Path
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """How processes were laid out: their number (None: not said) and over how many a copy of the model is sharded."""

    num_processes: int | None
    shard_size: int

    def __str__(self) -> str:
        return f"{self.num_processes} processes in shards of {self.shard_size}"


def reproduce(
    bundle: Path,
    *,
    steps: tuple[int, int] | None = None,
    segments: int = 1,
    seed: int | None = None,
    num_processes: int | None = None,
    stage: str | None = None,
) -> list[CheckResult]:
    """Replay steps of a bundle.

    Args:
        bundle: directory that holds `model/` and `dataset/`.
        steps: first and last step, or None for random segments between checkpoints.
        segments: how many random segments, without repetition.
        seed: seed of the random choice; fresh randomness by default. It is printed with the result.
        stage: training stage; by default `pretrain` for given steps, and any stage for random segments.

    Raises:
        ConfigError: for steps or a stage that the bundle does not have.
        BundleError: when files that a replay needs are missing.
    """
    _require(bundle)
    if steps is not None:
        chosen = [_segment_of_steps(bundle, stage or "pretrain", *steps)]
        origin = "steps were given"
    else:
        drawn_seed = secrets.randbits(64) if seed is None else seed
        chosen, total = _draw_segments(bundle, stage, segments, drawn_seed)
        origin = f"drawn with seed {drawn_seed}: {len(chosen)} of {total} segments; a cheat in a single segment "
        origin += f"is missed with chance {1 - len(chosen) / total:.2f}"
    return [_replay_segment(bundle, segment, num_processes, origin) for segment in chosen]


def _require(bundle: Path) -> None:
    for needed in ("model/manifest.json", "model/code", "dataset/tokens/tokens.json"):
        if not (bundle / needed).exists():
            raise BundleError(f"{needed} is missing", expected="a bundle with code and token shards", where=str(bundle))


def training_stages(bundle: Path) -> list[str]:
    """Names of the bundle's training stages, in the order in which they ran."""
    manifest = read_json(bundle / "model" / "manifest.json")
    names = [str(entry["stage"]) for entry in manifest["stages"]]
    return [name for name in names if (bundle / "model" / "training" / name / "ledger.jsonl").is_file()]


def resumable_checkpoints(bundle: Path, stage: str) -> dict[int, Path]:
    """Checkpoints by step from which a replay can start: full ones and that of step 0."""
    found = {}
    for path in sorted((bundle / "model" / "checkpoints" / stage).glob("step-*")):
        record = read_json(path / "checkpoint.json")
        if record.get("kind") == "full" or record.get("step") == 0:
            found[int(record["step"])] = path
    return found


def _num_steps(bundle: Path, stage: str) -> int:
    return int(read_json(bundle / "model" / "training" / stage / "run.json")["num_steps"])


def _first_step(bundle: Path, stage: str) -> int:
    """Step at whose state the recorded run begins: 0, or that at which it went on from another run."""
    branch = next(read_chain(bundle / "model" / "training" / stage / "ledger.jsonl")).get("branch")
    return int(branch["step"]) if branch else 0


def _segment_of_steps(bundle: Path, stage: str, first: int, last: int) -> Segment:
    if stage not in training_stages(bundle):
        raise ConfigError(f"--stage {stage}", expected=f"one of {training_stages(bundle)}", where=str(bundle))
    num_steps, begin = _num_steps(bundle, stage), _first_step(bundle, stage)
    if not begin < first <= last <= num_steps:
        raise ConfigError(f"--step {first}:{last}", expected=f"steps within {begin + 1}:{num_steps} of {stage}")
    before = {step: path for step, path in resumable_checkpoints(bundle, stage).items() if step < first}
    if not before:
        raise BundleError(f"no checkpoint before step {first} of {stage}", where=str(bundle))
    return Segment(stage, before[max(before)], max(before) + 1, last)


def _draw_segments(bundle: Path, stage: str | None, count: int, seed: int) -> tuple[list[Segment], int]:
    """Choose segments between neighbouring checkpoints; returns them with the number there are."""
    every = []
    for name in [stage] if stage else training_stages(bundle):
        if name not in training_stages(bundle):
            raise ConfigError(f"--stage {name}", expected=f"one of {training_stages(bundle)}", where=str(bundle))
        checkpoints = resumable_checkpoints(bundle, name)
        places = [*sorted(checkpoints), _num_steps(bundle, name)]
        every += [Segment(name, checkpoints[start], start + 1, end) for start, end in pairwise(places) if start < end]
    if not every:
        raise BundleError("no segment can be replayed", expected="checkpoints with optimizer state", where=str(bundle))
    chosen = Random(seed).sample(every, min(count, len(every)))
    return chosen, len(every)


def _replay_segment(bundle: Path, segment: Segment, num_processes: int | None, origin: str) -> CheckResult:
    heading(f"replaying {segment.stage} steps {segment.first} to {segment.last} from {segment.checkpoint.name}")
    layout = _replay_layout(bundle, segment, num_processes)
    with tempfile.TemporaryDirectory(prefix="openwright-replay-") as scratch:
        output = Path(scratch) / "run"
        request = ReplayRequest(
            format=REPLAY_FORMAT,
            stage=segment.stage,
            recipe=str((bundle / "model" / "training" / segment.stage / "recipe.json").resolve()),
            corpus=str((bundle / "dataset").resolve()),
            base_checkpoint=_base_checkpoint(bundle, segment.stage),
            from_checkpoint=str(segment.checkpoint.resolve()),
            last_step=segment.last,
            output=str(output),
            num_processes=layout.num_processes,
            shard_size=layout.shard_size,
        )
        write_json(Path(scratch) / "request.json", asdict(request))
        done = subprocess.run(
            # -B: no compiled files may appear beside the bundle's sources.
            [sys.executable, "-B", "-m", "train.replay", str(Path(scratch) / "request.json")],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": str((bundle / "model" / "code").resolve())},
            check=False,
        )
        name = f"{segment.stage} steps {segment.first}-{segment.last}"
        if done.returncode == StoppedForRequeue.exit_code:
            return CheckResult("replay", name, "UNVERIFIED", "the replay was stopped by a signal", "")
        if done.returncode != 0:
            message = output / ERROR_FILE
            reason = message.read_text() if message.is_file() else f"exit code {done.returncode}, messages above"
            return CheckResult("replay", name, "FAIL", f"the replay failed: {reason}", str(segment.checkpoint))
        return _compare(bundle, segment, output, name, origin)


def _replay_layout(bundle: Path, segment: Segment, num_processes: int | None) -> Layout:
    """Processes for a replay: any under `exact`; the recorded ones under `native`, unless a number was asked for."""
    recorded = _recorded_layouts(bundle, segment)
    if _reduction(bundle, segment.stage) == "native" and len(recorded) == 1:
        (layout,) = recorded
        if num_processes in (None, layout.num_processes):
            return layout
    return Layout(num_processes, 1)


def _reduction(bundle: Path, stage: str) -> str:
    return str(next(read_chain(bundle / "model" / "training" / stage / "ledger.jsonl")).get("reduction"))


def _recorded_layouts(bundle: Path, segment: Segment) -> set[Layout]:
    """Layouts at which the recorded run made the steps of a segment, by its journal."""
    journal = read_chain(bundle / "model" / "training" / segment.stage / "journal.jsonl")
    begun = [(int(record.get("step", 0)), _layout_of(record)) for record in journal if record["kind"] in _BEGINNINGS]
    # A step was made by the last start or resume before it: what an earlier one had made of it was cut off.
    made_by = ([layout for since, layout in begun if since < step] for step in range(segment.first, segment.last + 1))
    return {layouts[-1] for layouts in made_by if layouts}


def _layout_of(record: dict[str, Any]) -> Layout:
    return Layout(record.get("num_processes"), int(record.get("shard_size", 1)))


def _base_checkpoint(bundle: Path, stage: str) -> str:
    """Weights that a fine-tuning stage started from: the final checkpoint of the stage before it."""
    stages = training_stages(bundle)
    place = stages.index(stage)
    if place == 0:
        return ""
    base = stages[place - 1]
    final = read_json(bundle / "model" / "training" / base / "run.json")["final"]["path"]
    return str((bundle / "model" / "checkpoints" / base / Path(final).name).resolve())


def _compare(bundle: Path, segment: Segment, output: Path, name: str, origin: str) -> CheckResult:
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
    elsewhere = _other_layout(bundle, segment, output)
    if cause == "numerics" and elsewhere:
        return CheckResult("replay", name, "UNVERIFIED", f"{detail}; {elsewhere}", where)
    return CheckResult("replay", name, "FAIL", detail, where)


def _other_layout(bundle: Path, segment: Segment, output: Path) -> str:
    """Say how the replay's layout differs where the promise of equal bits is bound to the layout; else nothing."""
    if _reduction(bundle, segment.stage) != "native":
        return ""
    here = {_layout_of(record) for record in read_chain(output / "journal.jsonl") if record["kind"] == "replay"}
    recorded = _recorded_layouts(bundle, segment)
    if here == recorded:
        return ""
    told = [" and ".join(sorted(map(str, layouts))) or "an unknown layout" for layouts in (recorded, here)]
    return f"reduction native promises equal bits at the same layout only: recorded {told[0]}, replayed {told[1]}"


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
