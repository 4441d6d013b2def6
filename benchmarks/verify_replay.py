"""What a step costs when it is replayed, against what it cost when it was trained."""

import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from figures import Figure, make_figure
from processes import measure_in_processes
from training_workload import load_workload, make_job, write_corpus

from provenance.canonical import Json, read_json
from provenance.ledger import read_back
from train.layout import Layout
from train.loop import TrainingRun

BLOCK_STEPS = 3
LAST_STEP = 1000


def measure_replays(layout: Layout, corpus: str, directory: str, pairs: int) -> Json:
    """Processor seconds of blocks of steps, trained and replayed from the checkpoint of step 1, in turns."""
    config = load_workload(LAST_STEP, f"checkpoints.full_every_steps={LAST_STEP}")
    job = make_job(config, Path(corpus), Path(directory) / "trained")
    trained = TrainingRun(job, layout)
    step = trained.start()
    trained.train_step(step + 1)
    trained.begin_checkpoint(step + 1, "full")
    trained.finish_checkpoint()
    (checkpoint,) = (
        path.parent
        for path in trained.run_dir.glob("checkpoints/*/checkpoint.json")
        if read_json(path)["kind"] == "full"
    )
    seconds: dict[str, list[float]] = {"trained": [], "replayed": []}
    last = step + 1
    for number in range(pairs + 1):
        run_dir = Path(directory) / f"replayed-{number}"
        run_dir.mkdir()
        again = TrainingRun(replace(job, run_dir=str(run_dir), replay_from=str(checkpoint)), layout)
        first = again.start()
        for name, run, begin in (("trained", trained, last), ("replayed", again, first)):
            began = time.process_time()
            for each in range(begin + 1, begin + 1 + BLOCK_STEPS):
                run.train_step(each)
                run.boundary(each)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
        last += BLOCK_STEPS
        if not number:
            _require_equal_steps(trained, again)
        again.close()
    return seconds


def _require_equal_steps(trained: TrainingRun, again: TrainingRun) -> None:
    """A replay of something else would be no peer."""
    ends = []
    for run in (trained, again):
        record = next(record for record in read_back(run.run_dir / "ledger.jsonl") if record["kind"] == "step")
        ends.append((record["step"], record["parameter_checksum"]))
    if ends[0] != ends[1]:
        raise RuntimeError(f"the replay ends elsewhere: {ends}")


def replay_figures(scratch: Path, pairs: int) -> list[Figure]:
    """The same code does both; what a replay adds is reading a checkpoint, which is not in these figures."""
    write_corpus(scratch / "corpus")
    arguments = (str(scratch / "corpus"), str(scratch / "replays"), pairs)
    (found,) = measure_in_processes(measure_replays, 1, *arguments)
    ratio = median(a / b for a, b in zip(found["replayed"], found["trained"], strict=True))
    ours, peer = (median(found[key]) / BLOCK_STEPS for key in ("replayed", "trained"))
    name = "replay: processor seconds of a step, replayed against trained"
    return [make_figure(name, ours, peer, ratio=ratio, runs=pairs, at_most=1.1)]
