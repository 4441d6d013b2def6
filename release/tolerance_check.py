"""The check of `tolerance.json`: it follows from its own distances, and speaks of the run that it lies beside.

What the publisher measured cannot be checked here: only measuring again would show whether noise and changes are what
the file says. That it was the publisher who says so, a signature shows.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from provenance.canonical import read_json
from provenance.ledger import read_chain
from release.tolerance import TOLERANCE_NAME, Tolerance, platform_digest, problems, read_tolerance
from release.verify import CheckResult


def tolerance_files(bundle: Path) -> list[Path]:
    """The bundle's measurements, one for each stage that has one."""
    return sorted((bundle / "model" / "training").glob(f"*/{TOLERANCE_NAME}"))


def check_tolerance(bundle: Path) -> CheckResult:
    """Thresholds and what is seen through them follow from the distances, and the steps and platform from the run."""
    num_platforms = 0
    for path in tolerance_files(bundle):
        tolerance = read_tolerance(path)
        problem = next(chain(problems(tolerance), _other_run(path.parent, tolerance)), None)
        if problem is not None:
            return CheckResult("records", "tolerance", "FAIL", problem, path.relative_to(bundle).as_posix())
        num_platforms += len(tolerance.platforms)
    detail = f"thresholds of {num_platforms} platforms follow from the distances that the publisher measured"
    return CheckResult("records", "tolerance", "PASS", f"{detail}, which are not measured again here", "model/training")


def _other_run(folder: Path, tolerance: Tolerance) -> Iterator[str]:
    """Where a file does not fit the records of the run that it lies beside."""
    recipe = read_json(folder / "recipe.json")
    platform = read_json(folder / "environment.json")["platform"]
    told = (tolerance.stage, tolerance.precision, tolerance.peak_learning_rate)
    if told != (folder.name, recipe["precision"], recipe["optimizer"]["peak_learning_rate"]):
        yield "stage, precision or peak learning rate are not those of the recipe"
    if tolerance.recorded_platform["digest"] != platform_digest(platform):
        yield "the recorded platform is not that of the run"
    records = list(read_chain(folder / "ledger.jsonl"))
    rates = {record["step"]: record["learning_rate"] for record in records if record["kind"] == "step"}
    weights = {record["step"]: record["weights_digest"] for record in records if record["kind"] == "checkpoint"}
    for changed in tolerance.changes:
        if rates.get(changed.last_step) != changed.learning_rate:
            yield f"the learning rate of step {changed.last_step} is not that of the ledger"
        if changed.first_step - 1 not in weights or changed.last_step not in weights:
            yield f"steps {changed.first_step} to {changed.last_step} do not lie between checkpoints of the ledger"
            return
    for measured in tolerance.platforms:
        equal = [stretch.weights_digest == weights[stretch.last_step] for stretch in measured.stretches]
        if measured.equal_bits != all(equal):
            yield "the digests of the weights do not say whether bits are equal as the file does"
