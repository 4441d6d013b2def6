"""Tokens per second, ours against a bare loop, DDP and the Trainer; every pair is two neighbouring blocks of steps."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from figures import Figure, make_figure
from processes import measure_in_processes
from taking_turns import TakingTurns
from training_loops import AfterStep, Work, bare_loop, fused_bare_loop, our_loop, our_steps_alone, trainer_loop
from training_workload import TOKENS_PER_STEP, load_workload

from provenance.canonical import Json
from train.layout import Layout

BLOCK_STEPS = 25
"""As many as lie between two full checkpoints of the recipe: every block has one of them, in its middle."""

FASTEST = ("loss.chunk_tokens=128", "compile=true")
LOOPS: dict[str, tuple[Callable[[Work, AfterStep], None], tuple[str, ...]]] = {
    "ours": (our_loop, ()),
    "ours, fastest": (our_loop, FASTEST),
    "ours, steps alone": (our_steps_alone, ()),
    "bare": (bare_loop, ()),
    "bare, fused": (fused_bare_loop, ()),
    "Trainer": (trainer_loop, ()),
}
OURS = frozenset(name for name in LOOPS if name.startswith("ours"))


def measure_blocks(layout: Layout, corpus: str, directory: str, names: list[str], pairs: int, block_steps: int) -> Json:
    """Seconds of each block of steps of each loop, in one process of a layout."""
    warm_up_steps = (block_steps + 1) // 2
    num_steps = warm_up_steps + block_steps * pairs
    processes = f"execution.num_processes={layout.world.size}"
    loops = {}
    for name in names:
        loop, overrides = LOOPS[name]
        config = load_workload(num_steps, processes, *overrides)
        loops[name] = partial(loop, Work(config, Path(corpus), Path(directory) / name, layout))
    turns = TakingTurns(loops, warm_up_steps=warm_up_steps, block_steps=block_steps, deterministic=OURS)
    return turns.run()


def speed_figures(corpus: Path, directory: Path, pairs: int, block_steps: int) -> list[Figure]:
    """Figures 1 to 3."""

    def blocks(num_processes: int, *names: str) -> dict[str, list[float]]:
        where = str(directory / f"{num_processes}-processes")
        arguments = (str(corpus), where, list(names), pairs, block_steps)
        found: dict[str, list[float]] = measure_in_processes(measure_blocks, num_processes, *arguments)[0]
        return found

    def compare(figure: str, seconds: dict[str, list[float]], ours: str, peer: str, at_least: float) -> Figure:
        tokens = block_steps * TOKENS_PER_STEP
        ratios = [b / a for a, b in zip(seconds[ours], seconds[peer], strict=True)]
        return make_figure(
            f"{figure}, tokens/s",
            tokens / median(seconds[ours]),
            tokens / median(seconds[peer]),
            ratio=median(ratios),
            runs=len(ratios),
            at_least=at_least,
        )

    one = blocks(1, "ours", "bare", "bare, fused", "Trainer", "ours, fastest")
    two = blocks(2, "ours", "bare", "bare, fused", "ours, steps alone")
    return [
        compare("1. 1 process against a bare loop, AdamW of torch's choice", one, "ours", "bare", 0.97),
        compare("1. 1 process against a bare loop, fused AdamW", one, "ours", "bare, fused", 0.97),
        compare("1. 2 processes against a bare DDP loop, AdamW of torch's choice", two, "ours", "bare", 0.97),
        compare("1. 2 processes against a bare DDP loop, fused AdamW", two, "ours", "bare, fused", 0.97),
        compare("2. 1 process against Trainer", one, "ours", "Trainer", 1.0),
        compare("2. 1 process, chunked loss, compiled, against Trainer", one, "ours, fastest", "Trainer", 1.2),
        compare("3. 2 processes, exact reduction against DDP", two, "ours, steps alone", "bare", 0.95),
        compare("3. 2 processes, exact reduction against DDP, fused", two, "ours, steps alone", "bare, fused", 0.95),
    ]
