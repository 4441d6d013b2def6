"""Tokens per second, ours against a bare loop, DDP and the Trainer; every pair is two neighbouring blocks of steps."""

from collections.abc import Callable
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

BLOCK_STEPS = 25
"""As many as lie between two full checkpoints of the recipe: every block has one of them, in its middle."""

BF16 = ("precision=bf16",)
FASTEST = ("loss.chunk_tokens=256", "compile=true")
LOOPS: dict[str, tuple[Callable[[Work, AfterStep], None], tuple[str, ...]]] = {
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
OURS = frozenset(name for name in LOOPS if name.startswith("ours"))


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
    warm_up_steps = (block_steps + 1) // 2
    num_steps = warm_up_steps + block_steps * pairs
    processes = f"execution.num_processes={layout.world.size}"
    loops = {}
    for name in names:
        loop, overrides = LOOPS[name]
        config = load_workload(num_steps, processes, *overrides)
        loops[name] = partial(loop, Work(config, Path(corpus), Path(directory) / name, layout))
    turns = TakingTurns(
        loops,
        warm_up_steps=warm_up_steps,
        block_steps=block_steps,
        deterministic=OURS,
        processor_time=processor_time,
    )
    return turns.run()


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
        pairs = zip(self._seconds[ours], self._seconds[peer], strict=True)
        return make_figure(
            f"{figure}, {self._unit}",
            self._tokens / median(self._seconds[ours]),
            self._tokens / median(self._seconds[peer]),
            ratio=median(theirs / own for own, theirs in pairs),
            runs=len(self._seconds[ours]),
            at_least=at_least,
        )


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
