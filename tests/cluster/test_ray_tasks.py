"""A corpus built on a real Ray: the bytes of a build on this machine, whoever is killed; errors in their own words."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from corpus_fixtures import tiny_context, tiny_corpus_values
from loopback_ray import NUM_CPUS, LoopbackRay
from pydantic import ValidationError

import data_recipes.ray_tasks
from data_recipes.corpus import build_corpus
from data_recipes.ray_settings import RayExecution
from data_recipes.ray_tasks import RayTasks, do_task
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH
from provenance.errors import ConfigError, DataError, SourceError
from provenance.fingerprint import project_root

DRIVER = f"""
import sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(project_root() / "tests" / "data_recipes"), str(project_root())]!r}
from test_ray_tasks import build
if __name__ == "__main__":
    build(Path(sys.argv[1]), "store", {{"address": sys.argv[2], "max_running": 1}})
"""


def build(tmp_path, store, ray=None, **changes):
    values = tiny_corpus_values(tmp_path, near_duplicates={"min_jaccard": 0.8}, **changes)
    values["execution"]["ray"] = ray
    return build_corpus(CorpusConfig.model_validate(values), tiny_context(tmp_path / store))


@pytest.fixture(scope="module")
def cluster(extra):
    extra("ray", "ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        ray = LoopbackRay(Path(directory))
        try:
            ray.start()
            yield ray
        finally:
            ray.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return build(tmp_path_factory.mktemp("here"), "local").results


@pytest.mark.extras
def test_a_killed_process_is_named_or_its_task_begun_anew_with_the_same_bytes(cluster, expected, tmp_path):
    options = {"address": cluster.address}
    with cluster.one_task_killed() as killed, pytest.raises(DataError, match="Ray lost task") as caught:
        build(tmp_path, "store", options | {"max_retries": 0})
    assert killed
    assert "what is done is kept" in caught.value.next_command
    assert not list((tmp_path / "store").rglob("manifest.json"))
    with cluster.one_task_killed() as killed:
        made = build(tmp_path, "store", options)
    assert killed
    assert made.results == expected
    assert not (made.path / SCRATCH).exists()
    assert not list(made.path.rglob("*.pkl"))


@pytest.mark.extras
def test_a_build_whose_own_process_was_killed_goes_on_with_one_process(cluster, expected, tmp_path):
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, str(program), str(tmp_path), cluster.address], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "store").glob(f"corpus/.work-*/{SCRATCH}/done/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert not list((tmp_path / "store").rglob("manifest.json"))
    made = build(tmp_path, "store", {"address": cluster.address, "cpus_per_task": NUM_CPUS, "memory_gb": 1})
    assert made.results == expected


@pytest.mark.extras
def test_an_error_of_a_task_is_told_in_its_own_words(cluster, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(DataError, match="the corpus gives a vocabulary") as caught:
        build(tmp_path, "store", {"address": cluster.address}, tokenizer={"vocab_size": 60_000})
    assert caught.value.expected == "tokenizer.vocab_size 60000"
    assert "or add sources" in caught.value.next_command
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.extras
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"address": "127.0.0.1:1"}, "no Ray cluster to be joined at 127.0.0.1:1"),
        ({"cpus_per_task": NUM_CPUS + 1}, "no machine of the Ray cluster offers 3 CPUs"),
    ],
)
def test_a_cluster_that_is_not_there_or_too_small_is_named(cluster, options, found):
    with (
        pytest.raises(ConfigError, match=found),
        RayTasks(RayExecution.model_validate({"address": cluster.address} | options)),
    ):
        pass


def test_a_machine_without_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data_recipes.ray_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="ray is not installed") as caught:
        build(tmp_path, "store", {})
    assert "make setup-extras" in caught.value.next_command


@pytest.mark.parametrize(
    "execution",
    [{"ray": {}, "slurm": {}}, {"ray": {"address": "ray://127.0.0.1:10001"}}, {"ray": {"cpus_per_task": 0}}],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, execution):
    values = tiny_corpus_values(tmp_path)
    values["execution"] |= execution
    with pytest.raises(ValidationError, match=r"either slurm or ray|should match|greater than"):
        CorpusConfig.model_validate(values)


def divides(root, step, number):
    raise ZeroDivisionError(f"{step} by {number}")


def is_refused(root, step, number):
    raise SourceError("what was found", expected="what was asked", where=root, next_command="what comes next")


def finds_the_disk_full(root, step, number):
    raise OSError(28, "No space left on device", root)


def told(monkeypatch, call, tmp_path, **changes):
    monkeypatch.setitem(sys.modules, "tasks_of_this_test", sys.modules[__name__])
    asked = {"call": ["tasks_of_this_test", call], "checkout": str(project_root())}
    asked |= {"root": str(tmp_path), "step": "read", "number": 7}
    return json.loads(do_task(json.dumps(asked | changes)))


def heard(tmp_path, words):
    """What the process that directs the build makes of such words."""
    data_recipes.ray_tasks.hear(words, tmp_path, "read", 7)


def test_what_a_task_raises_is_raised_again_with_every_word(monkeypatch, tmp_path):
    with pytest.raises(SourceError) as caught:
        heard(tmp_path, told(monkeypatch, "is_refused", tmp_path))
    error = caught.value
    assert (error.found, error.expected, error.where) == ("what was found", "what was asked", str(tmp_path))
    assert error.next_command == "what comes next"
    with pytest.raises(OSError, match="No space left") as full:
        heard(tmp_path, told(monkeypatch, "finds_the_disk_full", tmp_path))
    assert (full.value.errno, full.value.filename) == (28, str(tmp_path))


def test_a_task_that_fails_by_itself_is_named_with_its_log(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"task 7 of the step 'read' failed \(ZeroDivisionError: read by 7\)") as caught:
        heard(tmp_path, told(monkeypatch, "divides", tmp_path))
    assert "in divides" in Path(caught.value.where).read_text()


def test_a_process_with_other_code_does_nothing(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="a process of Ray runs the code of") as caught:
        heard(tmp_path, told(monkeypatch, "divides", tmp_path, checkout="/elsewhere"))
    assert caught.value.expected == "/elsewhere"
