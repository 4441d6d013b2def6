"""Interrupted builds: the same bytes in the end, what is done is kept, and nothing old is ever taken for new."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus_fixtures import build, tiny_corpus_values
from test_corpus_stage import ROOT, rich_values

import data_recipes.build
import data_recipes.corpus
from data_recipes.settings import CorpusConfig
from data_recipes.steps import run_task
from data_recipes.tasks import SCRATCH
from provenance.config import recipe_of
from provenance.fingerprint import library_versions, stage_fingerprint

NUM_TASKS = 5 + 5 + 1 + 5 + 1 + 2 + 2 + 1 + 2
PROGRAM = (
    "import sys\nfrom pathlib import Path\n"
    f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT)!r}]\n"
    "from corpus_fixtures import build\nfrom test_corpus_stage import rich_values\n"
    "if __name__ == '__main__':\n"
    "    path = Path(sys.argv[1])\n    values = rich_values(path)\n    values['execution']['num_workers'] = 2\n"
    "    build(path, values)\n"
)


class Interrupted(Exception):
    """Stands for whatever ends a build."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("straight")
    return build(tmp_path, rich_values(tmp_path)).results


@pytest.fixture
def calls(monkeypatch):
    """Tasks that were done, as (step, number)."""
    done = []

    def counted(root, step, number):
        done.append((step, number))
        run_task(root, step, number)

    monkeypatch.setattr(data_recipes.corpus, "run_task", counted)
    return done


def interrupt(tmp_path, values, monkeypatch):
    """Leave a build whose tasks are all done, and return its directory."""

    def stop(*arguments):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(data_recipes.corpus, "_converse", stop)
        with pytest.raises(Interrupted):
            build(tmp_path, values)
    (work,) = (tmp_path / "store" / "corpus").glob(".work-*")
    return work


def test_a_build_killed_at_random_moments_gives_the_same_bytes(expected, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = tmp_path / "store" / "corpus"
    for num_done in sorted(random.sample(range(NUM_TASKS), 3)):
        running = subprocess.Popen([sys.executable, str(program), str(tmp_path)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(done.glob(f".work-*/{SCRATCH}/done/*.json"))) < num_done and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.02))
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, f"it had ended before {num_done} tasks were seen"
        assert not list(done.rglob("manifest.json"))
    made = build(tmp_path, rich_values(tmp_path))
    assert made.results == expected
    assert not (made.path / SCRATCH).exists()


def test_ctrl_c_ends_the_processes_of_a_pool_without_a_word(tmp_path):
    """A terminal sends it to all of them; what the user reads is the one message of the command."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from data_recipes.executors import LocalPool\n"
        "def task(root, step, number):\n    Path(root, str(number)).touch()\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with LocalPool(2) as pool:\n"
        "            pool.run(task, Path(sys.argv[1]), 'step', [1, 2, 3], print)\n"
        "    except KeyboardInterrupt:\n        print('stopped')\n"
    )
    begun = tmp_path / "begun"
    begun.mkdir()
    command = [sys.executable, str(program), str(begun)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(begun.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(timeout=30) == (b"stopped\n", b"")


def test_what_is_done_is_kept(expected, tmp_path, monkeypatch, calls):
    work = interrupt(tmp_path, rich_values(tmp_path), monkeypatch)
    assert len(calls) == NUM_TASKS
    (work / "text" / "train-00001.parquet").write_bytes(b"half a file")
    (work / "text" / "train-00002.parquet").write_bytes(b"of another build")
    (work / SCRATCH / "read" / "00001.parquet").unlink()
    calls.clear()
    assert build(tmp_path, rich_values(tmp_path)).results == expected
    assert calls == [("read", 1), ("gather", 1)]


def test_another_library_version_reuses_nothing(expected, tmp_path, monkeypatch, calls):
    interrupt(tmp_path, rich_values(tmp_path), monkeypatch)
    calls.clear()
    monkeypatch.setattr(
        data_recipes.build, "library_versions", lambda names: library_versions(names) | {"pyarrow": "0.0.1"}
    )
    assert build(tmp_path, rich_values(tmp_path)).results == expected
    assert len(calls) == NUM_TASKS


def test_another_code_reuses_nothing(expected, tmp_path, monkeypatch, calls):
    interrupt(tmp_path, rich_values(tmp_path), monkeypatch)
    calls.clear()
    monkeypatch.setattr(data_recipes.build, "sources_digest", lambda packages: "0" * 64)
    assert build(tmp_path, rich_values(tmp_path)).results == expected
    assert len(calls) == NUM_TASKS


def test_another_recipe_reuses_nothing_even_in_the_same_directory(tmp_path, monkeypatch, calls):
    values = tiny_corpus_values(tmp_path)
    changed = values | {"quality": {"min_num_words": 60}}
    straight = build(tmp_path, changed, store="straight").results
    work = interrupt(tmp_path, values, monkeypatch)
    spec = data_recipes.corpus.SPEC
    recipe = recipe_of(CorpusConfig.model_validate(changed))
    fingerprint = stage_fingerprint(spec.kind, recipe, (), spec.packages, spec.libraries)
    work.rename(work.with_name(f".work-{fingerprint[:12]}"))
    calls.clear()
    assert build(tmp_path, changed).results == straight
    assert {step for step, _ in calls} == {"read", "decide", "gather", "train", "tokenize"}
