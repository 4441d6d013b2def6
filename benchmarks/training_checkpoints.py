"""What a checkpoint costs the loop that goes on meanwhile, and what a resume costs after many steps."""

import shutil
import time
from pathlib import Path
from statistics import median

from figures import Figure, make_figure
from processes import measure_in_processes
from training_workload import load_workload, make_job

from provenance.canonical import Json, hex_float
from provenance.ledger import read_back
from train.layout import Layout
from train.loop import TrainingRun

BLOCK_STEPS = 4
"""Steps after a checkpoint was begun; what is not written after them is waited for, and counts as lost."""

EARLY_STEP, LATE_STEP = 10, 1_000_000
JOURNAL_CHECKPOINT_STEPS = 1000


class _Run:
    """A run of two million steps that does single steps and checkpoints when told."""

    def __init__(self, layout: Layout, corpus: str, directory: Path) -> None:
        config = load_workload(2 * LATE_STEP, f"execution.num_processes={layout.world.size}")
        self.run = TrainingRun(make_job(config, Path(corpus), directory), layout)
        self.step = self.run.start()
        self.run.finish_checkpoint()

    def steps(self, count: int) -> float:
        """Seconds of some steps."""
        began = time.perf_counter()
        for _ in range(count):
            self.step += 1
            self.run.train_step(self.step)
            self.run.boundary(self.step)
        return time.perf_counter() - began

    def start_checkpoint(self, step: int) -> float:
        """Begin to write a full checkpoint; returns how long the loop stood still."""
        began = time.perf_counter()
        self.run.begin_checkpoint(step, "full")
        return time.perf_counter() - began

    def finish_checkpoint(self) -> float:
        """Wait until it is written."""
        began = time.perf_counter()
        self.run.finish_checkpoint()
        return time.perf_counter() - began


def measure_checkpoints(layout: Layout, corpus: str, directory: str, pairs: int) -> Json:
    """Seconds of: beginning a checkpoint, writing one whole, and what steps lose while one is written."""
    run = _Run(layout, corpus, Path(directory))
    run.steps(3)
    seconds: dict[str, list[float]] = {"stall": [], "blocking": [], "lost": []}
    for _ in range(pairs):
        layout.world.barrier()
        seconds["blocking"].append(run.start_checkpoint(1) + run.finish_checkpoint())
        layout.world.barrier()
        plain = run.steps(BLOCK_STEPS)
        stall = run.start_checkpoint(2)
        busy = run.steps(BLOCK_STEPS)
        seconds["stall"].append(stall)
        seconds["lost"].append(stall + busy - plain + run.finish_checkpoint())
    return seconds


def checkpoint_figures(corpus: Path, directory: Path, pairs: int) -> list[Figure]:
    """Figure 4."""
    found = measure_in_processes(measure_checkpoints, 2, str(corpus), str(directory / "checkpoints"), pairs)
    # The slowest process decides.
    worst = {key: [max(values) for values in zip(*(each[key] for each in found), strict=True)] for key in found[0]}
    stalls = [a / b for a, b in zip(worst["stall"], worst["blocking"], strict=True)]
    losses = [a / b for a, b in zip(worst["lost"], worst["blocking"], strict=True)]
    stall, blocking, lost = (median(worst[key]) for key in ("stall", "blocking", "lost"))
    what = "4. full checkpoint, 2 processes, seconds: "
    return [
        make_figure(what + "stall against blocking", stall, blocking, ratio=median(stalls), runs=pairs, at_most=0.05),
        make_figure(
            what + "all time lost against blocking", lost, blocking, ratio=median(losses), runs=pairs, at_most=0.35
        ),
    ]


# ---- resuming -------------------------------------------------------------------------------------------------------


def write_long_run(layout: Layout, corpus: str, directory: str, num_steps: int) -> Json:
    """Leave a run as a crash right after the checkpoint of a step leaves it.

    One step is trained; its records stand in ledger and journal once for every step, chained as they would be. The
    journal has a record of a checkpoint every thousand steps.
    """
    run = _Run(layout, corpus, Path(directory))
    run.steps(1)
    assert run.run.ledger is not None
    record = {key: value for key, value in next(read_back(run.run.run_dir / "ledger.jsonl")).items()}
    del record["previous"]
    for step in range(1, num_steps + 1):
        if step > 1:
            run.run.ledger.append({**record, "step": step})
        run.run.note("step", step=step, seconds=hex_float(0.5), tokens_per_second=hex_float(4096.0))
        if step % JOURNAL_CHECKPOINT_STEPS == 0:
            run.run.note("checkpoint", step=step, checkpoint_kind="full", **run.run.segment)
    run.start_checkpoint(num_steps)
    run.finish_checkpoint()
    return {"ledger_bytes": (run.run.run_dir / "ledger.jsonl").stat().st_size}


def measure_resumes(layout: Layout, corpus: str, directories: list[str], pairs: int, processor_time: bool) -> Json:
    """Seconds from building a run to the end of its first step, for each directory in turn."""
    now = time.process_time if processor_time else time.perf_counter
    seconds: list[list[float]] = [[] for _ in directories]
    for number in range(pairs + 1):
        for place, directory in enumerate(directories):
            began = now()
            run = _Run(layout, corpus, Path(directory))
            run.steps(1)
            if number:  # the first round warms up
                seconds[place].append(now() - began)
    return seconds


def resume_figures(corpus: Path, directory: Path, pairs: int, *, processor_time: bool = False) -> list[Figure]:
    """Figure 5; in seconds of the clock, or of processor time."""
    unit = "processor seconds" if processor_time else "seconds"
    directories = [str(directory / f"resume-{step}") for step in (EARLY_STEP, LATE_STEP)]
    for path, step in zip(directories, (EARLY_STEP, LATE_STEP), strict=True):
        measure_in_processes(write_long_run, 1, str(corpus), path, step)
    early, late = measure_in_processes(measure_resumes, 1, str(corpus), directories, pairs, processor_time)[0]
    for path in directories:
        shutil.rmtree(path)
    return [
        make_figure(
            f"5. {unit} to the first step: resume at step {LATE_STEP:,} against step {EARLY_STEP}",
            median(late),
            median(early),
            ratio=median(a / b for a, b in zip(late, early, strict=True)),
            runs=pairs,
            near_one=0.05,
        )
    ]
