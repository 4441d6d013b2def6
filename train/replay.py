"""Replay some steps of a finished run in fresh processes: `python -m train.replay REQUEST.json`.

A bundle's own copy of this program is what `openwright reproduce` starts, so that the code that ran is the code that
is replayed. The request (`openwright-replay/3`) is the only contract between a newer verifier and older code.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from data_recipes.order_file import ORDER_FILE
from provenance.canonical import read_json
from provenance.errors import JobKilled, OpenwrightError
from train.job import TrainingJob
from train.jobs import default_processes, launch

REPLAY_FORMAT = "openwright-replay/3"
REPLAY_FORMATS = ("openwright-replay/1", "openwright-replay/2", REPLAY_FORMAT)
"""Requests that this program takes; the first version has no `keep_checkpoints`, the second no `tensor_size` and
`context_size`."""
ERROR_FILE = "error.txt"
"""File in the output directory with the message of a replay that failed."""


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay.

    Attributes:
        stage: `pretrain` or `sft`.
        recipe: path of the run's `recipe.json`; the file of its order, if it has one, lies beside it.
        corpus: path of the corpus.
        base_checkpoint: for fine-tuning, the weights that the run started from; else empty.
        from_checkpoint: checkpoint to start from: a full one, or that of step 0.
        last_step: last step to replay.
        output: directory for the replayed ledger; made if absent.
        num_processes: None for as many as fit this machine.
        shard_size: processes over which the model is sharded.
        keep_checkpoints: whether the checkpoints that the steps come by are written to `<output>/checkpoints/`; without
            it only their digests are, to the ledger.
        tensor_size: processes over which matrices are cut.
        context_size: processes that share windows.
    """

    format: str
    stage: str
    recipe: str
    corpus: str
    base_checkpoint: str
    from_checkpoint: str
    last_step: int
    output: str
    num_processes: int | None
    shard_size: int = 1
    keep_checkpoints: bool = False
    tensor_size: int = 1
    context_size: int = 1


def replay(request: ReplayRequest) -> None:
    """Run the requested steps; `<output>/ledger.jsonl` then begins with the record of the starting checkpoint."""
    if request.format not in REPLAY_FORMATS:
        raise OpenwrightError(
            f"replay request of format {request.format!r}", expected=f"one of {', '.join(REPLAY_FORMATS)}"
        )
    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    job = TrainingJob(
        stage=request.stage,
        recipe=read_json(Path(request.recipe)),
        execution={name: getattr(request, name) for name in ("shard_size", "tensor_size", "context_size")},
        corpus=request.corpus,
        run_dir=str(output.resolve()),
        base_checkpoint=request.base_checkpoint,
        parents=(),
        branch_from="",
        replay_from=request.from_checkpoint,
        last_step=request.last_step,
        keep_checkpoints=request.keep_checkpoints,
        order_file=str(Path(request.recipe).with_name(ORDER_FILE)),
    )
    config = job.config
    launch(job, request.num_processes or default_processes(config.num_logical_replicas), config.threads_per_process)


def main() -> int:
    """Replay what the request file names; an error's message is kept and its exit code returned.

    Where a process of the job was killed by signal N the code is 128 + N, as it would be for this one.
    """
    request = ReplayRequest(**read_json(Path(sys.argv[1])))
    try:
        replay(request)
    except OpenwrightError as error:
        print(error, file=sys.stderr)
        Path(request.output).mkdir(parents=True, exist_ok=True)
        (Path(request.output) / ERROR_FILE).write_text(str(error))
        return 128 + error.signal_number if isinstance(error, JobKilled) else error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
