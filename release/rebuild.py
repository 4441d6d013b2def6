"""`openwright reproduce --full`: sources fetched, every stage made again, and the bundle compared by content digest.

Every stage runs in fresh processes from the bundle's own code, and is compared before the next begins. The bundle
passes for one thing only: the content digest of the rebuilt one is its own, and its files were checked against that.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance.canonical import Json, parse_json
from provenance.console import heading
from provenance.errors import BundleError, OpenwrightError, StoppedForRequeue
from provenance.lifetime import killed_by
from release.interpreters import THIS_PYTHON, Interpreter
from release.rebuild_compare import StageComparison, compare_stage
from release.rebuild_plan import CHECK, RELEASE, RebuildPlan
from release.verify import CheckResult, verify_bundle

_NOT_FETCHED = ("SourceError",)
_NOT_INSTALLED = ("CodeError",)
_KILLED = ("JobKilled",)


@dataclass(frozen=True)
class Rebuild:
    """What a rebuild found.

    Attributes:
        results: one check result for each stage that was made or could not be, the last of them for the bundle.
        stages: the comparisons, in order, of the stages that were made.
        begun: every stage that was begun, with its result.
    """

    results: list[CheckResult]
    stages: list[StageComparison]
    begun: list[tuple[str, CheckResult]]

    def as_json(self) -> dict[str, Json]:
        """The form that `--json` prints."""
        differing = [stage.stage for stage in self.stages if not stage.is_equal]
        return {
            "stages": [stage.as_json() for stage in self.stages],
            "first_stage_that_differs": differing[0] if differing else None,
        }


def run_rebuild(plan: RebuildPlan, interpreter: Interpreter = THIS_PYTHON) -> Rebuild:
    """Make every stage again, up to the first that does not come out as recorded.

    Raises:
        StoppedForRequeue: when a signal asked for a stop; the same command with the same `--work` goes on.
    """
    found = Rebuild([], [], [])
    for result in (*_changed_files(plan.bundle), *plan.obstacles):
        found.results.append(result)
    if not found.results:
        for stage in plan.stages:
            found.results.append(_make_stage(plan, stage, interpreter, found.stages))
            found.begun.append((stage, found.results[-1]))
            if found.results[-1].verdict != "PASS":
                break
    made = [stage.stage for stage in found.stages if stage.is_equal]
    missing = [stage for stage in plan.stages if stage not in made]
    if missing and missing[0] != RELEASE:
        detail = f"not made again: {missing[0]} did not come out as recorded, or could not be made"
        found.results.append(CheckResult(CHECK, "bundle", "UNVERIFIED", detail, ""))
    return found


def _changed_files(bundle: Path) -> Iterator[CheckResult]:
    """Files that are not those whose digests the rebuild is compared with."""
    for result in verify_bundle(bundle, tokens="none"):
        if result.check == "bytes" and result.verdict == "FAIL":
            yield CheckResult(CHECK, result.name, "FAIL", f"before anything was made: {result.detail}", result.where)


def _make_stage(
    plan: RebuildPlan, stage: str, interpreter: Interpreter, comparisons: list[StageComparison]
) -> CheckResult:
    heading(f"rebuilding {stage}")
    done = interpreter.run(plan.code, plan.command(stage), plan.work, keep_output=True)
    name = "bundle" if stage == RELEASE else stage
    document = _document(done.stdout)
    if done.returncode == StoppedForRequeue.exit_code:
        raise StoppedForRequeue(
            f"the rebuild was stopped in {stage}",
            next_command="the same command with the same --work goes on; without --work it begins anew",
        )
    if done.returncode != 0:
        return _not_made(plan, name, done.returncode, document)
    try:
        path = Path(document["artifacts"][stage]["path"])
    except (KeyError, TypeError):
        return CheckResult(CHECK, name, "FAIL", "the bundle's code does not say where it put the stage", "")
    try:
        comparison = compare_stage(plan.bundle, stage, path if path.is_absolute() else plan.work / path)
    except OpenwrightError as error:
        told = f"what the bundle's code made cannot be compared: {error.where}: {error.found}"
        return CheckResult(CHECK, name, "FAIL", told, str(path))
    comparisons.append(comparison)
    return CheckResult(CHECK, name, comparison.verdict, comparison.detail, comparison.where)


def _document(output: bytes) -> Any:
    """The JSON document that a command printed; an empty one where it printed none."""
    try:
        return parse_json(output, "standard output") if output.strip() else {}
    except BundleError:
        return {}


def _not_made(plan: RebuildPlan, name: str, code: int, document: Any) -> CheckResult:
    """A stage that ended with an error. A source out of reach, a missing library, a kill are not the bundle's fault.

    A source that the bundle itself carries is never out of reach.
    """
    if killer := killed_by(code):
        found = f"the rebuild was killed ({killer.name}), from outside or by the bundle's code itself: nothing is known"
        return CheckResult(CHECK, name, "UNVERIFIED", found, "")
    error = document.get("error") if isinstance(document, dict) else None
    if error is None:
        return CheckResult(CHECK, name, "FAIL", f"the rebuild failed with exit code {code}, messages above", "")
    told = {key: str(document.get(key) or "") for key in ("found", "expected", "where")}
    detail = told["found"] + (f" (expected: {told['expected']})" if told["expected"] else "")
    if error in _NOT_FETCHED and not Path(told["where"]).is_relative_to(plan.bundle.resolve()):
        if plan.num_taken_down:
            detail += (
                f"; {plan.num_taken_down} documents were taken down, and a source without them is no longer this one"
            )
        return CheckResult(CHECK, name, "UNVERIFIED", f"{told['where']}: not fetched: {detail}", "")
    if error in _KILLED:
        return CheckResult(CHECK, name, "UNVERIFIED", f"nothing is known of it: {detail}", "")
    if error in _NOT_INSTALLED:
        return CheckResult(CHECK, name, "UNVERIFIED", f"cannot be made here: {detail}", told["where"])
    return CheckResult(CHECK, name, "FAIL", f"the rebuild failed: {json.dumps(error)}: {detail}", told["where"])
