"""Both verifiers, end to end, on a release of many steps over many documents.

The release is made from the tiny artifacts of the release tests, which no stage of the project wrote; what would take
hours there (digests of all parameters after every step) is left out here, since nothing reads it again.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import Figure, make_figure

from data_recipes.order import Order
from data_recipes.order_numpy import window_ids_numpy
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest
from release.bundle import build_release, bundle_path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "release"))

from conftest import make_project, release_config  # noqa: E402
from fake_artifacts import NAME, FakeSource, make_artifacts  # noqa: E402
from fake_runs import WINDOW, FakeRun  # noqa: E402

SEQUENCES_PER_STEP = 64
_BLOCK_STEPS = 4096
_NUM_HELDOUT = 100
_PROGRAMS = {
    "verify.py": [sys.executable, "-S", "-B", str(ROOT / "release" / "verify.py")],
    "openwright verify": [sys.executable, "-B", "-m", "openwright", "verify"],
}
_CHECKS = ("documents", "pretrain ledger", "pretrain order", "pretrain tokens", "pretrain schedule", "final weights")


def whole_figures(scratch: Path, num_steps: int, num_documents: int) -> list[Figure]:
    """Seconds of each program, by the clock and of all its processes, on one release."""
    bundle = make_release(scratch / "whole", num_steps, num_documents)
    told, figures = f"{num_steps:,} steps of {SEQUENCES_PER_STEP} windows over {num_documents:,} documents", []
    for name, program in _PROGRAMS.items():
        begin, before = time.perf_counter(), os.times()
        done = subprocess.run([*program, str(bundle), "--json"], capture_output=True, text=True, check=False, cwd=ROOT)
        seconds, after = time.perf_counter() - begin, os.times()
        processor = sum(after[2:4]) - sum(before[2:4])
        _require(json.loads(done.stdout)["checks"])
        figures.append(make_figure(f"whole: seconds of {name}, {told}", seconds, seconds, runs=1))
        figures.append(make_figure("whole: the same, processor seconds", processor, processor, runs=1))
    return figures


def _require(checks: Sequence[Mapping[str, str]]) -> None:
    """A figure of checks that did not pass would be none."""
    verdicts = {check["name"]: check["verdict"] for check in checks}
    if "FAIL" in verdicts.values() or any(verdicts[name] != "PASS" for name in _CHECKS):
        raise RuntimeError(f"not as it should be: {[c for c in checks if c['verdict'] != 'PASS']}")


def make_release(base: Path, num_steps: int, num_documents: int) -> Path:
    """Build the release; everything in it holds, apart from what only training could tell."""
    project = make_project(base / "code")
    (base / "configs" / NAME).mkdir(parents=True)
    code = CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project))
    every = max(1, num_steps // 4)
    schedule = {"weights_every_steps": 0, "full_every_steps": every}
    shape = FakeRun(
        "pretrain",
        "train",
        seed=1,
        num_steps=num_steps,
        sequences_per_step=SEQUENCES_PER_STEP,
        heldout_every_steps=max(1, num_steps // 1000),
        checkpoints=schedule,
    )
    windows = _Windows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fake_artifacts.SOURCES", _sources(num_documents))
        patch.setattr("fake_runs._windows", windows)
        patch.setattr(Order, "order_digest", windows.order_digest)
        patch.setattr("fake_runs._checksum", lambda weights: f"{0:016x}-{0:016x}")
        patch.setattr("release.bundle.project_root", lambda: project)
        context, artifacts = make_artifacts(base / "artifacts" / NAME, code, pretraining=shape)
        return bundle_path(build_release(release_config(), context, artifacts, base / "configs" / NAME))


def _sources(num_documents: int) -> tuple[FakeSource, ...]:
    """Three sources to train on, one held out, and one that a rule drops."""
    shares = {"alpha": 6, "gamma": 3, "zeta": 1}
    made = [
        FakeSource(name, "train", "MIT", f"Copyright (c) 2020 {name}", _texts(name, num_documents * share // 10))
        for name, share in shares.items()
    ]
    made.append(FakeSource("beta", "heldout", "Apache-2.0", "Copyright 2021 Beta & Co", _texts("beta", _NUM_HELDOUT)))
    made.append(FakeSource("omega", "none", "NOASSERTION", "", _texts("omega", num_documents // 10), rule="licence"))
    return tuple(sorted(made, key=lambda source: source.name))


def _texts(topic: str, count: int) -> tuple[str, ...]:
    return tuple(f"{topic} {n}: the value under key {n * n}, as it was stored; 関数は値を返す。" for n in range(count))


class _Windows:
    """What the fake run asks of each step, from a table of all windows instead of a file that is read for each."""

    def __init__(self) -> None:
        self._tables: dict[str, Any] = {}
        self._first, self._block = 0, list[Any]()
        self._digest = 0, ""

    def __call__(
        self, corpus: Path, entry: Mapping[str, Any], order: Order, step: int
    ) -> tuple[bytes, dict[str, int], int]:
        if entry["digest"] not in self._tables:
            self._tables[entry["digest"]] = _table(corpus, entry)
            self._block = []
        table, masked = self._tables[entry["digest"]]
        if not self._first <= step < self._first + len(self._block):
            self._first = step
            self._block = window_ids_numpy(order, step, min(order.num_steps, step + _BLOCK_STEPS - 1))
        ids = self._block[step - self._first]
        self._digest = step, hashlib.sha256(ids.astype("<u8").tobytes()).hexdigest()
        length = entry["width"] - 1 if entry["width"] else WINDOW
        counts = np.bincount(np.searchsorted(order.window_offsets, ids, "right") - 1, minlength=len(order.sources))
        read = {source.name: int(n) * length for source, n in zip(order.sources, counts, strict=True) if n}
        return table[ids].tobytes(), read, int(masked[ids].sum())

    def order_digest(self, step: int) -> str:
        """The digest of the step that was asked for last."""
        if self._digest[0] != step:
            raise RuntimeError(f"step {step} after step {self._digest[0]}")
        return self._digest[1]


def _table(corpus: Path, entry: Mapping[str, Any]) -> tuple[Any, Any]:
    """Bytes of every window of a split, ids and mask as the token digest has them, and its number of trained tokens."""
    rows, trained = [], []
    for source in entry["sources"]:
        files = source["shards"][0]["files"]
        tokens = np.fromfile(corpus / files["tokens"]["path"], "<u2").astype("<u4")
        if entry["width"]:
            ids = tokens.reshape(-1, entry["width"])
            mask = np.fromfile(corpus / files["mask"]["path"], "u1").reshape(-1, entry["width"])
        else:
            ids = np.lib.stride_tricks.sliding_window_view(tokens, WINDOW + 1)[::WINDOW]
            mask = np.tile(np.array([0] + [1] * WINDOW, "u1"), (len(ids), 1))
        rows.append(np.concatenate([np.ascontiguousarray(ids).view("u1"), mask], axis=1))
        trained.append(mask.sum(axis=1))
    return np.concatenate(rows), np.concatenate(trained)
