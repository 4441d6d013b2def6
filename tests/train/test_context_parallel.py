"""Context parallelism under `reduction: native`: each of two processes computes half of the positions of every window.

The model attends in a sliding window and within documents, so that the mask counts; positions begin anew at documents.
"""

from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
from small_jobs import records, run_job_at

from provenance.errors import ConfigError
from train import context_parallel
from train.context_parallel import MODEL_TYPES, share_windows
from train.layout import Layout, World
from train.model import build_model
from train.settings import ModelConfig

FIELDS: dict[str, Any] = {"attention_dropout": 0.0, "num_hidden_layers": 4, "sliding_window": 8}
OLMO3 = {"model_type": "olmo3", "fields": tiny_runs.OLMO3["fields"] | FIELDS}  # type: ignore[operator]
CHANGES: dict[str, Any] = {
    "model": OLMO3,
    "data": {**small_jobs.SMALL["data"], "document_masking": True},
    "phases": [{"num_steps": 3, "sequences_per_step": 4}],
    "num_logical_replicas": 2,
    "checkpoints": {"weights_until_step": 0, "full_every_steps": 3},
    "reduction": "native",
}
SHARED = {**CHANGES, "execution": {"context_size": 2}}
FIRST_STEP_TOLERANCE = 1e-6
"""Relative, of loss and gradient norm before any update; found: 2e-8."""
TOLERANCE = 1e-5
"""Relative, after two updates, each of which divides rounding by small second moments; found: 6e-7."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("alone") / "run", **CHANGES)


def numbers(run_dir: Path, field: str) -> list[float]:
    return [float.fromhex(record[field]) for record in records(run_dir, "step")]


def test_stretches_give_the_losses_and_norms_of_one_process(corpus: Path, alone: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert run_job_at((2, 2), corpus, run_dir, SHARED) == [0, 0]
    for field in ("loss", "gradient_norm"):
        found, expected = numbers(run_dir, field), numbers(alone, field)
        assert found[0] == pytest.approx(expected[0], rel=FIRST_STEP_TOLERANCE)
        assert found == pytest.approx(expected, rel=TOLERANCE)
    held = [[float.fromhex(record["loss"]) for record in records(run, "evaluation")] for run in (run_dir, alone)]
    assert held[0] == pytest.approx(held[1], rel=TOLERANCE)
    for name in ("order_digest", "token_digest", "num_trained_tokens"):
        assert [r[name] for r in records(run_dir, "step")] == [r[name] for r in records(alone, "step")]
    config = "checkpoints/step-00000003/config.json"
    assert (run_dir / config).read_bytes() == (alone / config).read_bytes()


def lose_gradients_of_keys(_: Path) -> None:
    """The first process forgets what other stretches tell it of its keys and values."""
    backward = context_parallel._Gathered.backward

    def lose(ctx: Any, gradient: torch.Tensor) -> Any:
        whole, *others = backward(ctx, gradient)
        return whole * 0, *others

    context_parallel._Gathered.backward = staticmethod(lose)  # type: ignore[assignment]


def test_gradients_that_are_lost_between_stretches_are_seen(corpus: Path, alone: Path, tmp_path: Path) -> None:
    one_step = {
        **SHARED,
        "phases": [{"num_steps": 1, "sequences_per_step": 4}],
        "schedule": {"warmup_steps": 1},
    }
    assert run_job_at((2, 2), corpus, tmp_path / "run", one_step, lose_gradients_of_keys) == [0, 0]
    assert numbers(tmp_path / "run", "loss")[0] == pytest.approx(numbers(alone, "loss")[0], rel=FIRST_STEP_TOLERANCE)
    found, expected = numbers(tmp_path / "run", "gradient_norm")[0], numbers(alone, "gradient_norm")[0]
    assert found != pytest.approx(expected, rel=100 * TOLERANCE)


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("mistral", {}, "a model of the type mistral"),
        ("olmo3", {"attention": "eager"}, "attention eager"),
        ("olmo3", {"fields": {"attention_dropout": 0.1}}, "attention_dropout 0.1"),
    ],
)
def test_models_whose_windows_are_not_shared_are_refused(model_type: str, changes: dict[str, Any], said: str) -> None:
    config = ModelConfig.model_validate({"model_type": model_type, "fields": {"num_hidden_layers": 1}, **changes})
    with torch.device("meta"):
        model = build_model(config, vocab_size=64, eos_id=0, pad_id=1, window_tokens=24)
    with pytest.raises(ConfigError, match=said):
        share_windows(model, Layout(World(), context_size=2))
    assert model_type not in MODEL_TYPES or changes
