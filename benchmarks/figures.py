"""What a benchmark prints: one record per figure, as a table for people and as JSON for programs."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True)
class Figure:
    """One measured comparison.

    Attributes:
        figure: what was measured, with its unit.
        ours: our number.
        peer: the number it is compared with.
        ratio: ours over the peer's: the median over pairs of runs, where runs come in pairs.
        bar: the bar set beforehand, such as `>= 0.97`; empty where a figure is for information.
        met: whether it was met; None without a bar.
        runs: pairs of runs.
        machine: processor, cores, system and torch.
        date: day of the measurement, UTC.
    """

    figure: str
    ours: float
    peer: float
    ratio: float
    bar: str
    met: bool | None
    runs: int
    machine: str
    date: str


def make_figure(
    figure: str,
    ours: float,
    peer: float,
    *,
    runs: int,
    ratio: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    near_one: float | None = None,
) -> Figure:
    """Judge a measurement by one bar at most.

    Args:
        ratio: median over pairs; by default ours over the peer's.
        at_least: the ratio must reach this.
        at_most: the ratio must not exceed this.
        near_one: the ratio may differ from 1 by this.
    """
    ratio = ours / peer if ratio is None else ratio
    bar, met = "", None
    if at_least is not None:
        bar, met = f">= {at_least}", ratio >= at_least
    elif at_most is not None:
        bar, met = f"<= {at_most}", ratio <= at_most
    elif near_one is not None:
        bar, met = f"1 +- {near_one}", abs(ratio - 1) <= near_one
    return Figure(figure, ours, peer, ratio, bar, met, runs, machine(), datetime.now(UTC).date().isoformat())


def machine() -> str:
    """The GPU where there is one, the processor, its cores, the system and torch, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kernel = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        model = f"{torch.cuda.get_device_name()}; {model}"
    return f"{model}, {cores} cores, {platform.system()} {platform.machine()}, torch {torch.__version__} ({kernel})"


def print_figures(figures: Sequence[Figure], as_json: bool) -> None:
    """Print records one a line, or a table."""
    if as_json:
        for figure in figures:
            print(json.dumps(asdict(figure)))
        return
    rows = [("figure", "ours", "peer", "ratio", "bar", "met", "runs")]
    for f in figures:
        met = "" if f.met is None else "yes" if f.met else "NO"
        rows.append((f.figure, f"{f.ours:,.4g}", f"{f.peer:,.4g}", f"{f.ratio:.3f}", f.bar, met, str(f.runs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if figures:
        print(f"{figures[0].machine}; {figures[0].date}")
