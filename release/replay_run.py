"""Starting a bundle's own `train.replay`; the contract is `openwright-replay/3`, or an older one for older code."""

from dataclasses import asdict
from pathlib import Path

from provenance.canonical import read_json, write_json
from provenance.errors import StoppedForRequeue
from release.interpreters import Interpreter
from release.replay_heldout import heldout_not_here
from release.replay_layout import Layout, ran_on_cpus
from release.replay_segments import Segment, training_stages
from release.replay_tokens import tokens_not_here
from train.replay import ERROR_FILE, REPLAY_FORMATS, ReplayRequest

_MOST_CHARS = 1000  # of what the bundle's code says of its failure, on one line

_FIELDS_SINCE = {
    "keep_checkpoints": "openwright-replay/2",
    "tensor_size": "openwright-replay/3",
    "context_size": "openwright-replay/3",
}


def run_replay(
    bundle: Path, segment: Segment, layout: Layout, scratch: Path, interpreter: Interpreter
) -> tuple[str, str]:
    """Replay a segment with the bundle's own code, in fresh processes.

    Args:
        scratch: an empty directory; the replayed ledger is written to `run/` in it, and the checkpoints that the steps
            come by where the bundle's code knows how to keep them.

    Returns:
        Verdict and reason where the replay did not come to its end; two empty texts where it did.
    """
    if lost := tokens_not_here(bundle, segment) or heldout_not_here(bundle, segment):
        return "UNVERIFIED", lost
    output = scratch / "run"
    version = _contract(bundle / "model" / "code")
    request = ReplayRequest(
        format=version,
        stage=segment.stage,
        recipe=str((bundle / "model" / "training" / segment.stage / "recipe.json").resolve()),
        corpus=str((bundle / "dataset").resolve()),
        base_checkpoint=_base_checkpoint(bundle, segment.stage),
        from_checkpoint=str(segment.checkpoint.resolve()),
        last_step=segment.last,
        output=str(output),
        num_processes=layout.num_processes,
        shard_size=layout.shard_size,
        keep_checkpoints=version != REPLAY_FORMATS[0],
        tensor_size=layout.tensor_size,
        context_size=layout.context_size,
    )
    values = asdict(request)
    for name, since in _FIELDS_SINCE.items():
        if REPLAY_FORMATS.index(version) < REPLAY_FORMATS.index(since):
            del values[name]
    write_json(scratch / "request.json", values)
    code, arguments = bundle / "model" / "code", ["train.replay", str(scratch / "request.json")]
    done = interpreter.run(code, arguments, scratch, on_cpus=ran_on_cpus(bundle, segment.stage))
    if done.returncode == StoppedForRequeue.exit_code:
        return "UNVERIFIED", "the replay was stopped by a signal"
    if done.returncode != 0:
        message = output / ERROR_FILE
        told = message.read_text(encoding="utf-8", errors="replace") if message.is_file() else ""
        reason = " ".join(told.split())[:_MOST_CHARS] or f"exit code {done.returncode}, messages above"
        return "FAIL", f"the replay failed: {reason}"
    return "", ""


def _contract(code: Path) -> str:
    """The newest version of the contract that a bundle's code names; nothing of it is run to find out."""
    program = code / "train" / "replay.py"
    text = program.read_text(encoding="utf-8", errors="replace") if program.is_file() else ""
    return next((version for version in reversed(REPLAY_FORMATS) if f'"{version}"' in text), REPLAY_FORMATS[0])


def _base_checkpoint(bundle: Path, stage: str) -> str:
    """Weights that a fine-tuning stage started from: the final checkpoint of the stage before it."""
    stages = training_stages(bundle)
    place = stages.index(stage)
    if place == 0:
        return ""
    base = stages[place - 1]
    final = read_json(bundle / "model" / "training" / base / "run.json")["final"]["path"]
    return str((bundle / "model" / "checkpoints" / base / Path(final).name).resolve())
