"""Branches: a run that begins with a full checkpoint of another run.

`keep_branch_point` copies the checkpoint beside the artifacts of a release, so that the branch does not depend on what
later becomes of the run it comes from; the new run's recipe names it by digests.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_recipes.order import Order
from provenance.errors import ConfigError, ResumeMismatch
from train.checkpoint_records import checkpoint_name, read_record
from train.settings import BranchConfig, DrawsBefore, PhaseConfig, PoolDraws, RunConfig

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


def leave_out(
    config: RunConfig, order: Order, step: int, names: Sequence[str]
) -> tuple[tuple[PhaseConfig, ...], DrawsBefore]:
    """What changes in a recipe when sources are left out after a step.

    A phase that holds the step is cut there. What was drawn up to it is written down, since the part of a phase does
    not draw what a phase of that length would; from there on every source that stays goes on with its next draw.

    Args:
        config: the recipe of the run that the branch comes from.
        order: its order.
        step: step of the branch.
        names: sources to leave out.

    Returns:
        The phases, and the draws before the step after `step`.

    Raises:
        ConfigError: when the split has no such source, no later phase reads it, or a later phase would read nothing.
    """
    known = list(dict.fromkeys(source.name for source in order.sources))
    if config.data.order is not None:
        raise _refuse(names, "a file gives the order of this run, its sources among it", "a run with a mixture")
    past, later = cut_phases(config.phases, step)
    read: set[str] = set()
    phases = list(past)
    for number, phase in enumerate(later, start=len(past)):
        weights = phase_weights(config, order, phase)
        read.update(name for name in names if weights.get(name))
        rest = {name: weight for name, weight in weights.items() if weight and name not in names}
        if not rest:
            raise _refuse(names, f"phases.{number} of the branch would read nothing", f"one of {known} to stay")
        phases.append(phase.model_copy(update={"mixture": rest}) if len(rest) < len(weights) else phase)
    for name in names:
        if name not in known:
            raise _refuse([name], "the split has no such source", f"one of {known}")
        if name not in read:
            raise _refuse([name], f"no phase after step {step} reads it", "a source that a later phase reads")
    drawn = zip(order.sources, order.draws_until(step), strict=True)
    usual = config.data.window_tokens
    pools = [PoolDraws(source=s.name, window_tokens=s.window_tokens or usual, num_draws=n) for s, n in drawn if n]
    return tuple(phases), DrawsBefore(step=step, pools=tuple(pools))


def check_left_out(config: RunConfig, order: Order, step: int, names: Sequence[str]) -> None:
    """Refuse a branch in which a phase after its step still reads a source that is to be left out.

    Args:
        config: the recipe of the branch, with what was changed by hand.
        order: the order of the run that it comes from.

    Raises:
        ConfigError: naming the phase.
    """
    num_past = len(cut_phases(config.phases, step)[0])
    for number, phase in enumerate(config.phases[num_past:], start=num_past):
        weights = phase_weights(config, order, phase) or dict.fromkeys(names, 1)  # windows that the order never counted
        for name in names:
            if weights.get(name):
                raise _refuse([name], f"phases.{number} reads it again", "phases with a mixture that does without it")


def _refuse(names: Sequence[str], found: str, expected: str) -> ConfigError:
    return ConfigError(
        found, expected=expected, where=f"command line: {' '.join(f'--without source:{name}' for name in names)}"
    )


def phase_weights(config: RunConfig, order: Order, phase: PhaseConfig) -> Mapping[str, int]:
    """Weights of the sources in a phase of a recipe, over the windows that an order counts.

    Those of a phase that is still given by epochs say no more than which sources it reads.
    """
    if phase.epochs is not None:
        return dict.fromkeys(phase.epochs, 1)
    if phase.mixture != "proportional":
        return phase.mixture
    length, usual = config.window_tokens_of(phase), config.data.window_tokens
    return {s.name: s.num_windows for s in order.sources if (s.window_tokens or usual) == length}


def cut_phases(phases: Sequence[PhaseConfig], step: int) -> tuple[tuple[PhaseConfig, ...], tuple[PhaseConfig, ...]]:
    """Phases up to a step and those after it; one that holds the step is cut in two.

    Raises:
        ConfigError: when a phase up to the step is still given by epochs: in a recipe of a run it has its steps.
    """
    past, later, left = [], [], step
    for number, phase in enumerate(phases):
        if left and phase.epochs is not None:
            raise ConfigError(
                f"phases.{number} is given by epochs and begins before step {step} of the branch",
                expected="its steps and mixture as the run that the branch comes from has them",
            )
        if phase.epochs is not None:
            later.append(phase)
            continue
        num_past = min(left, phase.num_steps)
        if num_past:
            past.append(phase.model_copy(update={"num_steps": num_past}))
        if num_past < phase.num_steps:
            later.append(phase.model_copy(update={"num_steps": phase.num_steps - num_past}))
        left -= num_past
    return tuple(past), tuple(later)


def check_same_past(before: RunConfig, after: RunConfig, step: int, draws_before: DrawsBefore | None) -> None:
    """Refuse a branch whose data up to the branch point are not those of the run it comes from.

    Later phases may differ; the phase that holds the step and those before it may not, since the order of a phase
    follows from its length, batch and mixture: unless what was drawn up to the step is written down.

    Args:
        draws_before: what the branch has to say of it.

    Raises:
        ResumeMismatch: naming what differs.
    """
    keep = num_phases_until(before, step)
    old, new = before.phases[:keep], after.phases[:keep]
    if draws_before is not None and draws_before.step == step:
        old, new = cut_phases(before.phases, step)[0], cut_phases(after.phases, step)[0]
    pairs = {
        "seed": (before.seed, after.seed),
        "data.split": (before.data.split, after.data.split),
        "data.window_tokens": (before.data.window_tokens, after.data.window_tokens),
        "data.order": (before.data.order, after.data.order),
        f"phases 0 to {keep - 1}": (old, new),
        "branch.draws_before": (draws_before, after.draws_before),
        "skip_steps before it": tuple(
            [stretch for stretch in config.skip_steps if stretch[0] <= step] for config in (before, after)
        ),
    }
    for name, (expected, found) in pairs.items():
        if expected != found:
            following = "leave it as it is; a run of its own, from step 0, may have another"
            raise ResumeMismatch(
                f"{name} would be {found}",
                expected=f"{expected}, as in the run that the branch comes from, up to step {step}",
                next_command="change later phases, or add one" if name.startswith("phases") else following,
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
