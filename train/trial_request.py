"""What a trial is asked for, and its start in a process of its own; no torch here (`train.trials` is the program)."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provenance.canonical import read_json, write_json
from provenance.errors import TrainingError
from provenance.fingerprint import project_root
from train.jobs import job_environment

TRIAL_FORMAT = "openwright-trial/1"
CHANGES = ("learning_rate", "optimizer", "token", "window")
"""What a trial can change in the last step, from what a forger gains least by; `train.trials` says what each is."""


@dataclass(frozen=True)
class Stretch:
    """Steps from a checkpoint to a later one.

    Attributes:
        from_checkpoint: checkpoint to start from: a full one, or that of step 0.
        last_step: last step to run; not one that the recipe leaves out.
        reference: recorded checkpoint of the last step, which the honest steps are compared with.
    """

    from_checkpoint: str
    last_step: int
    reference: str


@dataclass(frozen=True)
class TrialRequest:
    """Stretches of steps to run on one process, each honestly and then with its last step changed.

    Attributes:
        stage: `pretrain` or `sft`.
        recipe: path of the run's `recipe.json`.
        corpus: path of the corpus.
        base_checkpoint: for fine-tuning, the weights that the run started from; else empty.
        stretches: what to run.
        changes: names of `CHANGES` to try in the last step.
        num_threads: threads of the process; the recipe's, unless their number is what is tried.
    """

    format: str
    stage: str
    recipe: str
    corpus: str
    base_checkpoint: str
    stretches: list[Stretch]
    changes: list[str]
    num_threads: int


def run_trial(request: TrialRequest, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a trial in a fresh process, with variables of numeric libraries set; returns what `train.trials` found.

    Raises:
        TrainingError: when the process fails; its messages are on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="openwright-trial-") as scratch:
        asked, found = Path(scratch) / "request.json", Path(scratch) / "found.json"
        write_json(asked, asdict(request))
        environment = {**job_environment(project_root(), request.num_threads), **variables}
        command = [sys.executable, "-m", "provenance.program", "train.trials", str(asked), str(found)]
        done = subprocess.run(command, cwd=scratch, env=environment, check=False)
        if done.returncode != 0:
            told = " ".join(f"{name}={value}" for name, value in variables.items()) or "no variables set"
            raise TrainingError(
                f"a trial of {request.stage} ended with code {done.returncode} ({told})",
                expected="the last step of every stretch",
                where=request.recipe,
                next_command="read the lines above",
            )
        report: dict[str, Any] = read_json(found)
        return report
