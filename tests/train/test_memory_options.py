"""What saves memory changes no bit: activations computed again give the result files of activations kept."""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
from small_jobs import differing, run_job_at
from test_layouts import MOE

from train.loop import TrainingRun

SHORT: dict[str, Any] = {
    "phases": [{"num_steps": 3, "sequences_per_step": 4}],
    "checkpoints": {"weights_until_step": 1, "full_every_steps": 2},
}
AGAIN = {"execution": {"activation_checkpointing": True}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.mark.parametrize("model", [tiny_runs.OLMO3, MOE], ids=["olmo3", "deepseek_v3"])
def test_activations_computed_again_change_no_bit(corpus: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    """With attention dropout, whose draws must be repeated, and with router loads, which must be counted once."""
    changes = {**SHORT, "model": model}
    plain = small_jobs.run_small(corpus, tmp_path / "plain", **changes)
    again = small_jobs.run_small(corpus, tmp_path / "again", **changes, **AGAIN)
    assert differing(again, plain) == []
    assert run_job_at((2, 2), corpus, tmp_path / "sharded", {**changes, **AGAIN}) == [0, 0]
    assert differing(tmp_path / "sharded", plain) == []


def test_layers_are_computed_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option does something: each layer's forward pass runs twice per part."""
    counts = []
    for name, execution in (("plain", {}), ("again", AGAIN)):
        seen = []
        prepare = TrainingRun.__init__

        def prepare_and_count(
            self: TrainingRun, *arguments: Any, seen: list[int] = seen, prepare: Any = prepare
        ) -> None:
            prepare(self, *arguments)
            layer = self.module.model.get_decoder().layers[0]
            layer.self_attn.register_forward_hook(lambda module, *_: seen.append(1) if module.training else None)

        with monkeypatch.context() as patched:
            patched.setattr(TrainingRun, "__init__", prepare_and_count)
            small_jobs.run_small(corpus, tmp_path / name, **SHORT, model=tiny_runs.OLMO3, **execution)
        counts.append(len(seen))
    assert counts == [3 * 4, 2 * 3 * 4]
