"""Peak memory of a process, ours against a bare loop, and what `openwright plan` says of the difference."""

from collections.abc import Callable
from pathlib import Path

from figures import Figure, make_figure
from processes import measure_in_processes
from training_loops import AfterStep, Work, bare_loop, our_loop, our_steps_alone
from training_workload import VOCAB_SIZE, load_workload

from provenance.canonical import Json
from train.accounting import meta_model, model_shape
from train.layout import Layout
from train.memory import MOMENTS, MemoryPart, measure_activations, memory_parts, peak_bytes
from train.settings import PretrainConfig

NUM_STEPS = 6
MIB = 2**20
LOOPS: dict[str, Callable[[Work, AfterStep], None]] = {
    "ours": our_loop,
    "ours, steps alone": our_steps_alone,
    "bare": bare_loop,
}


def measure_peak(layout: Layout, corpus: str, directory: str, name: str) -> Json:
    """Resident bytes before a loop is built, with all libraries loaded, and the most there were until it ended."""
    before = _status_bytes("VmRSS")
    work = Work(_workload(layout.world.size), Path(corpus), Path(directory) / name, layout)
    LOOPS[name](work, lambda: None)
    return {"before": before, "peak": _status_bytes("VmHWM")}


def _workload(num_processes: int) -> PretrainConfig:
    return load_workload(NUM_STEPS, f"execution.num_processes={num_processes}")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel reports no {field}")


def memory_figures(corpus: Path, directory: Path) -> list[Figure]:
    """Figure 6."""

    def peaks(name: str, num_processes: int, place: str, *, returns_memory: bool = False) -> list[Json]:
        where = str(directory / place)
        return measure_in_processes(
            measure_peak, num_processes, str(corpus), where, name, returns_memory=returns_memory
        )

    replicas = _workload(1).num_logical_replicas
    ours, steps, bare = (peaks(name, replicas, "memory-all") for name in ("ours", "ours, steps alone", "bare"))
    alone, plain = (peaks(name, 1, "memory-one", returns_memory=True)[0] for name in ("ours, steps alone", "bare"))
    extra, predicted = alone["peak"] - alone["before"] - (plain["peak"] - plain["before"]), _predicted_extra()
    return [
        make_figure(
            f"6. peak MiB of a process, {replicas} processes, against a bare DDP loop",
            max(each["peak"] for each in ours) / MIB,
            max(each["peak"] for each in bare) / MIB,
            runs=1,
            at_most=1.05,
        ),
        make_figure(
            "6. the same of steps alone, without checkpoints",
            max(each["peak"] for each in steps) / MIB,
            max(each["peak"] for each in bare) / MIB,
            runs=1,
            at_most=1.05,
        ),
        make_figure(
            "6. the same of steps alone, less what the libraries take",
            max(each["peak"] - each["before"] for each in steps) / MIB,
            max(each["peak"] - each["before"] for each in bare) / MIB,
            runs=1,
        ),
        make_figure(
            "6. extra MiB at 1 process, measured against planned",
            extra / MIB,
            predicted / MIB,
            runs=1,
            near_one=0.1,
        ),
    ]


def _predicted_extra() -> int:
    """What the plan's table says of the difference: partial sums, less the sum that a bare loop keeps in `.grad`."""
    config = _workload(1)
    window = config.data.window_tokens
    shape = model_shape(meta_model(config.model, VOCAB_SIZE, window))
    activations = measure_activations(config.model, config.precision, VOCAB_SIZE, window)
    ours = memory_parts(shape, config, activations, 1, 1)
    bare = [
        MemoryPart(part.name, part.num_bytes, MOMENTS if part.name == "gradients" else part.moments, part.note)
        for part in ours
        if part.name not in ("partial sums", "exchange")
    ]
    return peak_bytes(ours)[0] - peak_bytes(bare)[0]
