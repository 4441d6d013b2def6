from typing import Any

import pytest
import tiny_runs
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provenance.config import from_recipe, recipe_of
from provenance.errors import ConfigError
from train.model import build_model
from train.schedule import learning_rate
from train.settings import ModelConfig, PretrainConfig, ScheduleConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_logical_replicas": 6}, "power of two"),
        ({"phases": [{"num_steps": 10, "sequences_per_step": 12}]}, "must divide by num_logical_replicas"),
        ({"schedule": {"warmup_steps": 9, "decay_steps": 9}}, "longer than the 10 steps"),
        ({"execution": {"num_processes": 3}}, "power of two up to 8"),
        ({"execution": {"num_processes": 16}}, "power of two up to 8"),
        ({"precision": "fp16"}, "fp32"),
        ({"skip_steps": [[3, 4], [4, 5]]}, "stretches rise"),
        ({"skip_steps": [[9, 10]]}, "end before the last step"),
        ({"checkpoints": {"full_every_steps": 3, "published_full_steps": [4]}}, "has no full checkpoint"),
        ({"schedule": {"name": "cosine", "warmup_steps": 2, "decay_steps": 3}}, "belongs to wsd"),
        ({"execution": {"num_processes": 4, "shard_size": 3}}, "must divide by execution.shard_size"),
        ({"execution": {"shard_size": 2}}, "needs execution.num_processes"),
        ({"execution": {"tensor_size": 2}}, "needs execution.num_processes"),
        ({"execution": {"num_processes": 2, "tensor_size": 2}}, "need reduction: native"),
        ({"execution": {"num_processes": 2, "shard_size": 2, "context_size": 2}}, "need reduction: native"),
    ],
)
def test_what_cannot_be_exact_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_runs.pretrain_config(**changes)


@pytest.mark.parametrize(
    ("execution", "changes", "message"),
    [
        ({"num_processes": 3, "tensor_size": 2}, {}, "must divide by .* times execution.tensor_size 2"),
        ({"num_processes": 2, "context_size": 2}, {}, "shard_size 1 must divide by execution.context_size 2"),
        ({"num_processes": 4, "tensor_size": 2}, {}, "copies of the model need an execution.shard_size of 2"),
        ({"num_processes": 4, "shard_size": 2, "context_size": 2}, {}, "need an execution.shard_size of 4"),
        ({"num_processes": 2, "tensor_size": 2}, {"compile": True}, "need compile: false"),
        (
            {"num_processes": 2, "tensor_size": 2},
            {"optimizer": {"name": "muon", "peak_learning_rate": 0.1}},
            "need optimizer.name: adamw",
        ),
        ({"num_processes": 5, "shard_size": 5, "context_size": 5}, {}, "windows of 24 tokens must divide"),
    ],
)
def test_layouts_within_a_window_that_nobody_can_compute_are_refused(
    execution: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_runs.pretrain_config(reduction="native", execution=execution, **changes)
    tiny_runs.pretrain_config(
        reduction="native",
        execution={"num_processes": 8, "shard_size": 4, "tensor_size": 2, "context_size": 2},
    )


def test_a_recipe_goes_there_and_back_without_its_execution_section() -> None:
    config = tiny_runs.pretrain_config(execution={"num_processes": 2})
    recipe = recipe_of(config)
    assert "execution" not in recipe
    again = from_recipe(recipe, PretrainConfig)
    assert recipe_of(again) == recipe
    assert again.optimizer == config.optimizer


def test_an_unknown_model_or_field_is_named() -> None:
    sizes = {"vocab_size": 300, "eos_id": 0, "pad_id": 1, "window_tokens": 24}
    with pytest.raises(ConfigError, match="olmo99"):
        build_model(ModelConfig(model_type="olmo99", fields={}), **sizes)
    with pytest.raises(ConfigError, match=r"fields\.hidden_sizes"):
        build_model(ModelConfig(model_type="olmo3", fields={"hidden_sizes": 66}), **sizes)
    short = {**tiny_runs.OLMO3["fields"], "max_position_embeddings": 8}
    with pytest.raises(ConfigError, match="max_position_embeddings 8"):
        build_model(ModelConfig(model_type="olmo3", fields=short), **sizes)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 60), st.floats(0, 1))
def test_learning_rate_warms_up_stays_and_decays(warmup: int, decay: int, stable: int, final: float) -> None:
    schedule = ScheduleConfig(warmup_steps=warmup, decay_steps=decay, final_fraction=final)
    num_steps = warmup + stable + decay
    rates = [learning_rate(schedule, 2.0, step, num_steps) for step in range(1, num_steps + 1)]
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert set(rates[warmup : warmup + stable]) == {2.0}
    assert rates[warmup + stable :] == sorted(rates[warmup + stable :], reverse=True)
