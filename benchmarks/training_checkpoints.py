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
from train.settings import PretrainConfig

BLOCK_STEPS = 4
"""Steps after a checkpoint was begun; what is not written after them is waited for, and counts as lost."""

EARLY_STEP, LATE_STEP = 10, 1_000_000
JOURNAL_CHECKPOINT_STEPS = 1000


class StepwiseRun:
    """A run that does single steps and checkpoints when told."""

    def __init__(self, layout: Layout, corpus: Path, directory: Path, config: PretrainConfig) -> None:
        self.run = TrainingRun(make_job(config, corpus, directory), layout)
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


def _long_run(layout: Layout, corpus: str, directory: str) -> StepwiseRun:
    """One of two million steps."""
    config = load_workload(2 * LATE_STEP, f"execution.num_processes={layout.world.size}")
    return StepwiseRun(layout, Path(corpus), Path(directory), config)


def measure_checkpoints(layout: Layout, corpus: str, directory: str, pairs: int) -> Json:
    """`checkpoint_seconds` of a long run."""
    return checkpoint_seconds(_long_run(layout, corpus, directory), pairs)


def checkpoint_seconds(run: StepwiseRun, pairs: int, block_steps: int = BLOCK_STEPS) -> dict[str, list[float]]:
    """Seconds of: beginning a checkpoint, writing one whole, and what so many steps lose while one is written."""
    run.steps(3)
    seconds: dict[str, list[float]] = {"stall": [], "blocking": [], "lost": []}
    for _ in range(pairs):
        run.run.world.barrier()
        seconds["blocking"].append(run.start_checkpoint(1) + run.finish_checkpoint())
        run.run.world.barrier()
        plain = run.steps(block_steps)
        stall = run.start_checkpoint(2)
        busy = run.steps(block_steps)
        seconds["stall"].append(stall)
        seconds["lost"].append(stall + busy - plain + run.finish_checkpoint())
    return seconds


def checkpoint_figures(corpus: Path, directory: Path, pairs: int) -> list[Figure]:
    """Figure 4, two processes."""
    found = measure_in_processes(measure_checkpoints, 2, str(corpus), str(directory / "checkpoints"), pairs)
    # The slowest process decides.
    worst = {key: [max(values) for values in zip(*(each[key] for each in found), strict=True)] for key in found[0]}
    return compare_checkpoints("4. full checkpoint, 2 processes, seconds", worst)


def compare_checkpoints(figure: str, seconds: dict[str, list[float]]) -> list[Figure]:
    """Stall, and all time lost, against blocking, of what `checkpoint_seconds` found."""
    blocking = seconds["blocking"]

    def compare(what: str, ours: list[float], at_most: float) -> Figure:
        ratio = median(own / peer for own, peer in zip(ours, blocking, strict=True))
        name = f"{figure}: {what} against blocking"
        return make_figure(name, median(ours), median(blocking), ratio=ratio, runs=len(ours), at_most=at_most)

    return [compare("stall", seconds["stall"], 0.05), compare("all time lost", seconds["lost"], 0.35)]


# ---- resuming -------------------------------------------------------------------------------------------------------


def write_long_run(layout: Layout, corpus: str, directory: str, num_steps: int) -> Json:
    """Leave a run as a crash right after the checkpoint of a step leaves it.

    One step is trained; its records stand in ledger and journal once for every step, chained as they would be. The
    journal has a record of a checkpoint every thousand steps.
    """
    run = _long_run(layout, corpus, directory)
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
            run = _long_run(layout, corpus, directory)
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
