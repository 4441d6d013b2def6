"""A corpus built by job arrays of a real Slurm: the bytes of a build on this machine, and errors in their own words."""

import importlib
import os

import pytest
from corpus_fixtures import tiny_context, tiny_corpus_values
from loopback_slurm import LoopbackSlurm

from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from data_recipes.slurm_arrays import SlurmArrays
from data_recipes.slurm_settings import SlurmExecution
from provenance.errors import ConfigError, DataError

OPTIONS = {"partition": "loop", "minutes_per_task": 10, "max_running": 4}


def build(tmp_path, store, slurm=None, **changes):
    values = tiny_corpus_values(tmp_path, near_duplicates={"min_jaccard": 0.8}, **changes)
    values["execution"]["slurm"] = slurm
    return build_corpus(CorpusConfig.model_validate(values), tiny_context(tmp_path / store))


@pytest.fixture
def on_cluster(slurm: LoopbackSlurm, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    return slurm


@pytest.mark.slurm
def test_arrays_give_the_bytes_of_a_build_on_this_machine(on_cluster, tmp_path):
    local = build(tmp_path, "local")
    submitted = build(tmp_path, "submitted", OPTIONS)
    assert submitted.results == local.results
    assert not (submitted.path / "scratch").exists()


@pytest.mark.slurm
def test_an_error_of_a_task_is_told_in_its_own_words(on_cluster, tmp_path):
    with pytest.raises(DataError, match="the corpus gives a vocabulary") as caught:
        build(tmp_path, "store", OPTIONS, tokenizer={"vocab_size": 60_000})
    assert "or add sources" in caught.value.next_command
    assert on_cluster.call("squeue", "--noheader").strip() == ""


@pytest.mark.slurm
def test_a_partition_that_is_not_there_is_named(on_cluster, tmp_path):
    with pytest.raises(DataError, match="Slurm did not take the jobs of the step 'read'") as caught:
        build(tmp_path, "store", OPTIONS | {"partition": "nowhere"})
    assert "execution.slurm" in caught.value.next_command


def test_a_machine_without_slurm_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(ConfigError, match="no command sbatch"):
        build(tmp_path, "store", OPTIONS)


SBATCH = """#!/bin/bash
export SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=1
bash >&2
echo 12
"""
"""Stands for sbatch: does the second job of an array at once, in its place."""
TASKS = """
def writes(root, step, number):
    with open(f"{root}/{step}-{number}", "x"):
        pass

def divides(root, step, number):
    raise ZeroDivisionError(f"{step} by {number}")
"""


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": "#!/bin/bash\n", "scancel": "#!/bin/bash\n"}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / "slurm_tasks_of_a_test.py").write_text(TASKS)
    monkeypatch.setenv("PATH", os.fspath(commands), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data_recipes.slurm_arrays._POLL_SECONDS", 0.01)
    return SlurmArrays(SlurmExecution(setup=["touch set-up"]))


def test_a_job_does_the_task_at_its_place_and_one_without_a_result_is_named(arrays, tmp_path):
    ended = []
    tasks = importlib.import_module("slurm_tasks_of_a_test")
    with pytest.raises(DataError, match="job 12_0, task 9 of the step 'read', ended without a result"):
        arrays.run(tasks.writes, tmp_path, "read", [9, 1234], ended.append)
    assert ended == [1234]
    assert (tmp_path / "read-1234").exists()
    assert (tmp_path / "set-up").exists()
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_task_that_fails_by_itself_is_named_with_its_log(arrays, tmp_path):
    tasks = importlib.import_module("slurm_tasks_of_a_test")
    with pytest.raises(DataError, match=r"job 12_1, task 7 .* failed \(ZeroDivisionError: read by 7\)") as caught:
        arrays.run(tasks.divides, tmp_path, "read", [9, 7], lambda number: None)
    assert caught.value.where.endswith("12_1.log")
