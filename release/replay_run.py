"""Starting a bundle's own `train.replay`; the contract is `openwright-replay/3`, or an older one for older code."""

from dataclasses import asdict, dataclass
from pathlib import Path

from provenance.canonical import read_json, write_json
from provenance.errors import StoppedForRequeue
from provenance.lifetime import killed_by
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


@dataclass(frozen=True)
class Ending:
    """How a replay ended.

    Attributes:
        verdict: what that means where it did not come to its end; empty where it did.
        reason: why it did not.
        is_cut_off: whether it was stopped or killed on the way. Nothing is then known of the steps that it did not come
            to; those that it wrote down are compared like any.
    """

    verdict: str = ""
    reason: str = ""
    is_cut_off: bool = False


def run_replay(bundle: Path, segment: Segment, layout: Layout, scratch: Path, interpreter: Interpreter) -> Ending:
    """Replay a segment with the bundle's own code, in fresh processes.

    Args:
        scratch: an empty directory; the replayed ledger is written to `run/` in it, and the checkpoints that the steps
            come by where the bundle's code knows how to keep them.
    """
    if lost := tokens_not_here(bundle, segment) or heldout_not_here(bundle, segment):
        return Ending("UNVERIFIED", lost)
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
    return _ending(done.returncode, output, segment)


def _ending(code: int, output: Path, segment: Segment) -> Ending:
    """What the exit code of a bundle's program means.

    Whoever wrote that program can end it with any code. So none of those that are not its fault passes anything, and
    the user is told to ask for these very steps again: who draws others until one passes is led past what was forged.
    """
    again = f"replay these very steps again: --stage {segment.stage} --step {segment.first}:{segment.last}"
    if code == StoppedForRequeue.exit_code:
        return Ending("UNVERIFIED", f"the replay was stopped by a signal; {again}", is_cut_off=True)
    if killer := killed_by(code):
        who = "by a person, a limit or a scheduler, for want of memory, or by the replayed code itself"
        return Ending("UNVERIFIED", f"the replay was killed ({killer.name}), {who}; {again}", is_cut_off=True)
    if code != 0:
        message = output / ERROR_FILE
        told = message.read_text(encoding="utf-8", errors="replace") if message.is_file() else ""
        reason = " ".join(told.split())[:_MOST_CHARS] or f"exit code {code}, messages above"
        return Ending("FAIL", f"the replay failed: {reason}")
    return Ending()


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
