"""`compile: true` at several layouts: other bits than without, the same bits at each of them.

Found so on the CPU (2026-11-25) for whole, replicated and sharded layers: torch.compile makes C++ for one layer with
shapes that the recipe fixes, and neither depends on the layout.
"""

import json
import shutil
from pathlib import Path

import gloo_processes
import pytest
import tiny_runs
from test_layouts import SHORT, run

LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 2)]
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
