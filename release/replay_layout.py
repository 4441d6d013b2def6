"""How processes are laid out in a replay, and how they were in the recorded run, by its journal."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance.canonical import read_json
from provenance.errors import ConfigError
from provenance.ledger import read_chain
from release.replay_segments import Segment
from train.jobs import num_gpus

_BEGINNINGS = ("start", "resume")
_STARTS = (*_BEGINNINGS, "replay")


@dataclass(frozen=True)
class Layout:
    """How processes were laid out: their number (None: not said), over how many a copy of the model is sharded and its
    matrices are cut, and how many share windows."""

    num_processes: int | None
    shard_size: int
    tensor_size: int = 1
    context_size: int = 1

    def __str__(self) -> str:
        inner = "".join(
            f", {what} {size}"
            for what, size in (("tensor", self.tensor_size), ("context", self.context_size))
            if size > 1
        )
        return f"{self.num_processes} processes in shards of {self.shard_size}{inner}"


def replay_layout(bundle: Path, segment: Segment, num_processes: int | None) -> Layout:
    """Processes for a replay: any under `exact`; the recorded ones under `native`, unless a number was asked for."""
    recorded = recorded_layouts(bundle, segment)
    if reduction(bundle, segment.stage) == "native" and len(recorded) == 1:
        (layout,) = recorded
        if num_processes in (None, layout.num_processes):
            return layout
    return Layout(num_processes, 1)


def reduction(bundle: Path, stage: str) -> str:
    """The recipe's way to reduce gradients, as the ledger tells it."""
    return str(_start(bundle, stage).get("reduction"))


def require_fitting(bundle: Path, stages: Iterable[str], num_processes: int | None) -> None:
    """Refuse a number of processes with which `exact` reduction cannot run: that is no fault of the bundle.

    Args:
        num_processes: the number that was asked for; None for as many as fit.

    Raises:
        ConfigError: naming the numbers that fit.
    """
    if num_processes is None:
        return
    num_here = num_gpus()
    for stage in stages:
        if 0 < num_here < num_processes and not ran_on_cpus(bundle, stage):
            raise ConfigError(
                f"--processes {num_processes}",
                expected=f"at most {num_here}, as this machine has GPUs: {stage} ran on some",
                where="command line",
                next_command="the same command with as many, or without --processes",
            )
        start = _start(bundle, stage)
        most = start.get("num_logical_replicas")
        if start.get("reduction") != "exact" or not isinstance(most, int):
            continue
        fitting = [str(2**exponent) for exponent in range(most.bit_length())]
        if str(num_processes) not in fitting:
            raise ConfigError(
                f"--processes {num_processes}",
                expected=f"for {stage}, a power of two up to its {most} logical replicas: {', '.join(fitting)}",
                where="command line",
                next_command="the same command with one of these, or without --processes for as many as fit",
            )


def _start(bundle: Path, stage: str) -> dict[str, Any]:
    return next(read_chain(bundle / "model" / "training" / stage / "ledger.jsonl"))


def recorded_layouts(bundle: Path, segment: Segment) -> set[Layout]:
    """Layouts at which the recorded run made the steps of a segment, by its journal."""
    journal = read_chain(bundle / "model" / "training" / segment.stage / "journal.jsonl")
    begun = [(int(record.get("step", 0)), layout_of(record)) for record in journal if record["kind"] in _BEGINNINGS]
    # A step was made by the last start or resume before it: what an earlier one had made of it was cut off.
    # Between beginnings nothing changes, and a stretch of steps can be as long as a stranger says.
    steps = {segment.first, *(since + 1 for since, _ in begun if segment.first <= since < segment.last)}
    made_by = ([layout for since, layout in begun if since < step] for step in steps)
    return {layouts[-1] for layouts in made_by if layouts}


def ran_on_cpus(bundle: Path, stage: str) -> bool:
    """Whether a run was made on CPUs, so that its bits are to be found there also where there is a GPU."""
    folder = bundle / "model" / "training" / stage
    told = [str(record["device"]) for record in read_chain(folder / "journal.jsonl") if "device" in record]
    if told:
        return set(told) == {"cpu"}
    return not read_json(folder / "environment.json")["platform"].get("devices")


def layout_of(record: dict[str, Any]) -> Layout:
    """Layout that a journal record names."""
    sizes = (int(record.get(name, 1)) for name in ("shard_size", "tensor_size", "context_size"))
    return Layout(record.get("num_processes"), *sizes)


def other_layout(bundle: Path, segment: Segment, output: Path) -> str:
    """Say how the replay's layout differs where the promise of equal bits is bound to the layout; else nothing."""
    if reduction(bundle, segment.stage) != "native":
        return ""
    here = {layout_of(record) for record in read_chain(output / "journal.jsonl") if record["kind"] in _STARTS}
    recorded = recorded_layouts(bundle, segment)
    if here == recorded:
        return ""
    told = [" and ".join(sorted(map(str, layouts))) or "an unknown layout" for layouts in (recorded, here)]
    return f"reduction native promises equal bits at the same layout only: recorded {told[0]}, replayed {told[1]}"
