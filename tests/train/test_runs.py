"""Whole training jobs through `accelerate launch`, in fresh processes: equality is equality of bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_jobs
import tiny_runs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from provenance.artifacts import Artifact
from provenance.errors import ConfigError, OpenwrightError, StoppedForRequeue, TrainingError
from provenance.ledger import read_chain
from train.checkpoint_records import read_record, requeue_name
from train.jobs import finetune, launch, pretrain
from train.replay import REPLAY_FORMAT
from train.state import state_digest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def straight(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of one process that all others must equal."""
    return run(corpus, tmp_path_factory.mktemp("straight") / "run", 1)


def run(corpus: Artifact, run_dir: Path, num_processes: int, **changes: object) -> Path:
    config = tiny_runs.pretrain_config(**changes)
    launch(tiny_runs.make_job("pretrain", config, corpus.path, run_dir), num_processes, 1)
    return run_dir


def run_in_this_process(corpus: Artifact, run_dir: Path, **changes: object) -> Path:
    """The same without launcher and worker, which cost more than a short run."""
    job = tiny_runs.make_job("pretrain", tiny_runs.pretrain_config(**changes), corpus.path, run_dir)
    assert small_jobs.run_here(job)
    return run_dir


def results(run_dir: Path) -> dict[str, bytes]:
    """Bytes of every result file of a run."""
    observed = {"journal.jsonl", "environment.json", "accelerate.yaml"}
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name not in observed]
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files}


GIVES_MEMORY_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@pytest.mark.parametrize(("num_processes", "of_glibc"), [(2, {}), (4, GIVES_MEMORY_BACK)])
def test_every_number_of_processes_gives_the_same_bytes(
    corpus: Artifact,
    straight: Path,
    tmp_path: Path,
    num_processes: int,
    of_glibc: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the C library keeps freed memory: users may set these variables, see docs/plan.md."""
    for name, value in of_glibc.items():
        monkeypatch.setenv(name, value)
    run_dir = run(corpus, tmp_path / "run", num_processes)
    assert next(read_chain(run_dir / "journal.jsonl"))["num_processes"] == num_processes
    assert results(run_dir) == results(straight)


def test_another_seed_gives_another_ledger(corpus: Artifact, straight: Path, tmp_path: Path) -> None:
    other = run_in_this_process(corpus, tmp_path / "run", seed=8)
    first, second = (list(read_chain(directory / "ledger.jsonl")) for directory in (straight, other))
    steps = [record for record in second if record["kind"] == "step"]
    assert len(first) == len(second)
    assert all(record not in first for record in steps)


def test_ledger_holds_what_the_formats_page_says(straight: Path) -> None:
    records = list(read_chain(straight / "ledger.jsonl"))
    kinds = [(record["kind"], record.get("step")) for record in records]
    assert kinds[:3] == [("start", None), ("evaluation", 0), ("checkpoint", 0)]
    assert kinds[-4:] == [("step", 10), ("evaluation", 10), ("checkpoint", 10), ("end", 10)]
    kept = {record["step"]: record["checkpoint_kind"] for record in records if record["kind"] == "checkpoint"}
    assert kept == {0: "weights", 1: "weights", 2: "weights", 3: "full", 4: "weights", 6: "full", 9: "full", 10: "full"}
    steps = [record for record in records if record["kind"] == "step"]
    assert [sum(record["tokens_by_source"].values()) for record in steps] == [8 * 24] * 7 + [16 * 24] * 3
    assert len({record["parameter_checksum"] for record in steps}) == 10
    run_json = json.loads((straight / "run.json").read_text())
    assert run_json["ledger"]["num_records"] == len(records)
    assert run_json["num_tokens"] == (7 * 8 + 3 * 16) * 24


def test_checkpoints_load_with_transformers_and_have_the_recorded_digest(straight: Path) -> None:
    directory = straight / "checkpoints" / "step-00000010"
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert state_digest(tensors) == read_record(directory).weights_digest
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.decode(tokenizer.encode("学习 语言 поезд")) == "学习 语言 поезд"


def test_weights_are_cut_into_files_of_the_given_size(corpus: Artifact, straight: Path, tmp_path: Path) -> None:
    cut = {"weights_until_step": 4, "full_every_steps": 3, "max_file_bytes": 60_000}
    sharded = run_in_this_process(corpus, tmp_path / "run", checkpoints=cut)
    directory = sharded / "checkpoints" / "step-00000010"
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    assert len(list(directory.glob("optimizer-*.safetensors"))) > 2
    assert read_record(directory).state_digest == read_record(straight / "checkpoints/step-00000010").state_digest
    AutoModelForCausalLM.from_pretrained(directory)


LONG = {
    "phases": [{"num_steps": 60, "sequences_per_step": 8}],
    "checkpoints": {"weights_until_step": 16, "full_every_steps": 7},
}
"""Enough steps that a signal meets the run in the middle."""


@pytest.fixture(scope="module")
def long_straight(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in_this_process(corpus, tmp_path_factory.mktemp("long") / "run", **LONG)


def start_in_background(corpus: Artifact, run_dir: Path) -> "subprocess.Popen[bytes]":
    """Start the long run in a process of its own."""
    program = (
        "import json, sys; sys.path[:0] = sys.argv[1:3]\n"
        "import tiny_runs; from pathlib import Path; from train.jobs import launch\n"
        "config = tiny_runs.pretrain_config(**json.loads(sys.argv[5]))\n"
        "job = tiny_runs.make_job('pretrain', config, Path(sys.argv[3]), Path(sys.argv[4]))\n"
        "launch(job, 2, 1)\n"
    )
    here = Path(__file__).parent
    arguments = [str(here), str(here.parent.parent), str(corpus.path), str(run_dir), json.dumps(LONG)]
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)


def records_so_far(run_dir: Path) -> int:
    ledger = run_dir / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def test_kill_at_random_moments_and_going_on_gives_the_same_bytes(
    corpus: Artifact, long_straight: Path, tmp_path: Path
) -> None:
    draw = random.Random(20261124)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for _ in range(2):  # benchmarks/crash.py does it fifty times
        process = start_in_background(corpus, run_dir)
        target = records_so_far(run_dir) + draw.randint(8, 25)
        while process.poll() is None and records_so_far(run_dir) < target:
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
    run(corpus, run_dir, 1, **LONG)
    assert results(run_dir) == results(long_straight)


def test_a_signal_stops_with_a_checkpoint_and_the_next_call_goes_on(
    corpus: Artifact, long_straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    process = start_in_background(corpus, run_dir)
    while process.poll() is None and records_so_far(run_dir) < 4:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.wait()
    stopped = list((run_dir / "checkpoints").glob(requeue_name("*")))
    assert len(stopped) == 1
    assert read_record(stopped[0]).kind == "full"
    run(corpus, run_dir, 2, **LONG)
    assert results(run_dir) == results(long_straight)
    kinds = [record["kind"] for record in read_chain(run_dir / "journal.jsonl")]
    assert {"start", "stop", "resume", "finish"} <= set(kinds)


def test_stop_reaches_the_caller_as_an_error_with_exit_code_75(corpus: Artifact, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = tiny_runs.make_job("pretrain", tiny_runs.pretrain_config(), corpus.path, run_dir)
    timer = subprocess.Popen(
        [sys.executable, "-c", "import os, sys, time; time.sleep(1); os.kill(int(sys.argv[1]), 15)", str(os.getpid())]
    )
    with pytest.raises(StoppedForRequeue) as stopped:
        launch(job, 1, 1)
    timer.wait()
    assert stopped.value.exit_code == 75


def test_a_second_job_in_one_directory_is_refused(corpus: Artifact, tmp_path: Path) -> None:
    import fcntl

    run_dir = tmp_path / "run"
    job = tiny_runs.make_job("pretrain", tiny_runs.pretrain_config(), corpus.path, run_dir)
    with (run_dir / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process is training"):
            launch(job, 1, 1)


def test_a_tampered_checkpoint_is_not_resumed(corpus: Artifact, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(straight, run_dir)
    path = run_dir / "checkpoints" / "step-00000010" / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OpenwrightError, match="state digest"):
        run_in_this_process(corpus, run_dir)


def test_a_runaway_loss_stops_with_the_step_named(corpus: Artifact, tmp_path: Path) -> None:
    optimizer = {"peak_learning_rate": 1e30, "max_gradient_norm": 1e30}
    with pytest.raises(TrainingError, match=r"step [0-9]+, windows of alpha"):
        run_in_this_process(corpus, tmp_path / "run", optimizer=optimizer)


def test_a_mixture_must_name_sources_of_the_split(corpus: Artifact, tmp_path: Path) -> None:
    phases = [{"num_steps": 10, "sequences_per_step": 8, "mixture": {"alpha": 1, "gamma": 2}}]
    with pytest.raises((ConfigError, TrainingError), match="gamma"):
        run_in_this_process(corpus, tmp_path / "run", phases=phases)


def test_weights_of_a_mixture_are_exact(corpus: Artifact, tmp_path: Path) -> None:
    phases = [{"num_steps": 10, "sequences_per_step": 8, "mixture": {"alpha": 1, "beta": 3}}]
    run_dir = run_in_this_process(corpus, tmp_path / "run", phases=phases)
    steps = [record for record in read_chain(run_dir / "ledger.jsonl") if record["kind"] == "step"]
    beta = sum(record["tokens_by_source"].get("beta", 0) for record in steps)
    assert beta == 60 * 24


def test_replay_from_a_full_checkpoint_writes_the_same_records(
    corpus: Artifact, straight: Path, tmp_path: Path
) -> None:
    request = {
        "format": REPLAY_FORMAT,
        "stage": "pretrain",
        "recipe": str(straight / "recipe.json"),
        "corpus": str(corpus.path),
        "base_checkpoint": "",
        "from_checkpoint": str(straight / "checkpoints" / "step-00000003"),
        "last_step": 9,
        "output": str(tmp_path / "replay"),
        "num_processes": 2,
    }
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    subprocess.run([sys.executable, "-m", "train.replay", str(path)], check=True)
    replayed = (tmp_path / "replay" / "ledger.jsonl").read_bytes()
    assert replayed in (straight / "ledger.jsonl").read_bytes()
    assert replayed.count(b'"kind":"step"') == 6


def test_stages_chain_and_are_made_once(corpus: Artifact, tmp_path: Path) -> None:
    """Another architecture, untied, without dropout; then fine-tuning from its final checkpoint."""
    context = tiny_runs.context(tmp_path)
    alone = {"execution": {"num_processes": 1}}
    base = pretrain(tiny_runs.pretrain_config(model=tiny_runs.LLAMA, **alone), context, corpus)
    tuned = finetune(tiny_runs.sft_config(), context, corpus, base)
    assert {parent.role for parent in tuned.parents} == {"corpus", "base"}
    start = next(read_chain(tuned.path / "ledger.jsonl"))
    assert start["order"]["split"] == "sft"
    steps = [record for record in read_chain(tuned.path / "ledger.jsonl") if record["kind"] == "step"]
    assert all(record["num_trained_tokens"] < sum(record["tokens_by_source"].values()) for record in steps)
    began = time.monotonic()
    assert finetune(tiny_runs.sft_config(), context, corpus, base) == tuned
    assert time.monotonic() - began < 5
