"""Tokens per second, ours against a bare loop, DDP and the Trainer; every pair is two neighbouring blocks of steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
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
from train.settings import PretrainConfig

BLOCK_STEPS = 25
"""As many as lie between two full checkpoints of the recipe: every block has one of them, in its middle."""

BF16 = ("precision=bf16",)
FASTEST = ("loss.chunk_tokens=256", "compile=true")
LoopAndRecipe = tuple[Callable[[Work, AfterStep], None], tuple[str, ...]]
"""A loop, and what it changes in the recipe."""

LOOPS: dict[str, LoopAndRecipe] = {
    "ours": (our_loop, ()),
    "ours, fastest": (our_loop, FASTEST),
    "ours, steps alone": (our_steps_alone, ()),
    "bare": (bare_loop, ()),
    "bare, fused": (fused_bare_loop, ()),
    "Trainer": (trainer_loop, ()),
    "ours, bf16": (our_loop, BF16),
    "ours, fastest, bf16": (our_loop, (*FASTEST, *BF16)),
    "Trainer, bf16": (trainer_loop, BF16),
}


@dataclass(frozen=True)
class SpeedOptions:
    """How long the speed figures measure, and by which seconds."""

    pairs: int
    block_steps: int
    processor_time: bool


def measure_blocks(
    layout: Layout, corpus: str, directory: str, names: list[str], pairs: int, block_steps: int, processor_time: bool
) -> Json:
    """Seconds of each block of steps of each loop, in one process of a layout."""
    workload = partial(_workload, layout.world.size)
    loops = {name: LOOPS[name] for name in names}
    options = SpeedOptions(pairs, block_steps, processor_time)
    return take_turns(loops, workload, layout, Path(corpus), Path(directory), options)


def _workload(num_processes: int, num_steps: int, *overrides: str) -> PretrainConfig:
    return load_workload(num_steps, f"execution.num_processes={num_processes}", *overrides)


def take_turns(
    loops: Mapping[str, LoopAndRecipe],
    workload: Callable[..., PretrainConfig],
    layout: Layout,
    corpus: Path,
    directory: Path,
    options: SpeedOptions,
) -> dict[str, list[float]]:
    """Seconds of each measured block of each loop, in this process.

    Args:
        loops: by name, each with what it changes in the recipe; ours have names that begin so.
        workload: makes the recipe, given the number of steps and what to change.
    """
    warm_up_steps = (options.block_steps + 1) // 2
    num_steps = warm_up_steps + options.block_steps * options.pairs
    turns = TakingTurns(
        {
            name: partial(loop, Work(workload(num_steps, *overrides), corpus, directory / name, layout))
            for name, (loop, overrides) in loops.items()
        },
        warm_up_steps=warm_up_steps,
        block_steps=options.block_steps,
        deterministic=frozenset(name for name in loops if name.startswith("ours")),
        processor_time=options.processor_time,
    )
    return turns.run()


def speed_figure(
    figure: str, ours: Sequence[float], peer: Sequence[float], num_tokens: int, unit: str, at_least: float
) -> Figure:
    """Compare the seconds of two loops' blocks, of `num_tokens` each, pair by pair."""
    return make_figure(
        f"{figure}, {unit}",
        num_tokens / median(ours),
        num_tokens / median(peer),
        ratio=median(theirs / own for own, theirs in zip(ours, peer, strict=True)),
        runs=len(ours),
        at_least=at_least,
    )


class _Speeds:
    """Blocks of several loops in some processes; per second of the clock, or of processor time of the first process."""

    def __init__(
        self, corpus: Path, directory: Path, num_processes: int, names: list[str], options: SpeedOptions
    ) -> None:
        arguments = (str(corpus), str(directory / f"speed-{num_processes}"), names, *astuple(options))
        self._seconds: dict[str, list[float]] = measure_in_processes(measure_blocks, num_processes, *arguments)[0]
        self._tokens = options.block_steps * TOKENS_PER_STEP
        self._unit = "tokens per processor second" if options.processor_time else "tokens/s"

    def compare(self, figure: str, ours: str, peer: str, at_least: float) -> Figure:
        """Compare two loops pair by pair."""
        return speed_figure(figure, self._seconds[ours], self._seconds[peer], self._tokens, self._unit, at_least)


def speed_figures(corpus: Path, directory: Path, options: SpeedOptions) -> list[Figure]:
    """Figures 1 and 2, one process."""
    names = ["ours", "bare", "bare, fused", "Trainer", "ours, fastest"]
    speeds = _Speeds(corpus, directory, 1, names, options)
    bf16_names = ["ours, bf16", "Trainer, bf16", "ours, fastest, bf16"]
    bf16_speeds = _Speeds(corpus, directory, 1, bf16_names, options)
    return [
        speeds.compare("1. 1 process against a bare loop, AdamW of torch's choice", "ours", "bare", 0.97),
        speeds.compare("1. 1 process against a bare loop, fused AdamW", "ours", "bare, fused", 0.97),
        speeds.compare("2. 1 process against Trainer", "ours", "Trainer", 1.0),
        speeds.compare("2. 1 process, chunked loss, compiled, against Trainer", "ours, fastest", "Trainer", 1.2),
        bf16_speeds.compare("2. bf16, 1 process against Trainer", "ours, bf16", "Trainer, bf16", 1.0),
        bf16_speeds.compare(
            "2. bf16, 1 process, chunked loss, compiled, against Trainer", "ours, fastest, bf16", "Trainer, bf16", 1.2
        ),
    ]


def process_figures(corpus: Path, directory: Path, options: SpeedOptions) -> list[Figure]:
    """Figures 1 and 3, two processes."""
    names = ["ours", "bare", "bare, fused", "ours, steps alone"]
    speeds = _Speeds(corpus, directory, 2, names, options)
    return [
        speeds.compare("1. 2 processes against a bare DDP loop, AdamW of torch's choice", "ours", "bare", 0.97),
        speeds.compare("1. 2 processes against a bare DDP loop, fused AdamW", "ours", "bare, fused", 0.97),
        speeds.compare("3. 2 processes, exact reduction against DDP", "ours, steps alone", "bare", 0.95),
        speeds.compare("3. 2 processes, exact reduction against DDP, fused", "ours, steps alone", "bare, fused", 0.95),
    ]
