"""The verifiers against their bars: `python benchmarks/verify.py [--json] [--gigabytes N] [--steps N] [AREA ...]`.

* bytes: checking the files of a bundle against `sha256sum` on the same files, in turns;
* memory: the peak of `verify.py` on a bundle of some gigabytes;
* records: a ledger of a million steps of 64 windows, without tokens, on one core;
* whole: both verifiers, each a process of its own, on a release of a million steps over 200,000 documents (minutes to
  make, and 2 GB of disk);
* alterations: one byte changed at each of a thousand places over all files of a bundle: caught, and the file named;
* replay: steps replayed from a checkpoint against the same steps when they were trained.

Bundles are made here, from no data; nothing is fetched.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import Figure, make_figure, print_figures
from verify_bundle import Shape, make_bundle
from verify_replay import replay_figures
from verify_whole import whole_figures

from release.facts import read_ledger
from release.order_check import compare_order
from release.secret_scan import find_secrets
from release.verify import BYTES, CheckResult, verify_bundle

AREAS = ("memory", "bytes", "records", "whole", "alterations", "replay")
PROGRAM = Path(__file__).resolve().parent.parent / "release" / "verify.py"
_WITH_ITS_PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""
# (The peak that the kernel counts for children of a process includes what that process itself held when it forked.)
BLOBS = ((1, 2**30), (64, 2**22), (2000, 2**12))


def bytes_figures(scratch: Path, pairs: int) -> list[Figure]:
    """Seconds to check the files of a bundle of 1.3 GB, all in the page cache, against `sha256sum`."""
    bundle = make_bundle(scratch / "bytes", Shape(blobs=BLOBS))
    files = [path for path in bundle.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files) / 1e6
    ours, peers = [], []
    for _ in range(pairs + 1):
        peers.append(_sha256sum_seconds(bundle))
        ours.append(_bytes_seconds(bundle))
    del ours[0], peers[0]  # the first pair fills the page cache
    ratio = median(peer / our for our, peer in zip(ours, peers, strict=True))
    name = f"bytes: MB per second over {len(files):,} files against sha256sum"
    return [make_figure(name, size_mb / median(ours), size_mb / median(peers), runs=pairs, ratio=ratio, at_least=0.8)]


def _sha256sum_seconds(bundle: Path) -> float:
    begin = time.perf_counter()
    command = "find . -type f -print0 | xargs -0 sha256sum > /dev/null"
    subprocess.run(command, shell=True, cwd=bundle, check=True)
    return time.perf_counter() - begin


def _bytes_seconds(bundle: Path) -> float:
    """Seconds until the last of the `bytes` checks, which come first, has its verdict."""
    begin, seconds = time.perf_counter(), 0.0

    def note(result: CheckResult) -> None:
        nonlocal seconds
        if result.check == BYTES:
            seconds = time.perf_counter() - begin

    results = verify_bundle(bundle, report=note)
    _require(results, "model files", "content digest", "stage pretrain")
    return seconds


def _require(results: list[CheckResult], *names: str) -> None:
    """A figure of a check that did not pass would be none."""
    verdicts = {result.name: result.verdict for result in results}
    wrong = [name for name in names if verdicts.get(name) != "PASS"]
    if wrong:
        raise RuntimeError(f"checks {wrong} did not pass: {results}")


def memory_figures(scratch: Path, gigabytes: int) -> list[Figure]:
    """Peak resident memory of `verify.py`; weights of zeros in sparse files, read as any others."""
    bundle = make_bundle(scratch / "memory", Shape(weights_bytes=gigabytes * 2**30))
    arguments = [sys.executable, "-S", "-B", "-c", _WITH_ITS_PEAK, str(PROGRAM), str(bundle)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if "PASS        records: final weights" not in done.stdout:
        raise RuntimeError(done.stdout + done.stderr)
    peak_mb = int(done.stderr.split()[-2]) * 1024 / 1e6
    name = f"memory: peak MB of verify.py on {gigabytes} GiB of weights, against 300"
    return [make_figure(name, peak_mb, 300, runs=1, at_most=1.0)]


def records_figures(scratch: Path, num_steps: int) -> list[Figure]:
    """Seconds for a ledger of many steps by each verifier, by the clock and on one core."""
    bundle = make_bundle(scratch / "records", Shape(num_steps=num_steps))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    begin, processor = time.perf_counter(), time.process_time()
    _require(verify_bundle(bundle), "pretrain ledger", "pretrain recipe", "pretrain order", "pretrain schedule")
    standalone, standalone_processor = time.perf_counter() - begin, time.process_time() - processor
    begin, processor = time.perf_counter(), time.process_time()
    folder = bundle / "model" / "training" / "pretrain"
    found, wrong = compare_order(read_ledger(folder / "ledger.jsonl"), folder)
    every, every_processor = time.perf_counter() - begin, time.process_time() - processor
    begin, processor = time.perf_counter(), time.process_time()
    secrets = find_secrets(bundle)
    besides, besides_processor = time.perf_counter() - begin, time.process_time() - processor
    os.sched_setaffinity(0, cores)
    if wrong or secrets or found != num_steps:
        raise RuntimeError(f"{found} steps, {wrong}, {secrets}")
    told = f"{num_steps:,} steps of 64 windows"
    limit = 60 * num_steps / 1_000_000
    return [
        make_figure(
            f"records: seconds of verify.py, {told}, 10,000 recomputed", standalone, limit, runs=1, at_most=1.0
        ),
        make_figure("records: the same, processor seconds", standalone_processor, limit, runs=1, at_most=1.0),
        make_figure(
            f"records: seconds of reading it for the cards and the order of every step, {told}",
            every,
            limit,
            runs=1,
            at_most=1.0,
        ),
        make_figure("records: the same, processor seconds", every_processor, limit, runs=1, at_most=1.0),
        make_figure("records: seconds of a search for secrets", besides, limit, runs=1),
        make_figure("records: the same, processor seconds", besides_processor, limit, runs=1),
    ]


def alteration_figures(scratch: Path, bundle: Path | None, num_places: int) -> list[Figure]:
    """Changed bytes that were caught and whose file was named, of a thousand."""
    source = bundle or make_bundle(scratch / "honest", Shape(num_steps=50))
    copy = scratch / "altered"
    shutil.copytree(source, copy)
    expect = next(r for r in verify_bundle(copy, tokens="none") if r.name == "identity").detail.split()[2].rstrip(":")
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
    draw, num_caught = random.Random(1000), 0
    for number in range(num_places):
        path = files[number % len(files)] if number < len(files) else draw.choice(files)
        honest = path.read_bytes()
        data = bytearray(honest)
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        path.unlink()  # the copies of a weights file may be one file with several names
        path.write_bytes(data)
        results = verify_bundle(copy, expect=expect, tokens="none")
        path.write_bytes(honest)
        name = path.relative_to(copy).as_posix()
        num_caught += any(name in (r.where, r.detail) for r in results if r.verdict == "FAIL" and r.check == BYTES)
    name = f"alterations: caught and named, over {len(files):,} files"
    return [make_figure(name, num_caught, num_places, runs=1, at_least=1.0)]


def main() -> None:
    """Measure the areas named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="The verifiers against their bars.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"of {', '.join(AREAS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON record per figure")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs of timed figures (default 5)")
    parser.add_argument("--gigabytes", type=int, default=4, help="weights of the figure of memory (default 4)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of records and whole (default 1000000)")
    parser.add_argument("--documents", type=int, default=200_000, help="documents of whole (default 200000)")
    parser.add_argument("--places", type=int, default=1000, help="alterations (default 1000)")
    parser.add_argument("--bundle", type=Path, help="a bundle to alter copies of, instead of one made here")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.areas) - set(AREAS))
    if unknown or min(arguments.pairs, arguments.gigabytes, arguments.steps, arguments.documents, arguments.places) < 1:
        parser.error(f"areas are {', '.join(AREAS)}; numbers are positive")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="openwright-benchmark-") as scratch:
        for area in arguments.areas or AREAS:
            print(f"measuring {area} ...", file=sys.stderr)
            if area == "bytes":
                figures += bytes_figures(Path(scratch), arguments.pairs)
            elif area == "memory":
                figures += memory_figures(Path(scratch), arguments.gigabytes)
            elif area == "records":
                figures += records_figures(Path(scratch), arguments.steps)
            elif area == "whole":
                figures += whole_figures(Path(scratch), arguments.steps, arguments.documents)
            elif area == "replay":
                figures += replay_figures(Path(scratch), arguments.pairs)
            else:
                figures += alteration_figures(Path(scratch), arguments.bundle, arguments.places)
    print_figures(figures, arguments.json)


if __name__ == "__main__":
    main()
