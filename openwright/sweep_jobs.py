"""What Slurm has of a sweep: the arrays that were submitted, and where each of their tasks stands in the queue."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from openwright.seeds import Sweep
from openwright.slurm import StageJob, log_name
from provenance.canonical import canonical_json
from provenance.errors import ConfigError

SWEEPS_NAME = "sweeps.jsonl"
SWEEP_FORMAT = "openwright-sweep/1"


@dataclass(frozen=True)
class Task:
    """The job of one stage and seed, or of a stage that all seeds share.

    Attributes:
        job_id: number of the job or of the array.
        seed: the task of the array; None for a job that all seeds share.
        log: its log.
    """

    job_id: str
    seed: int | None
    log: Path


def check_array_size(sweep: Sweep) -> None:
    """Refuse seeds that this cluster cannot number the tasks of an array by.

    Raises:
        ConfigError: when the largest seed is not below Slurm's MaxArraySize, or Slurm does not tell it.
    """
    done = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", done.stdout, re.MULTILINE)
    if found is None:
        raise ConfigError(
            f"scontrol does not tell MaxArraySize: {done.stderr.strip() or 'no such line'}",
            expected="a machine on which `scontrol show config` answers",
            next_command="add --dry-run to see the scripts",
        )
    if sweep.seeds[-1] >= int(found[1]):
        raise ConfigError(
            f"--seeds {sweep.array()}: the tasks of an array are numbered by the seeds, up to {sweep.seeds[-1]}",
            expected=f"seeds below {found[1]}, the MaxArraySize of this cluster",
            where="command line",
            next_command="the same command with smaller or fewer seeds",
        )


def note_sweep(directory: Path, sweep: Sweep, overrides: Sequence[str], chain: Sequence[StageJob]) -> None:
    """Add what was submitted to `sweeps.jsonl`.

    Args:
        directory: the directory of scripts and logs.
        overrides: the `--set` that may decide results, without the seeds.
        chain: the jobs as they were submitted.
    """
    record = {
        "format": SWEEP_FORMAT,
        "time_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seeds": list(sweep.seeds),
        "seed_of": list(sweep.stages),
        "overrides": list(overrides),
        "jobs": {job.stage: {"job_id": job.job_id, "is_array": bool(job.seeds)} for job in chain},
    }
    with (directory / SWEEPS_NAME).open("ab") as file:
        file.write(canonical_json(record) + b"\n")


def submitted_tasks(directory: Path, sweep: Sweep, overrides: Sequence[str]) -> dict[tuple[str, int], Task]:
    """The newest job of each stage and seed of a sweep, as far as it was submitted."""
    path = directory / SWEEPS_NAME
    tasks: dict[tuple[str, int], Task] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        record = json.loads(line)
        same = (record["seed_of"], record["overrides"]) == (list(sweep.stages), list(overrides))
        for seed in set(sweep.seeds).intersection(record["seeds"]) if same else ():
            for stage, job in record["jobs"].items():
                task = seed if job["is_array"] else None
                log = directory / log_name(stage, job["job_id"], task)
                tasks[stage, seed] = Task(job["job_id"], task, log)
    return tasks


def queue_states(names: Iterable[str]) -> dict[tuple[str, int | None], str] | None:
    """The state of each job in Slurm's queue, by number and task, in small letters; None where Slurm does not answer.

    Args:
        names: names of the jobs to ask for.
    """
    asked = ["--noheader", "--array", f"--name={','.join(names)}", "--format=%F %K %T"]
    done = _ask("squeue", *asked)
    if done.returncode != 0:
        return None
    states: dict[tuple[str, int | None], str] = {}
    for line in done.stdout.splitlines():
        job_id, task, state = line.split()
        states[job_id, int(task) if task.isdigit() else None] = state.lower()
    return states


def _ask(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which(program) is None:
        return subprocess.CompletedProcess([program], 127, "", f"there is no {program} on this machine")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
