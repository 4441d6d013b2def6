"""`openwright reproduce`: replay steps of a bundle in fresh processes, with its own code and data, and compare bits.

The parameter checksum in each step's record makes even a few steps conclusive for these steps. What was not replayed is
not judged. Which steps: `release.replay_segments`; starting the bundle's program: `release.replay_run`; what a
difference means: `release.comparison` and `release.divergence`.
"""

import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from provenance.console import heading
from provenance.errors import BundleError
from release.comparison import Comparison, compare_records
from release.interpreters import THIS_PYTHON, Interpreter
from release.readable import require_for_replay, require_written
from release.replay_layout import replay_layout, require_fitting
from release.replay_report import Choice, ReplayResult, with_record
from release.replay_run import Ending, run_replay
from release.replay_segments import Segment, draw_segments, segment_of_steps
from release.tensor_search import name_tensor
from release.tolerance_judge import judge
from release.verify import CheckResult


@dataclass(frozen=True)
class ReplayPlan:
    """What is going to be replayed: chosen, not begun.

    Attributes:
        choice: how the segments came to be chosen.
        num_processes: None for as many as fit.
    """

    bundle: Path
    segments: tuple[Segment, ...]
    choice: Choice
    num_processes: int | None

    def lines(self) -> list[str]:
        """The segments, one line each."""
        return [f"{s.stage} steps {s.first} to {s.last}, from {s.checkpoint.name}" for s in self.segments]


def plan_replays(
    bundle: Path,
    *,
    steps: tuple[int, int] | None = None,
    segments: int = 1,
    seed: int | None = None,
    num_processes: int | None = None,
    stage: str | None = None,
) -> ReplayPlan:
    """Choose what to replay; nothing of the bundle is run.

    Args:
        bundle: directory that holds `model/` and `dataset/`.
        steps: first and last step, or None for random segments between checkpoints.
        segments: how many random segments, without repetition.
        seed: seed of the random choice; fresh randomness by default. It is printed with the result.
        stage: training stage; by default `pretrain` for given steps, and any stage for random segments.

    Raises:
        ConfigError: for steps or a stage that the bundle does not have, or processes that cannot share its steps.
        BundleError: when files that a replay needs are missing, or are no records of a run.
    """
    _require(bundle)
    require_for_replay(bundle)
    if steps is not None:
        chosen = [segment_of_steps(bundle, stage or "pretrain", *steps)]
        choice = Choice(how="steps given", seed=None, num_segments=1, num_segments_in_all=None)
    else:
        drawn_seed = secrets.randbits(64) if seed is None else seed
        chosen, total = draw_segments(bundle, stage, segments, drawn_seed)
        how: Literal["seed given", "fresh seed"] = "fresh seed" if seed is None else "seed given"
        choice = Choice(how=how, seed=str(drawn_seed), num_segments=len(chosen), num_segments_in_all=total)
    require_fitting(bundle, sorted({segment.stage for segment in chosen}), num_processes)
    return ReplayPlan(bundle, tuple(chosen), choice, num_processes)


def run_replays(plan: ReplayPlan, interpreter: Interpreter = THIS_PYTHON) -> list[ReplayResult]:
    """Replay what was chosen, with the bundle's own code."""
    return [_replay_segment(plan, segment, interpreter) for segment in plan.segments]


def reproduce(bundle: Path, **chosen: Any) -> list[ReplayResult]:
    """Choose and replay without a question asked; arguments and errors are those of `plan_replays`."""
    return run_replays(plan_replays(bundle, **chosen))


def _require(bundle: Path) -> None:
    for needed in ("model/manifest.json", "model/code", "dataset/tokens/tokens.json"):
        if not (bundle / needed).exists():
            raise BundleError(
                f"{needed} is missing",
                expected="a bundle with code and token shards",
                where=str(bundle),
                next_command=f"openwright verify {quote(str(bundle))}, which says what else is missing",
            )


def _unless_unreadable(output: Path, ending: Ending) -> Ending:
    """A replay that wrote no records fails; what it wrote comes from the bundle's code and is put aside unread.

    One that was killed may have left half a record: there is then nothing to compare.
    """
    try:
        require_written(output)
        return ending
    except BundleError as error:
        output.rename(Path(tempfile.mkdtemp(dir=output.parent)) / output.name)
        if ending.is_cut_off:
            return ending
        return Ending("FAIL", ending.reason or f"the replay wrote what is no record: {error.where}: {error.found}")


def _replay_segment(plan: ReplayPlan, segment: Segment, interpreter: Interpreter) -> ReplayResult:
    heading(f"replaying {segment.stage} steps {segment.first} to {segment.last} from {segment.checkpoint.name}")
    name = f"{segment.stage} steps {segment.first}-{segment.last}"
    bundle = plan.bundle
    with tempfile.TemporaryDirectory(prefix="openwright-replay-") as scratch:
        output = Path(scratch) / "run"
        layout = replay_layout(bundle, segment, plan.num_processes)
        ending = run_replay(bundle, segment, layout, Path(scratch), interpreter)
        ending = _unless_unreadable(output, ending)
        if ending.verdict and not (ending.is_cut_off and (output / "ledger.jsonl").is_file()):
            where = str(segment.checkpoint) if ending.verdict == "FAIL" else ""
            comparison = Comparison(CheckResult("replay", name, ending.verdict, ending.reason, where))
        else:
            kept = bundle / "model" / "checkpoints" / segment.stage, output / "checkpoints"
            comparison = compare_records(bundle, segment, output, name, str(plan.choice), is_cut_off=ending.is_cut_off)
            comparison = comparison.explained(lambda found: name_tensor(found, *kept, segment.last))
            # A tolerance is measured on whole segments.
            comparison = (
                comparison.cut_off(ending.reason)
                if ending.is_cut_off
                else comparison.judged(lambda found: judge(bundle, segment, output, found))
            )
        record = with_record(comparison.result, plan.choice, bundle, segment, output, comparison.how)
        return replace(record, divergence=comparison.divergence, judgement=comparison.judgement)
