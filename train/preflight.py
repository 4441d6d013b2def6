"""Before the first step: do all processes run the same code on the same data, and do they compute the same bits?

On one machine the answers are nearly always yes. On a cluster they are not: a stale file system cache, a node with
another image, another CPU model in the same partition, a network card that corrupts. Each of these would show as a
ledger that no one can replay, thousands of steps later. The checks take well under a second.
"""

import hashlib
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from data_recipes.windows import shard_file
from provenance.canonical import read_json
from provenance.digests import tagged_digest
from provenance.environment import platform_record
from provenance.errors import TrainingError
from provenance.fingerprint import library_versions, sources_digest
from train.checkpoint_records import CHECKPOINTS, requeue_name
from train.layout import World
from train.retention import CheckpointPlan

_SAMPLED_FILES = 32
_SAMPLE_BYTES = 4096
_MAX_RECORD_BYTES = 4096


@dataclass(frozen=True)
class ProcessRecord:
    """What one process says of itself.

    Attributes:
        code: digest of the packages' sources as this process sees them.
        data: digest of the corpus as this process sees it, sampled: see `sampled_data_digest`.
        libraries: versions of the libraries that change results.
        arithmetic: digest of the bits of a small computation.
        free_bytes: room on the file system of the run directory.
    """

    rank: int
    host: str
    cpu_model: str
    code: str
    data: str
    libraries: str
    arithmetic: str
    free_bytes: int

    @property
    def place(self) -> str:
        """Rank and host, for messages."""
        return f"rank {self.rank} on {self.host}"


def preflight(
    world: World,
    *,
    run_dir: Path,
    corpus: Path,
    splits: Sequence[str],
    packages: Sequence[str],
    libraries: Sequence[str],
    needed_bytes: int,
    expected_libraries: Mapping[str, str] | None = None,
    expected_code: str = "",
) -> float:
    """Check this job's processes against one another; called by every process at the same time.

    Args:
        world: all processes.
        run_dir: where checkpoints go.
        corpus: the corpus directory.
        splits: splits that the job reads.
        packages: packages whose sources the stage may import.
        libraries: distributions whose version may change its results.
        needed_bytes: what the checkpoints still to come take (`checkpoint_bytes_to_come`).
        expected_libraries: versions in the stage's fingerprint; None compares the processes only.
        expected_code: digest of the sources in the stage's fingerprint; empty compares the processes only.

    Returns:
        The seconds it took.

    Raises:
        TrainingError: the same on every process, naming rank and host that differ.
    """
    started = time.monotonic()
    check_collectives(world)
    versions = library_versions(libraries)
    own = ProcessRecord(
        rank=world.rank,
        host=socket.gethostname(),
        cpu_model=str(platform_record()["cpu_model"]),
        code=sources_digest(packages),
        data=sampled_data_digest(corpus, splits),
        libraries=_as_text(versions),
        arithmetic=arithmetic_digest(world.device),
        free_bytes=shutil.disk_usage(run_dir).free,
    )
    records = gather_records(world, own)
    check_agreement(records)
    check_expected(records, "code", expected_code, "the sources that the launching process has")
    if expected_libraries is not None:
        check_expected(records, "libraries", _as_text(expected_libraries), "versions of the launching process")
    check_room(records, needed_bytes, run_dir)
    return time.monotonic() - started


def check_collectives(world: World) -> None:
    """Reduce and gather known values.

    Raises:
        TrainingError: when a sum, a maximum or a gathered value is not what it must be.
    """
    if world.size == 1:
        return
    size = world.size
    number = torch.arange(1, 1025, dtype=torch.int64, device=world.device)
    summed = world.all_reduce(number * (world.rank + 1))
    largest = world.all_reduce(number + world.rank, largest=True)
    halves = world.all_reduce(torch.full((1024,), 0.5 * (world.rank + 1), device=world.device))
    gathered = [torch.empty_like(number) for _ in range(size)]
    dist.all_gather(gathered, number * (world.rank + 3))
    expected: list[tuple[str, torch.Tensor, torch.Tensor]] = [
        ("sum of integers", summed, number * (size * (size + 1) // 2)),
        ("maximum", largest, number + size - 1),
        ("sum of floats", halves, torch.full_like(halves, 0.5 * (size * (size + 1) // 2))),
        *((f"gathered part {rank}", part, number * (rank + 3)) for rank, part in enumerate(gathered)),
    ]
    for name, found, wanted in expected:
        if not torch.equal(found, wanted):
            wrong = int((found != wanted).sum())
            raise TrainingError(
                f"a collective gives wrong values: {name}, {wrong} of {found.numel()} elements",
                expected="the values that were sent",
                where=f"rank {world.rank} on {socket.gethostname()}",
                next_command="look at the network and the communication library of this machine",
            )


def arithmetic_digest(device: torch.device) -> str:
    """Digest of the bits of a matrix product, a softmax, an exponential and a bf16 product of fixed values."""
    left = _fixed_values(96 * 160, device).reshape(96, 160)
    right = _fixed_values(160 * 80, device).reshape(160, 80)
    product = left @ right
    results = [
        product,
        torch.softmax(product, dim=-1),
        torch.exp(product),
        torch.rsqrt(product.square().mean(dim=-1) + 1e-6),
        (left.bfloat16() @ right.bfloat16()).float(),
    ]
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.cpu().numpy().tobytes())
    return digest.hexdigest()


def sampled_data_digest(corpus: Path, splits: Iterable[str]) -> str:
    """Digest of what a process sees of a corpus: its list of shards, their sizes, and some blocks of some of them.

    Reading all tokens in all processes would take longer than the check is worth: the corpus was verified when the
    stage began. This finds what differs between machines: another corpus, a file cut short, a stale cache.
    """
    listed = read_json(corpus / "tokens" / "tokens.json")
    paths = [
        shard_file(corpus, file["path"])
        for split in sorted(set(splits))
        for source in listed["splits"][split]["sources"]
        for shard in source["shards"]
        for _, file in sorted(shard["files"].items())
    ]
    every = max(1, len(paths) // _SAMPLED_FILES)
    sizes = [path.stat().st_size for path in paths]
    blocks = [_sampled_blocks(path, size) for path, size in zip(paths[::every], sizes[::every], strict=True)]
    return tagged_digest("preflight-data/1", {"listed": listed, "sizes": sizes, "blocks": blocks})


def gather_records(world: World, own: ProcessRecord) -> list[ProcessRecord]:
    """The records of all processes, by rank."""
    if world.size == 1:
        return [own]
    data = json.dumps(asdict(own)).encode()
    assert len(data) <= _MAX_RECORD_BYTES, len(data)
    padded = torch.zeros(_MAX_RECORD_BYTES, dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    gathered = [torch.empty_like(padded, device=world.device) for _ in range(world.size)]
    dist.all_gather(gathered, padded.to(world.device))
    texts = [bytes(part.cpu().numpy()).rstrip(b"\0") for part in gathered]
    return [ProcessRecord(**json.loads(text)) for text in texts]


def check_agreement(records: Sequence[ProcessRecord]) -> None:
    """Refuse processes that differ in code, data, libraries or arithmetic.

    Raises:
        TrainingError: naming the processes that differ from most others.
    """
    advice = {
        "code": ("the same sources on every machine", "use one clone on a shared file system"),
        "data": ("the same corpus on every machine", "look at the file system that holds the artifacts"),
        "libraries": ("the same library versions on every machine", "make setup, on a file system that all share"),
        "arithmetic": (
            "the same bits from every process; machines of one CPU or GPU model",
            "ask for one model of machine (sbatch_lines in the cluster file), or use reduction: native",
        ),
    }
    for field, (expected, following) in advice.items():
        values = [getattr(record, field) for record in records]
        usual = Counter(values).most_common(1)[0][0]
        odd = [record for record, value in zip(records, values, strict=True) if value != usual]
        if odd:
            raise TrainingError(
                f"{field} differs between processes: {_differences(field, odd[0], usual, records)}",
                expected=expected,
                where=", ".join(record.place for record in odd[:8]) + (" ..." if len(odd) > 8 else ""),
                next_command=following,
            )


def check_expected(records: Sequence[ProcessRecord], field: str, expected: str, meaning: str) -> None:
    """Refuse processes that agree with one another and not with what the launching process found.

    Raises:
        TrainingError: naming the first of them.
    """
    for record in records:
        found = getattr(record, field)
        if expected and found != expected:
            raise TrainingError(
                f"{field} is not the one of the stage's fingerprint: {found}",
                expected=f"{expected}, {meaning}",
                where=record.place,
                next_command="use one clone and one environment on a file system that all machines share",
            )


def check_room(records: Sequence[ProcessRecord], needed_bytes: int, run_dir: Path) -> None:
    """Refuse to begin a run whose checkpoints cannot fit.

    Raises:
        TrainingError: naming the process that sees the least room.
    """
    least = min(records, key=lambda record: record.free_bytes)
    if least.free_bytes < needed_bytes:
        raise TrainingError(
            f"{_size(least.free_bytes)} are free",
            expected=f"at least {_size(needed_bytes)} for the checkpoints that this run is still to keep",
            where=f"{run_dir}, {least.place}",
            next_command="make room, or keep fewer checkpoints (keep_last_full, full_every_steps, weights_every_steps)",
        )


def checkpoint_bytes_to_come(plan: CheckpointPlan, run_dir: Path) -> int:
    """Bytes of the planned checkpoints beyond what is on the disk already.

    What a crash left half-written counts as there, since the start removes it. A checkpoint made for a requeue does
    not: it is not planned, and goes when the next one is whole.
    """
    there = (run_dir / CHECKPOINTS).glob("*/*")
    present = sum(path.stat().st_size for path in there if not path.parent.match(requeue_name("*")))
    return max(0, plan.total_bytes - present)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 10**9 else f"{num_bytes / 1e6:,.1f} MB"


def _differences(field: str, odd: ProcessRecord, usual: str, records: Sequence[ProcessRecord]) -> str:
    if field == "libraries":
        found, others = json.loads(odd.libraries), json.loads(usual)
        names = sorted(name for name in {*found, *others} if found.get(name) != others.get(name))
        return ", ".join(f"{name} {found.get(name)} there, {others.get(name)} elsewhere" for name in names)
    text = f"{getattr(odd, field)[:12]} there, {usual[:12]} elsewhere"
    other = next(record for record in records if getattr(record, field) == usual)
    if odd.cpu_model != other.cpu_model:
        text += f" ({odd.cpu_model} there, {other.cpu_model} elsewhere)"
    return text


def _as_text(versions: Mapping[str, str]) -> str:
    return json.dumps(dict(versions), sort_keys=True)


def _fixed_values(count: int, device: torch.device) -> torch.Tensor:
    """Values between -1 and 1 from integer arithmetic: the same on every device and in every version of torch."""
    mixed = (torch.arange(1, count + 1, dtype=torch.int64) * 2654435761) % 65521
    return ((mixed - 32760).to(torch.float32) / 32761.0).to(device)


def _sampled_blocks(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in sorted({0, max(0, size // 2 - _SAMPLE_BYTES), max(0, size - _SAMPLE_BYTES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
