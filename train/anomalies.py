"""Steps that went wrong: gradients that are not finite, and losses that jump."""

from collections import deque
from collections.abc import Iterable
from statistics import median

from provenance.canonical import Json, hex_float
from provenance.errors import TrainingError
from train.batch import StepBatch

WATCHED_STEPS = 64
_MIN_STEPS = 16


class LossWatch:
    """Compares each loss with the median of those before it; every process sees the same losses and agrees.

    Args:
        factor: a loss of this many times the median is a spike.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=WATCHED_STEPS)

    def recall(self, losses: Iterable[float]) -> None:
        """Remember losses of steps before a resume, so that a spike does not slip through on a second try."""
        self._losses.extend(losses)

    def is_spike(self, loss: float) -> bool:
        """Judge a step's loss, then remember it; nothing is judged before 16 steps were seen."""
        judged = len(self._losses) >= _MIN_STEPS
        spike = judged and loss > self._factor * median(self._losses)
        self._losses.append(loss)
        return spike


def anomaly_record(kind: str, batch: StepBatch, documents: Json, loss: float | None) -> dict[str, Json]:
    """The journal's fields for a step that went wrong, with what it read."""
    return {
        "anomaly": kind,
        "step": batch.step,
        "loss": None if loss is None else hex_float(loss),
        "windows": documents,
    }


def refuse(kind: str, batch: StepBatch, sources: list[str], run_dir: str) -> TrainingError:
    """The error with which a run stops at such a step."""
    return TrainingError(
        kind,
        expected="finite gradients and a loss near those before it",
        where=f"step {batch.step}, windows of {', '.join(sources)}; the journal lists the documents",
        next_command=(
            f"openwright branch {run_dir} --at STEP --skip {batch.step}:{batch.step} --config CONFIG_DIR --to NEW_DIR, "
            "STEP being a full checkpoint before it; or lower the learning rate"
        ),
    )
