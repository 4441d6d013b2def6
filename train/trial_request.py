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
class TrialRequest:
    """Some steps to run on one process from a checkpoint, honestly and then with the last step changed.

    Attributes:
        stage: `pretrain` or `sft`.
        recipe: path of the run's `recipe.json`.
        corpus: path of the corpus.
        base_checkpoint: for fine-tuning, the weights that the run started from; else empty.
        from_checkpoint: checkpoint to start from: a full one, or that of step 0.
        last_step: last step to run; not one that the recipe leaves out.
        reference: recorded checkpoint of the last step, which the honest steps are compared with.
        changes: names of `CHANGES` to try in the last step.
        num_threads: threads of the process; the recipe's, unless their number is what is tried.
    """

    format: str
    stage: str
    recipe: str
    corpus: str
    base_checkpoint: str
    from_checkpoint: str
    last_step: int
    reference: str
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
        command = [sys.executable, "-m", "train.trials", str(asked), str(found)]
        done = subprocess.run(command, cwd=scratch, env=environment, check=False)
        if done.returncode != 0:
            told = " ".join(f"{name}={value}" for name, value in variables.items()) or "no variables set"
            raise TrainingError(
                f"a trial of {request.stage} up to step {request.last_step} ended with code {done.returncode} ({told})",
                expected="its last step",
                where=request.from_checkpoint,
                next_command="read the lines above",
            )
        report: dict[str, Any] = read_json(found)
        return report
