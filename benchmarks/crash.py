"""Kill training jobs again and again, at every kind of moment and at changing layouts; the results must not show it.

    python benchmarks/crash.py --kills 50 2>/dev/null
    python benchmarks/crash.py --sweep 2>/dev/null

Each kill is `kill -9`. When a run has got to its end in spite of them, every result file is compared with that of the
straight run, and the next run begins. Exit code 1 when any file differs.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "train")]

import kill_points  # noqa: E402
import small_jobs  # noqa: E402
import tiny_runs  # noqa: E402

from provenance.errors import TrainingError  # noqa: E402
from train.job import LOCK, OUTCOME  # noqa: E402
from train.run_directory import lock_directory, unlock_directory  # noqa: E402

LAYOUTS = [(1, 1), (2, 1), (2, 2)]
RECIPE: dict[str, Any] = {
    "phases": [{"num_steps": 20, "sequences_per_step": 4}],
    "checkpoints": {
        "weights_until_step": 8,
        "weights_every_steps": 5,
        "full_every_steps": 3,
        "keep_last_full": 2,
        "published_full_steps": [9, 15],
    },
}
SHORT_RECIPE: dict[str, Any] = {
    "phases": [{"num_steps": 5, "sequences_per_step": 4}],
    "checkpoints": {"weights_until_step": 2, "full_every_steps": 1, "keep_last_full": 1},
}
LAUNCHED = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
import small_jobs
from train.jobs import launch
processes, shards = json.loads(sys.argv[4])
execution = {"num_processes": processes, "shard_size": shards}
config = small_jobs.small_config(**json.loads(sys.argv[5]), execution=execution)
launch(small_jobs.small_job(Path(sys.argv[2]), Path(sys.argv[3]), config), processes, 1)
"""
"""The same job through `accelerate launch`, as the command line starts it."""


@dataclass
class Tally:
    """What happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)
    num_runs: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())


class CrashTest:
    """Runs one job after the other and kills them.

    Args:
        place: directory for corpus and runs.
        seed: of the moments and layouts.
        recipe: what differs from the small recipe of the tests.
    """

    def __init__(self, place: Path, seed: int, recipe: dict[str, Any]) -> None:
        self._draw = random.Random(seed)
        self._place = place
        self._recipe = recipe
        self._corpus = tiny_runs.make_corpus(place / "corpus").path
        self._straight = small_jobs.run_small(self._corpus, place / "straight", **self._recipe)
        began = time.monotonic()
        small_jobs.run_job_at((2, 1), self._corpus, place / "timed", self._recipe)
        self._job_seconds = time.monotonic() - began
        self.tally = Tally()

    def run(self, num_kills: int) -> None:
        """Kill that many times, then let the last run get to its end."""
        kinds = [self._at_change, self._checkpoint_seen, self._whole_tree, self._one_process, self._at_change]
        while self.tally.num_kills < num_kills:
            number = self.tally.num_kills
            layout = self._draw.choice(LAYOUTS)
            kind = self._launched if number % 10 == 9 else kinds[number % len(kinds)]
            if kind(layout):
                self.tally.kills[kind.__name__.strip("_").replace("_", " ")] += 1
                self.tally.layouts["{} processes, {} to a copy".format(*layout)] += 1
                print(f"kill {self.tally.num_kills}: {kind.__name__.strip('_')} at {layout}", flush=True)
            else:
                self._compare()
        small_jobs.run_job_at((1, 1), self._corpus, self._run_dir, self._recipe)
        self._compare()

    def sweep(self) -> None:
        """One run for every single change of the disk: killed before that change, then gone on with."""
        number = 0
        while True:
            number += 1
            codes = small_jobs.run_job_at(
                (1, 1), self._corpus, self._run_dir, self._recipe, kill_points.at_change, number
            )
            if codes == [0]:
                return
            self.tally.kills["at each change"] += 1
            small_jobs.run_job_at((1, 1), self._corpus, self._run_dir, self._recipe)
            self._compare()
            shutil.rmtree(self._place / f"run-{self.tally.num_runs - 1}")

    @property
    def _run_dir(self) -> Path:
        return self._place / f"run-{self.tally.num_runs}"

    def _compare(self) -> None:
        if not (self._run_dir / "run.json").is_file():
            self.tally.differing.append(f"{self._run_dir.name} did not get to its end")
        names = small_jobs.differing(self._run_dir, self._straight)
        # Files by which a launched job speaks with its launcher; the next launch removes what a killed one left.
        names = [name for name in names if name not in (LOCK, OUTCOME)]
        self.tally.differing += [f"{self._run_dir.name}/{name}" for name in names]
        self.tally.num_runs += 1

    # ---- kinds of kills: each returns whether the job was killed before its end --------------------------------------

    def _start(self, layout: tuple[int, int], *point: Any) -> Any:
        return small_jobs.start_job(*layout, self._corpus, self._run_dir, self._recipe, *(point or (None,)))

    def _end(self, processes: Any) -> bool:
        codes = small_jobs.end_job(processes)
        return codes != [0] * len(codes)

    def _at_change(self, layout: tuple[int, int]) -> bool:
        """Before a file operation or in the middle of a line, on process 0."""
        return self._end(self._start(layout, kill_points.at_change, self._draw.randint(1, 160)))

    def _checkpoint_seen(self, layout: tuple[int, int]) -> bool:
        """While a checkpoint is on its way, all processes."""
        before = len(list(self._run_dir.glob("checkpoints/[!.]*")))
        processes = self._start(layout)
        while any(process.is_alive() for process in processes):
            new = len(list(self._run_dir.glob("checkpoints/[!.]*"))) > before
            if new and list(self._run_dir.glob("checkpoints/.step-*.tmp")):
                break
        time.sleep(self._draw.uniform(0.0, 0.03))
        for process in processes:
            process.kill()
        return self._end(processes)

    def _whole_tree(self, layout: tuple[int, int]) -> bool:
        """At a random moment, all processes."""
        processes = self._start(layout)
        time.sleep(self._draw.uniform(0.1, self._job_seconds))
        for process in processes:
            process.kill()
        return self._end(processes)

    def _one_process(self, layout: tuple[int, int]) -> bool:
        """At a random moment, one process; the others meet a broken connection."""
        processes = self._start(layout)
        time.sleep(self._draw.uniform(0.1, self._job_seconds))
        self._draw.choice(processes).kill()
        return self._end(processes)

    def _launched(self, layout: tuple[int, int]) -> bool:
        """The process that called `launch`, at a random moment from its imports on; its workers must end with it."""
        self._run_dir.mkdir(exist_ok=True)
        paths = [str(ROOT), str(ROOT / "tests" / "train")]
        arguments = [paths, str(self._corpus), str(self._run_dir), list(layout), self._recipe]
        words = [argument if isinstance(argument, str) else json.dumps(argument) for argument in arguments]
        with subprocess.Popen([sys.executable, "-c", LAUNCHED, *words]) as process:
            try:
                code = process.wait(self._draw.uniform(2.0, 10.0 + self._job_seconds))
                if code:
                    self.tally.differing.append(
                        f"{self._run_dir.name}: a launched job ended with code {code} by itself"
                    )
                return False
            except subprocess.TimeoutExpired:
                process.kill()
        self._wait_for_workers()
        return True

    def _wait_for_workers(self) -> None:
        """Nobody holds the run's directory soon after its job was killed."""
        end = time.monotonic() + 30
        while True:
            try:
                unlock_directory(self._run_dir, lock_directory(self._run_dir))
                return
            except TrainingError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--sweep", action="store_true", help="instead: one kill before every single change of the disk")
    options = parser.parse_args()
    multiprocessing.set_start_method("forkserver")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="openwright-crash-") as place:
        test = CrashTest(Path(place), options.seed, SHORT_RECIPE if options.sweep else RECIPE)
        if options.sweep:
            test.sweep()
        else:
            test.run(options.kills)
    tally = test.tally
    print(f"{tally.num_kills} kills in {tally.num_runs} runs, {time.monotonic() - started:.0f} s")
    for counter in (tally.kills, tally.layouts):
        print("  " + ", ".join(f"{name}: {count}" for name, count in sorted(counter.items())))
    print("\n".join(tally.differing) or "every result file of every run is equal to the straight run's")
    return 1 if tally.differing else 0


if __name__ == "__main__":
    sys.exit(main())
