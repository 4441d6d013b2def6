import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small_jobs
import tiny_runs
import torch
import torch.distributed as dist
from gloo_processes import joined, run_processes

import train.worker
from provenance.errors import TrainingError
from provenance.fingerprint import library_versions, sources_digest
from train import preflight as preflight_module
from train.layout import Layout, World
from train.loop import TrainingRun
from train.preflight import (
    ProcessRecord,
    arithmetic_digest,
    check_agreement,
    check_collectives,
    check_expected,
    check_room,
    checkpoint_bytes_to_come,
    preflight,
    sampled_data_digest,
)
from train.retention import kept_checkpoints

PACKAGES = ("provenance", "data_recipes", "train")
LIBRARIES = ("torch", "numpy")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


def check(world: World, run_dir: Path, corpus: Path, needed_bytes: int = 1, code: str = "") -> float:
    versions = library_versions(LIBRARIES)
    return preflight(
        world,
        run_dir=run_dir,
        corpus=corpus,
        splits=("train", "heldout"),
        packages=PACKAGES,
        libraries=LIBRARIES,
        needed_bytes=needed_bytes,
        expected_libraries=versions,
        expected_code=code or sources_digest(PACKAGES),
    )


def record(rank: int, **changes: object) -> ProcessRecord:
    values = {"code": "c" * 64, "data": "d" * 64, "libraries": '{"torch": "2.13.0"}', "arithmetic": "a" * 64}
    plain = ProcessRecord(rank, f"node{rank}", "Model A", **values, free_bytes=10**9)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_one_process_passes_alone(corpus: Path, tmp_path: Path) -> None:
    assert check(World(), tmp_path, corpus) < 1.0


def run_two(rank: int, root: Path, corpus: Path) -> None:
    with joined(rank, 2, 1, root / "rendezvous") as layout:
        check(layout.world, root, corpus)  # the first call pays for what torch sets up once
        started = time.monotonic()
        check(layout.world, root, corpus)
        (root / f"seconds-{rank}").write_text(str(time.monotonic() - started))


def test_two_processes_agree_within_a_second(corpus: Path, tmp_path: Path) -> None:
    run_processes(run_two, 2, tmp_path, corpus)
    assert max(float(path.read_text()) for path in tmp_path.glob("seconds-*")) < 1.0


def run_with_one_odd(rank: int, root: Path, corpus: Path, what: str) -> None:
    """Process 1 sees another corpus or computes other bits; both processes must refuse, naming it."""
    with joined(rank, 2, 1, root / "rendezvous") as layout:
        if rank == 1 and what == "arithmetic":
            preflight_module.arithmetic_digest = lambda device: "b" * 64  # type: ignore[assignment]
        if rank == 1 and what == "data":
            corpus = root / "copy"
        with pytest.raises(TrainingError, match=f"{what} differs.*") as refused:
            check(layout.world, root, corpus)
        assert refused.value.where.startswith("rank 1 on ")


@pytest.mark.parametrize("what", ["data", "arithmetic"])
def test_a_process_that_differs_is_named_by_all(corpus: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    shard = next((tmp_path / "copy" / "tokens" / "train").rglob("tokens-000.bin"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    run_processes(run_with_one_odd, 2, tmp_path, corpus, what)


def run_with_wrong_sums(rank: int, root: Path) -> None:
    """A library that loses a bit in one element of a sum on process 0."""
    with joined(rank, 2, 1, root / "rendezvous") as layout:
        honest = dist.all_reduce

        def broken(tensor: torch.Tensor, **options: object) -> None:
            honest(tensor, **options)
            if tensor.dtype == torch.int64 and tensor.numel() > 100:
                tensor[17] ^= 1

        if rank == 0:
            dist.all_reduce = broken
            with pytest.raises(TrainingError, match="sum of integers, 1 of 1024 elements"):
                check_collectives(layout.world)
        else:
            check_collectives(layout.world)


def test_a_collective_that_gives_wrong_values_is_found(tmp_path: Path) -> None:
    run_processes(run_with_wrong_sums, 2, tmp_path)


@pytest.mark.parametrize("field", ["code", "data", "arithmetic"])
def test_the_odd_one_of_three_is_named(field: str) -> None:
    records = [record(0), record(1, **{field: "e" * 64, "cpu_model": "Model B"}), record(2)]
    with pytest.raises(TrainingError, match=f"{field} differs.*eeeeeeeeeeee there.*Model B there") as refused:
        check_agreement(records)
    assert refused.value.where == "rank 1 on node1"
    check_agreement([record(0), record(1)])


def test_a_library_of_another_version_is_named() -> None:
    with pytest.raises(TrainingError, match=r"torch 2\.12\.0 there, 2\.13\.0 elsewhere"):
        check_agreement([record(0), record(1), record(2, libraries='{"torch": "2.12.0"}')])


def test_processes_that_agree_on_something_else_than_the_fingerprint_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not the one of the stage's fingerprint"):
        check(World(), tmp_path, corpus, code="f" * 64)
    check_expected([record(0)], "code", "", "nothing is expected")


def test_too_little_room_is_refused_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="GB are free"):
        check(World(), tmp_path, corpus, needed_bytes=10**18)
    with pytest.raises(TrainingError, match="rank 1 on node1"):
        check_room([record(0), record(1, free_bytes=5)], 6, tmp_path)
    check_room([record(0, free_bytes=6)], 6, tmp_path)


def test_room_is_asked_for_all_checkpoints_that_are_not_there_yet(corpus: Path, tmp_path: Path) -> None:
    config = small_jobs.small_config(checkpoints={"weights_until_step": 1, "full_every_steps": 2})
    run_dir = tmp_path / "run"
    job = small_jobs.small_job(corpus, run_dir, config)
    run = TrainingRun(job, Layout(World()))
    size = sum(part.tensor.nbytes for part in run.weights)
    plan = kept_checkpoints(config, size, 3 * size)  # weights at 0 and 1, full at 2, 4 and 6
    assert checkpoint_bytes_to_come(plan, run_dir) == plan.total_bytes == 11 * size
    assert not small_jobs.run_here(job, small_jobs.stop_after(run_dir, 3))
    (run_dir / "checkpoints" / ".step-00000004.tmp").mkdir()
    (run_dir / "checkpoints" / ".step-00000004.tmp" / "model.safetensors").write_bytes(bytes(1000))
    assert (run_dir / "checkpoints" / "requeue-00000003").is_dir()
    left = checkpoint_bytes_to_come(plan, run_dir)
    assert left == pytest.approx(6 * size - 1000, abs=3 * 30_000)  # tokenizer and config lie beside the tensors
    assert left < 6 * size - 1000
    assert small_jobs.run_here(job)
    assert checkpoint_bytes_to_come(plan, run_dir) == 0


def test_a_worker_asks_for_that_room(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingRun(small_jobs.small_job(corpus, tmp_path, small_jobs.small_config()), Layout(World()))
    size = sum(part.tensor.nbytes for part in run.weights)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=11 * size))
    train.worker._check_processes(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=11 * size - 1))
    with pytest.raises(TrainingError, match="MB are free") as refused:
        train.worker._check_processes(run)
    assert "still to keep" in refused.value.expected


def test_arithmetic_is_the_same_twice_and_another_with_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    first = arithmetic_digest(device)
    assert arithmetic_digest(device) == first
    honest = preflight_module._fixed_values

    def off_by_one_bit(count: int, device: torch.device) -> torch.Tensor:
        values = honest(count, device)
        values[5] = torch.nextafter(values[5], torch.tensor(2.0))
        return values

    monkeypatch.setattr(preflight_module, "_fixed_values", off_by_one_bit)
    assert arithmetic_digest(device) != first


def test_data_that_was_cut_short_or_changed_has_another_digest(corpus: Path, tmp_path: Path) -> None:
    splits = ("train", "heldout")
    expected = sampled_data_digest(corpus, splits)
    for number, change in enumerate((lambda data: data[:-2], lambda data: b"\xff" + data[1:])):
        copy = tmp_path / str(number)
        shutil.copytree(corpus, copy)
        assert sampled_data_digest(copy, splits) == expected
        shard = next((copy / "tokens" / "heldout").rglob("tokens-000.bin"))
        shard.write_bytes(change(shard.read_bytes()))
        assert sampled_data_digest(copy, splits) != expected
