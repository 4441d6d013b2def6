"""Starting a bundle's own `train.replay`, the contract with it being `openwright-replay/1`."""

from dataclasses import asdict
from pathlib import Path

from provenance.canonical import read_json, write_json
from provenance.errors import StoppedForRequeue
from release.interpreters import Interpreter
from release.replay_layout import Layout
from release.replay_segments import Segment, training_stages
from train.replay import ERROR_FILE, REPLAY_FORMAT, ReplayRequest


def run_replay(
    bundle: Path, segment: Segment, layout: Layout, scratch: Path, interpreter: Interpreter
) -> tuple[str, str]:
    """Replay a segment with the bundle's own code, in fresh processes.

    Args:
        scratch: an empty directory; the replayed ledger is written to `run/` in it.

    Returns:
        Verdict and reason where the replay did not come to its end; two empty texts where it did.
    """
    output = scratch / "run"
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
    write_json(scratch / "request.json", asdict(request))
    done = interpreter.run(bundle / "model" / "code", ["train.replay", str(scratch / "request.json")], scratch)
    if done.returncode == StoppedForRequeue.exit_code:
        return "UNVERIFIED", "the replay was stopped by a signal"
    if done.returncode != 0:
        message = output / ERROR_FILE
        reason = message.read_text() if message.is_file() else f"exit code {done.returncode}, messages above"
        return "FAIL", f"the replay failed: {reason}"
    return "", ""


def _base_checkpoint(bundle: Path, stage: str) -> str:
    """Weights that a fine-tuning stage started from: the final checkpoint of the stage before it."""
    stages = training_stages(bundle)
    place = stages.index(stage)
    if place == 0:
        return ""
    base = stages[place - 1]
    final = read_json(bundle / "model" / "training" / base / "run.json")["final"]["path"]
    return str((bundle / "model" / "checkpoints" / base / Path(final).name).resolve())
