"""The average of a bundle made again from its checkpoints, all of it, and compared bit for bit.

`verify.py` does the same in plain Python, for large models on a sample. Neither runs anything of the bundle: what is
compared is arithmetic that `docs/formats.md` states.
"""

from pathlib import Path

from provenance.config import from_recipe
from provenance.errors import BundleError, OpenwrightError
from provenance.made_model import AVERAGE, AVERAGE_RECORD
from release.readable import require_average
from release.verify import CheckResult
from release.weights import header_problem, weights_digest
from train.average import AVERAGED
from train.average_settings import AverageConfig
from train.averaging import ARITHMETIC, average_weights, flushes_subnormals, numerators_of
from train.checkpoint_records import checkpoint_name
from train.weight_files import weight_files


def has_average(bundle: Path) -> bool:
    """Whether a bundle holds an average of checkpoints."""
    return (bundle / "model" / "training" / AVERAGE / AVERAGE_RECORD).is_file()


def check_average(bundle: Path, check: str = "records") -> CheckResult:
    """Add up the checkpoints again.

    Args:
        check: the kind of check that the result is of.
    """
    name, where = "average recomputed", f"model/checkpoints/{AVERAGE}/{AVERAGED}"
    if flushes_subnormals():
        return CheckResult(check, name, "UNVERIFIED", "this process takes subnormal numbers for 0", "")
    try:
        detail = _recompute(bundle)
    except OpenwrightError as error:
        return CheckResult(check, name, "FAIL", error.found, where)
    except (OSError, ValueError, KeyError, TypeError) as error:  # weights that are none
        return CheckResult(check, name, "FAIL", f"malformed ({type(error).__name__}: {error})"[:200], where)
    return CheckResult(check, name, "PASS", detail, where)


def _recompute(bundle: Path) -> str:
    made, recipe = require_average(bundle)
    config = from_recipe(recipe, AverageConfig)
    parts, checkpoints = made["ingredients"], bundle / "model" / "checkpoints"
    numerators = numerators_of(config.kind, len(config.checkpoints), config.weights, config.decay)
    named = [(part["stage"], part["step"], part["numerator"]) for part in parts]
    follows = [(*place, numerator) for place, numerator in zip(config.checkpoints, numerators, strict=True)]
    if (made["arithmetic"], made["denominator"], named) != (ARITHMETIC, sum(numerators), follows):
        raise BundleError(f"{AVERAGE_RECORD} says other checkpoints, numbers or arithmetic than the recipe")
    averaged = weight_files(checkpoints / AVERAGE / AVERAGED)
    sources = [checkpoints / part["stage"] / checkpoint_name(part["step"]) for part in parts]
    for path in (*averaged, *(path for source in sources for path in weight_files(source))):
        if problem := header_problem(path):
            raise BundleError(f"{path.name}: {problem}")
    found, stored = average_weights(sources, numerators), weights_digest(averaged)
    for part, digest in zip(parts, found.ingredients, strict=True):
        if part["weights_digest"] != digest:
            raise BundleError(f"step {part['step']} of {part['stage']} has the weights {digest[:12]}, not those stated")
    stated = made["final"]["weights_digest"]
    if {found.average, stated} != {stored}:
        told = f"the average of the checkpoints is {found.average}"
        raise BundleError(f"{told}; the bundle holds {stored} and states {stated}")
    return f"{len(parts)} checkpoints added up again, weights {stored} equal"
