"""Branches: a run that begins with a full checkpoint of another run.

`keep_branch_point` copies the checkpoint beside the artifacts of a release, so that the branch does not depend on what
later becomes of the run it comes from; the new run's recipe names it by digests.
"""

import os
import shutil
from pathlib import Path

from provenance.errors import ResumeMismatch
from train.checkpoint_records import checkpoint_name, read_record
from train.settings import BranchConfig, RunConfig

BRANCHES = "branches"
_SHORT_LENGTH = 12


def branch_dir(store: Path, state_digest: str) -> Path:
    """Where the checkpoint lies that a branch begins with."""
    return store / BRANCHES / state_digest[:_SHORT_LENGTH]


def keep_branch_point(checkpoints: Path, step: int, store: Path) -> BranchConfig:
    """Copy the full checkpoint of a step to where branches find it, and describe it.

    Args:
        checkpoints: the run's directory of checkpoints.
        step: step of the checkpoint.
        store: directory of the release's artifacts.

    Raises:
        ResumeMismatch: when there is no full checkpoint of that step.
    """
    source = checkpoints / checkpoint_name(step)
    full = sorted(
        record.step
        for path in checkpoints.glob("step-*")
        if (path / "checkpoint.json").is_file() and (record := read_record(path)).kind == "full"
    )
    if step not in full:
        raise ResumeMismatch(
            f"no full checkpoint of step {step}",
            expected=f"one of the steps {', '.join(map(str, full)) or '(none)'}",
            where=str(checkpoints),
            next_command="openwright branch RUN --at STEP with one of these steps",
        )
    record = read_record(source)
    assert record.state_digest is not None
    target = branch_dir(store, record.state_digest)
    if not target.is_dir():
        work = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        os.replace(work, target)
    return BranchConfig(ledger_head=record.ledger.head, step=step, state_digest=record.state_digest)


def find_branch_point(store: Path, branch: BranchConfig) -> Path:
    """Directory of the checkpoint that a recipe's branch names.

    Raises:
        ResumeMismatch: when it is not here.
    """
    path = branch_dir(store, branch.state_digest)
    if not (path / "checkpoint.json").is_file():
        raise ResumeMismatch(
            f"the checkpoint of step {branch.step} with which this run begins is not here",
            expected=f"state {branch.state_digest}",
            where=str(path),
            next_command=f"openwright branch RUN --at {branch.step}, with the run or bundle it comes from",
        )
    return path


def check_same_past(before: RunConfig, after: RunConfig, step: int) -> None:
    """Refuse a branch whose data up to the branch point are not those of the run it comes from.

    Later phases may differ; the phase that holds the step and those before it may not, since the order of a phase
    follows from its length, batch and mixture.

    Raises:
        ResumeMismatch: naming what differs.
    """
    keep = num_phases_until(before, step)
    pairs = {
        "seed": (before.seed, after.seed),
        "data.split": (before.data.split, after.data.split),
        "data.window_tokens": (before.data.window_tokens, after.data.window_tokens),
        f"phases 0 to {keep - 1}": (before.phases[:keep], after.phases[:keep]),
        "skip_steps before it": tuple(
            [stretch for stretch in config.skip_steps if stretch[0] <= step] for config in (before, after)
        ),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            raise ResumeMismatch(
                f"{name} would be {new}",
                expected=f"{old}, as in the run that the branch comes from, up to step {step}",
                next_command="change later phases, or add one",
            )


def num_phases_until(config: RunConfig, step: int) -> int:
    """How many phases have begun by a step."""
    first_step, count = 1, 0
    for phase in config.phases:
        if first_step > step:
            break
        first_step += phase.num_steps
        count += 1
    return count
