"""The process that hashes and writes checkpoints: same bytes and digests, kept memory, and an end in every case."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from train.checkpoint import plan_files
from train.checkpoint_copies import copy_tensors
from train.checkpoint_files import UNKNOWN_ERROR, Companions, TensorPlace
from train.checkpoint_process import CheckpointProcess
from train.layout import Layout, Part, World
from train.state import dtype_name, tensor_digest

ROOT = Path(__file__).resolve().parent.parent.parent
NO_COMPANIONS = Companions(documents={}, texts={}, copied=[], synced=[])


@pytest.fixture
def process() -> Iterator[CheckpointProcess]:
    process = CheckpointProcess()
    yield process
    process.close()


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "norm": torch.randn(66, generator=generator),
        "embed": torch.randn(101, 7, generator=generator),
        "experts": torch.randn(3, 5, 11, generator=generator).to(torch.bfloat16),
        "double": torch.randn(4, 3, generator=generator, dtype=torch.float64),
        "step": torch.tensor(12345),
        "row": torch.randn(1, 9, generator=generator),
    }


def copy_in(process: CheckpointProcess, values: dict[str, torch.Tensor]) -> list[TensorPlace]:
    """Copy tensors into shared memory, one after the other."""
    places, end = [], 0
    for name, tensor in values.items():
        places.append(TensorPlace(name, dtype_name(tensor.dtype), tuple(tensor.shape), end))
        end += -(-tensor.nbytes // 64) * 64
    memory = torch.frombuffer(process.memory(end), dtype=torch.uint8)
    for place, tensor in zip(places, values.values(), strict=True):
        memory[place.offset : place.offset + tensor.nbytes] = tensor.reshape(-1).view(torch.uint8)
    return places


def test_files_and_digests_are_those_of_the_tensors(process: CheckpointProcess, tmp_path: Path) -> None:
    values = tensors()
    process.write(tmp_path / "new" / "work", {"model.safetensors": copy_in(process, values)}, None)
    answer = process.receive()
    assert (answer.error_number, answer.error) == (0, "")
    assert answer.digests == {name: tensor_digest(name, tensor) for name, tensor in values.items()}
    save_file(values, tmp_path / "expected", metadata={"format": "pt"})
    assert (tmp_path / "new" / "work" / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_copies_lie_side_by_side_and_an_empty_tensor_takes_no_place(process: CheckpointProcess, tmp_path: Path) -> None:
    values = {**tensors(), "empty": torch.empty(0, 3)}
    parts = [Part(name, tensor, tuple(tensor.shape)) for name, tensor in values.items()]
    files = plan_files(parts, "model", 1500)
    assert len(files) > 2
    process.write(tmp_path, copy_tensors(files, Layout(World()), process), None)
    for tensor in values.values():  # the next step may begin
        tensor.zero_()
    values = {**tensors(), "empty": values["empty"]}
    assert process.receive().digests == {name: tensor_digest(name, tensor) for name, tensor in values.items()}


def test_memory_is_kept_and_grows(process: CheckpointProcess, tmp_path: Path) -> None:
    assert process.memory(5000) is process.memory(100)
    small = {"small": torch.arange(3.0)}
    process.write(tmp_path, {"one": copy_in(process, small)}, None)
    assert process.receive().digests == {"small": tensor_digest("small", small["small"])}
    large = {"large": torch.arange(3000.0).reshape(300, 10)}
    process.write(tmp_path, {"two": copy_in(process, large)}, None)
    assert process.receive().digests == {"large": tensor_digest("large", large["large"])}


def test_companions_are_written_and_the_directory_gets_its_name(process: CheckpointProcess, tmp_path: Path) -> None:
    work, target, other = tmp_path / ".step.tmp", tmp_path / "step", tmp_path / "tokenizer.json"
    other.write_text("{}")
    companions = Companions(
        documents={"index.json": {"a": 1}}, texts={"config.json": "x\n"}, copied=[str(other)], synced=[]
    )
    process.write(work, {}, companions)
    assert process.receive().error == ""
    target.mkdir()
    (target / "old").touch()
    process.place(work, target, {"step": 3}, None)
    assert process.receive().error == ""
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step"]
    assert sorted(path.name for path in target.iterdir()) == [
        "checkpoint.json", "config.json", "index.json", "tokenizer.json",
    ]  # fmt: skip
    assert (target / "config.json").read_text() == "x\n"


def test_the_ledger_must_be_on_the_disk(process: CheckpointProcess, tmp_path: Path) -> None:
    """A file that cannot be forced onto the disk fails the checkpoint."""
    companions = Companions(documents={}, texts={}, copied=[], synced=[str(tmp_path / "absent.jsonl")])
    process.write(tmp_path, {}, companions)
    assert process.receive().error_number == errno.ENOENT


def test_errors_of_the_disk_keep_their_numbers(process: CheckpointProcess, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process.write(tmp_path / "file" / "work", {}, NO_COMPANIONS)
    assert process.receive().error_number == errno.ENOTDIR
    (tmp_path / "model.safetensors").mkdir()
    process.write(tmp_path, {"model.safetensors": copy_in(process, tensors())}, None)
    assert process.receive().error_number == errno.EISDIR
    process.write(tmp_path, {}, NO_COMPANIONS)
    assert process.receive().error_number == 0


def test_it_gives_way_and_hears_no_signal_but_a_kill(process: CheckpointProcess, tmp_path: Path) -> None:
    process.write(tmp_path, {}, NO_COMPANIONS)
    process.receive()
    assert os.getpriority(os.PRIO_PROCESS, process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(process.pid, number)
    process.write(tmp_path, {}, NO_COMPANIONS)
    assert process.receive().error_number == 0
    os.kill(process.pid, signal.SIGKILL)
    process.write(tmp_path, {}, NO_COMPANIONS)
    answer = process.receive()
    assert process.has_answered
    assert (answer.error_number, answer.error) == (
        UNKNOWN_ERROR,
        "the process that writes checkpoints ended with code -9",
    )


PARENT = """
import sys, time
from pathlib import Path
from train.checkpoint_files import Companions
from train.checkpoint_process import CheckpointProcess
process = CheckpointProcess()
process.memory(2**20)
process.write(Path(sys.argv[1]), {}, Companions({}, {}, [], []))
process.receive()
print(process.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_its_parent_and_leaves_no_memory_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    end = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert set(os.listdir("/dev/shm")) <= before


def is_running(pid: int) -> bool:
    """Whether a process is there and no mere entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
