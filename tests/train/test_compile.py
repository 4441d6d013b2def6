"""`compile: true` at several layouts: other bits than without, the same bits at each of them.

Found so on the CPU (2026-11-25) for whole, replicated and sharded layers: torch.compile makes C++ for one layer with
shapes that the recipe fixes, and neither depends on the layout.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import gloo_processes
import pytest
import small_jobs
import tiny_runs
import torch
from test_layouts import SHORT, run
from torch import nn
from torch._dynamo.utils import counters

from train.sharding import compile_layers

LAYOUTS = [(1, 1), (4, 2)]
"""Processes, and over how many of them a copy is sharded; two at either count were compared once (2026-11-25)."""
MODEL = {"model_type": "llama", "fields": {**tiny_runs.LLAMA["fields"], "attention_dropout": 0.1}}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)


def final_weights(files: dict[str, bytes]) -> str:
    return str(json.loads(files["run.json"])["final"]["weights_digest"])


@needs_compiler
@pytest.mark.timeout(1800)
def test_compiled_layers_give_the_same_bytes_at_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo_processes, "TIMEOUT_SECONDS", 600)  # compiling takes most of the time
    corpus = tiny_runs.make_corpus(tmp_path).path
    changes = {**SHORT, "model": MODEL, "loss": {"chunk_tokens": 17}}
    plain = run(corpus, tmp_path / "plain", 1, 1, changes)
    changes["compile"] = True
    found = {layout: run(corpus, tmp_path / "{}-{}".format(*layout), *layout, changes) for layout in LAYOUTS}
    straight = found.pop((1, 1))
    assert final_weights(plain) != final_weights(straight), "nothing was compiled"
    for layout, files in found.items():
        different = [name for name in {**straight, **files} if straight.get(name) != files.get(name)]
        assert different == [], layout


TWO_LENGTHS: dict[str, Any] = {
    "compile": True,
    "phases": [
        {"num_steps": 2, "sequences_per_step": 4},
        {"num_steps": 3, "sequences_per_step": 4, "window_tokens": 2 * tiny_runs.WINDOW_TOKENS},
    ],
    "checkpoints": {"weights_until_step": 0, "full_every_steps": 3},
}


@needs_compiler
@pytest.mark.timeout(1800)
def test_a_compiled_run_resumed_among_longer_windows_in_a_fresh_process_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """The process that resumes has never met the shorter windows of the first phase's steps."""
    corpus = tiny_runs.make_corpus(tmp_path).path
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    straight.mkdir()
    assert small_jobs.run_job_at((1, 1), corpus, straight, TWO_LENGTHS) == [0]
    small_jobs.copy_run(straight, resumed)
    for name in ("run.json", "checkpoints/step-00000005"):
        path = resumed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert small_jobs.run_job_at((1, 1), corpus, resumed, TWO_LENGTHS) == [0]
    begun = [(r["kind"], r["step"]) for r in small_jobs.records(resumed, name="journal.jsonl") if "host" in r]
    assert begun == [("start", 0), ("resume", 3)]
    assert small_jobs.differing(resumed, straight) == []
    assert small_jobs.records(resumed, "end") == small_jobs.records(straight, "end")


class Scaled(nn.Module):
    """A layer without parameters."""

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return torch.relu(x_BD) * 2


@pytest.mark.parametrize(("limit", "expected"), [(None, 12), (8, 8)])
def test_every_shape_is_compiled_by_itself_however_many_there_are(limit: int | None, expected: int) -> None:
    """With torch's own limit the ninth shape and those after it are not compiled: the first case would notice."""
    torch._dynamo.reset()
    layers = nn.ModuleList([Scaled(), Scaled()])
    with torch._dynamo.config.patch(recompile_limit=8):  # restores what is set within
        compile_layers(layers, backend="eager")
        if limit is not None:
            torch._dynamo.config.recompile_limit = limit
        before = counters["stats"]["unique_graphs"]
        for length in range(1, 13):
            for layer in layers:
                layer(torch.ones(2, length))
    assert counters["stats"]["unique_graphs"] - before == expected
