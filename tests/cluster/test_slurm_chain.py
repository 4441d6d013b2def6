"""The chain on a real Slurm: scheduling, requeue and failure on one host. It says nothing about speed or scale."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_release
import yaml
from loopback_slurm import LoopbackSlurm

from openwright.seeds import SeedOptions
from openwright.sweeps import read_sweep
from provenance.artifacts import latest_artifact
from provenance.ledger import read_chain

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]  # five stages in a row, on a machine that may be busy
NUM_STEPS = 150
STORE_NAME = "tiny-second"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Release:
    """A tiny release whose pretraining is long enough to be met in the middle."""

    def __init__(self, root: Path, project: Path) -> None:
        self.root, self.project = root, project
        self.configs = tiny_release.write_configs(root / "второй", root / "scratch")
        path = self.configs / "pretrain.yaml"
        values = yaml.safe_load(path.read_text())
        values["phases"][0]["num_steps"] = NUM_STEPS
        values["checkpoints"]["full_every_steps"] = 100
        values["data"]["heldout_every_steps"] = 100
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def store_with_corpus(self, name: str) -> Path:
        """A directory of artifacts that has the corpus already, so that its job finds it."""
        made = self.root / "direct" / STORE_NAME / "corpus"
        shutil.copytree(made, self.root / name / STORE_NAME / "corpus")
        return self.root / name

    def openwright(self, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
        command = [sys.executable, "-m", "openwright", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=self.project, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def launch(
        self, slurm: LoopbackSlurm, store: Path, *overrides: str, nodes: int = 1, until: str = "", seeds: str = ""
    ) -> dict[str, str]:
        """Submit the chain, or a sweep over seeds of the pretraining; returns the number of each stage's job."""
        cluster = {
            "artifacts": str(store),
            "training": {"time": "01:00:00", "nodes": nodes, "cpus_per_task": 1},
            "other": {"time": "01:00:00"},
            "max_running": 2,
            "setup": ["export PYTHONDONTWRITEBYTECODE=1"],
        }
        path = self.root / f"cluster-{nodes}.yaml"
        path.write_text(yaml.safe_dump(cluster, allow_unicode=True))
        settings = [word for override in overrides for word in ("--set", override)]
        settings += ["--seeds", seeds, "--seed-of", "pretrain"] if seeds else []
        target = self.configs / f"{until}.yaml" if until else self.configs
        arguments = ("launch", str(target), "--cluster", str(path), *settings)
        document = self.openwright(*arguments, environment=slurm.environment)
        assert document["submitted"]
        return {job["stage"]: job["job_id"] for job in document["jobs"]}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, project_copy: Path) -> Release:
    return Release(tmp_path_factory.mktemp("slurm-release"), project_copy)


@pytest.fixture(scope="module")
def locally(release: Release) -> dict[int, str]:
    """Content digests of the pretraining stage by seed, run without Slurm; the first is the seed of the config."""
    target, store = release.configs / "pretrain.yaml", release.root / "direct"
    swept = ("--seeds", "77,78", "--seed-of", "pretrain")
    made = release.openwright("run", str(target), "--artifacts", str(store), *swept)["sweep"]
    assert [task["state"] for task in made["tasks"]] == ["finished", "finished"]
    return {task["seed"]: task["content_digest"] for task in made["tasks"]}


@pytest.fixture(scope="module")
def direct(locally: dict[int, str]) -> str:
    """Content digest of the pretraining stage, run without Slurm."""
    return locally[77]


def wait_until(slurm: LoopbackSlurm, what: str, done: Callable[[], bool], pause_seconds: float = 0.2) -> None:
    deadline = time.monotonic() + 900
    while not done():
        assert time.monotonic() < deadline, f"no {what} after 900 s\n{slurm.logs()}"
        time.sleep(pause_seconds)


def wait_for_job(slurm: LoopbackSlurm, job_id: str) -> str:
    """Wait until a job has ended; returns its state. Each look starts a program of Slurm, so that it looks seldom."""
    wait_until(slurm, f"end of job {job_id}", lambda: slurm.job(job_id).get("JobState") in ENDED, pause_seconds=1)
    return slurm.job(job_id)["JobState"]


def steps_so_far(store: Path, seed: int = 77) -> int:
    begun = store.glob("*/pretrain/.work-*/identity.json")
    ledgers = [path.with_name("ledger.jsonl") for path in begun if f'"seed": {seed},' in path.read_text()]
    return sum(ledger.read_bytes().count(b'"kind":"step"') for ledger in ledgers if ledger.is_file())


def test_seeds_are_tasks_that_are_requeued_stopped_and_finished_one_by_one(
    slurm: LoopbackSlurm, release: Release, locally: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    store, options = release.root / "мой склад", SeedOptions("77,78", ("pretrain",))
    jobs = release.launch(slurm, store, seeds="77,78")
    assert list(jobs) == ["corpus", "pretrain", "sft", "eval", "release"]
    task = {(stage, seed): f"{number}_{seed}" for stage, number in jobs.items() for seed in (77, 78)}
    wait_until(slurm, "steps", lambda: steps_so_far(store, seed=78) >= 5)
    slurm.call("scancel", "--signal=USR1", "--batch", task["pretrain", 78])
    assert slurm.job(task["pretrain", 78])["JobId"] == jobs["pretrain"], "its number is that of the whole array too"
    wait_until(slurm, "requeue", lambda: slurm.job(task["pretrain", 78])["Restarts"] == "1")
    assert steps_so_far(store, seed=78) < NUM_STEPS, "the run ended before the signal met it"
    assert slurm.job(task["sft", 78])["JobState"] == "PENDING"
    assert wait_for_job(slurm, task["pretrain", 77]) == "COMPLETED"
    assert slurm.job(task["pretrain", 77])["Restarts"] == "0"
    slurm.call("scancel", task["sft", 78])
    assert {wait_for_job(slurm, task[stage, 78]) for stage in ("eval", "release")} == {"CANCELLED"}
    states = {stage: wait_for_job(slurm, task[stage, 77]) for stage in ("sft", "eval", "release")}
    states["pretrain"] = wait_for_job(slurm, task["pretrain", 78])
    log = (store / STORE_NAME / "slurm" / f"pretrain-{jobs['pretrain']}-seed-78.log").read_text()
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{log}"
    assert "stopping after this step" in log
    assert log.count("== pretrain") == 2, "the second start appends to the log of the first"
    sweep = read_sweep(release.configs, (), store, "", options)
    found = {(row["stage"], row["seed"]): row for row in sweep["tasks"]}
    assert {seed: found["pretrain", seed]["content_digest"] for seed in (77, 78)} == locally
    journal = read_chain(Path(found["pretrain", 78]["path"]) / "journal.jsonl")
    kinds = [record["kind"] for record in journal]
    assert (kinds.count("start"), kinds.count("stop"), kinds.count("resume")) == (1, 1, 1)
    assert [row["state"] for row in sweep["tasks"]] == ["finished"] * 4 + ["finished", "failed", "not run", "not run"]
    assert {row["num_seeds"] for row in sweep["measures"] if row["measure"].startswith("pretrain held-out")} == {2}


@pytest.mark.usefixtures("direct")
def test_a_failed_stage_stops_the_chain(slurm: LoopbackSlurm, release: Release) -> None:
    store = release.store_with_corpus("failing")
    runaway = ("pretrain.optimizer.peak_learning_rate=1.0e+30", "pretrain.optimizer.max_gradient_norm=1.0e+30")
    jobs = release.launch(slurm, store, *runaway)
    assert wait_for_job(slurm, jobs["pretrain"]) == "FAILED"
    assert slurm.job(jobs["pretrain"])["Restarts"] == "0"
    assert {wait_for_job(slurm, jobs[stage]) for stage in ("sft", "eval", "release")} == {"CANCELLED"}
    assert not (store / STORE_NAME / "sft").exists()


def test_two_node_daemons_on_one_host_give_the_digest_of_one_process(
    slurm: LoopbackSlurm, release: Release, direct: str
) -> None:
    store = release.store_with_corpus("two-nodes")
    jobs = release.launch(slurm, store, nodes=2)
    state = wait_for_job(slurm, jobs["pretrain"])
    slurm.call("scancel", *jobs.values())
    log = (store / STORE_NAME / "slurm" / f"pretrain-{jobs['pretrain']}.log").read_text()
    assert state == "COMPLETED", log
    artifact = latest_artifact(store / STORE_NAME, "pretrain")
    assert artifact.content_digest == direct
    assert next(read_chain(artifact.path / "journal.jsonl"))["num_processes"] == 2
