"""A corpus built by job arrays of a real Slurm: the bytes of a build on this machine, and errors in their own words."""

import os

import pytest
from corpus_fixtures import tiny_context, tiny_corpus_values
from loopback_slurm import LoopbackSlurm

from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
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
