"""Tensor and context parallelism under `reduction: native`: the mathematics of one process, in pieces and stretches.

Agreement is up to rounding, with matrices cut in two, and with pieces sharded and windows shared as well; the same
layout gives the same bits, also after a resume. Checkpoints hold whole tensors: a run goes on at any other layout.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import small_jobs
import tiny_runs
import torch
from safetensors.torch import load_file
from small_jobs import differing, records, run_job_at

from provenance.canonical import read_json
from provenance.errors import ConfigError
from train import context_parallel
from train.batch import StepBatch
from train.context_parallel import share_windows
from train.gradients import NativeGradients, Passes, StepGradients
from train.layout import Layout, Part, World
from train.model import build_model
from train.settings import ModelConfig
from train.state import ParameterChecksum, state_digest
from train.tensor_parallel import check_model

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
QWEN3 = {"model_type": "qwen3", "fields": {**SIZES, **SLIDING}}
"""Tied, with norms within each head, whose gradients lie in parts on the processes, and two kinds of mask; its 1021
words do not divide by two."""
CHANGES: dict[str, Any] = {
    "model": QWEN3,
    "data": {**small_jobs.SMALL["data"], "document_masking": True},
    "phases": [{"num_steps": 4, "sequences_per_step": 4}],
    "num_logical_replicas": 2,
    "checkpoints": {"weights_until_step": 0, "full_every_steps": 2},
    "reduction": "native",
}
CUT = {**CHANGES, "execution": {"tensor_size": 2}}
SHARED = {**CHANGES, "execution": {"context_size": 2}}
TOLERANCE = 1e-6
"""Relative, of losses and gradient norms over four steps; found: 5e-9 and 5e-8, 3e-8 of them in the first step."""
WEIGHT_TOLERANCE = 2e-3
"""Absolute, of single weights against steps of 5e-3, as for other native layouts; the mean is held to a hundredth."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return small_jobs.run_small(corpus, tmp_path_factory.mktemp("alone") / "run", **CHANGES)


@pytest.fixture(scope="module")
def cut(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that hold pieces of each matrix."""
    run_dir = tmp_path_factory.mktemp("cut") / "run"
    assert run_job_at((2, 1), corpus, run_dir, CUT) == [0, 0]
    return run_dir


def until_step_2(run_dir: Path, target: Path) -> Path:
    """A copy of a run as it was before its last checkpoint."""
    small_jobs.copy_run(run_dir, target)
    shutil.rmtree(target / "checkpoints" / "step-00000004")
    (target / "run.json").unlink()
    return target


def numbers(run_dir: Path, field: str) -> list[float]:
    return [float.fromhex(record[field]) for record in records(run_dir, "step")]


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(run_dir / "checkpoints" / "step-00000004" / "model.safetensors")
    return tensors


def check_agreement(found: Path, expected: Path) -> None:
    for field in ("loss", "gradient_norm"):
        assert numbers(found, field) == pytest.approx(numbers(expected, field), rel=TOLERANCE)
    pairs = zip(final_weights(found).values(), final_weights(expected).values(), strict=True)
    distances = torch.cat([(one - other).abs().flatten() for one, other in pairs])
    assert float(distances.max()) < WEIGHT_TOLERANCE
    assert float(distances.mean()) < WEIGHT_TOLERANCE / 100
    held = [[float.fromhex(record["loss"]) for record in records(run, "evaluation")] for run in (found, expected)]
    assert held[0] == pytest.approx(held[1], rel=TOLERANCE)


def test_pieces_give_the_losses_norms_and_weights_of_one_process(cut: Path, alone: Path) -> None:
    check_agreement(cut, alone)
    assert records(cut, "end")[0]["weights_digest"] != records(alone, "end")[0]["weights_digest"]


def test_the_ledger_is_complete(cut: Path, alone: Path) -> None:
    for one, other in zip(records(cut), records(alone), strict=True):
        assert one.keys() == other.keys()
        assert {**one, **dict.fromkeys(OWN_BITS & one.keys())} == {**other, **dict.fromkeys(OWN_BITS & other.keys())}
    begun = records(cut, "start", "journal.jsonl")[0]
    assert (begun["num_processes"], begun["shard_size"], begun["tensor_size"]) == (2, 1, 2)


OWN_BITS = {
    *("loss", "gradient_norm", "parameter_checksum", "bits_per_byte", "weights_digest", "state_digest", "previous"),
}


def test_checksum_and_digests_are_those_of_whole_tensors(cut: Path) -> None:
    tensors = final_weights(cut)
    parts = [Part(name, tensor, tuple(tensor.shape)) for name, tensor in tensors.items()]
    assert records(cut, "step")[-1]["parameter_checksum"] == ParameterChecksum(parts, Layout(World())).total()
    record = read_json(cut / "checkpoints" / "step-00000004" / "checkpoint.json")
    assert record["weights_digest"] == state_digest(tensors)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 30] += 1.0
    assert record["weights_digest"] != state_digest(tensors)


def test_a_run_of_pieces_goes_on_in_one_process(corpus: Path, cut: Path, alone: Path, tmp_path: Path) -> None:
    run_dir = until_step_2(cut, tmp_path / "run")
    small_jobs.run_small(corpus, run_dir, **CHANGES)
    assert records(run_dir, "resume", "journal.jsonl")[0]["step"] == 2
    check_agreement(run_dir, alone)


def test_a_run_of_one_process_goes_on_in_sharded_pieces_and_stretches(
    corpus: Path, alone: Path, tmp_path: Path
) -> None:
    run_dir = until_step_2(alone, tmp_path / "run")
    everything = {**CHANGES, "execution": {"tensor_size": 2, "context_size": 2}}
    assert run_job_at((4, 2), corpus, run_dir, everything) == [0] * 4
    resumed = records(run_dir, "resume", "journal.jsonl")[0]
    assert [resumed[name] for name in ("step", "shard_size", "tensor_size", "context_size")] == [2, 2, 2, 2]
    check_agreement(run_dir, alone)
    assert records(run_dir, "end")[0]["weights_digest"] == state_digest(final_weights(run_dir))
    config = "checkpoints/step-00000004/config.json"
    assert read_json(run_dir / config)["layer_types"] == ["full_attention", "sliding_attention"]
    assert (run_dir / config).read_bytes() == (alone / config).read_bytes()


def test_the_same_layout_gives_the_same_bits_after_a_resume(corpus: Path, cut: Path, tmp_path: Path) -> None:
    run_dir = until_step_2(cut, tmp_path / "run")
    assert run_job_at((2, 1), corpus, run_dir, CUT) == [0, 0]
    assert differing(run_dir, cut) == []


# ---- controls: a part that is left out is seen


def lose_parts_of_the_first_process(run_dir: Path) -> None:
    """In step 1 its part of the gradient norm, in step 2 its gradient of a weight that every process holds."""
    compute, take = NativeGradients.compute, Passes.take

    def tell(self: NativeGradients, batch: StepBatch) -> StepGradients:
        if batch.step == 2:
            Passes.take = lose  # type: ignore[method-assign]
        try:
            found = compute(self, batch)
        except ConfigError as error:
            (run_dir / "said").write_text(str(error))
            raise
        (run_dir / "norm").write_text(found.norm.hex())
        return found

    def lose(self: Passes, index: int) -> torch.Tensor:
        gradient = take(self, index)
        return gradient * 0 if self.names[index].endswith("0.input_layernorm.weight") else gradient

    NativeGradients.compute = tell  # type: ignore[method-assign]
    NativeGradients._counted = lambda self, gradients: []  # type: ignore[method-assign]


def test_a_part_that_is_missing_is_seen(corpus: Path, alone: Path, tmp_path: Path) -> None:
    assert run_job_at((2, 1), corpus, tmp_path / "run", CUT, lose_parts_of_the_first_process) == [1, 1]
    norm = float.fromhex((tmp_path / "run" / "norm").read_text())
    assert norm != pytest.approx(numbers(alone, "gradient_norm")[0], rel=100 * TOLERANCE)
    assert "layers.0.input_layernorm.weight differs" in (tmp_path / "run" / "said").read_text()


def lose_gradients_of_keys(_: Path) -> None:
    """The first process forgets what the other stretch tells it of its keys and values."""
    backward = context_parallel._Gathered.backward

    def lose(ctx: Any, gradient: torch.Tensor) -> Any:
        whole, *others = backward(ctx, gradient)
        return whole * 0, *others

    context_parallel._Gathered.backward = staticmethod(lose)  # type: ignore[assignment]


def test_gradients_that_are_lost_between_stretches_are_seen(corpus: Path, alone: Path, tmp_path: Path) -> None:
    one_step = {"phases": [{"num_steps": 1, "sequences_per_step": 4}], "schedule": {"warmup_steps": 1}}
    assert run_job_at((2, 2), corpus, tmp_path / "run", {**SHARED, **one_step}, lose_gradients_of_keys) == [0, 0]
    (loss,), (norm,) = (numbers(tmp_path / "run", field) for field in ("loss", "gradient_norm"))
    assert loss == pytest.approx(numbers(alone, "loss")[0], rel=TOLERANCE)
    assert norm != pytest.approx(numbers(alone, "gradient_norm")[0], rel=100 * TOLERANCE)


# ---- refusals


def model_of(model_type: str, **fields: Any) -> Any:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    with torch.device("meta"):
        config = ModelConfig(model_type=model_type, fields={**sizes, **fields})
        return build_model(config, vocab_size=1021, eos_id=0, pad_id=1, window_tokens=24)


@pytest.mark.parametrize(
    ("model_type", "fields", "said"),
    [
        ("qwen3", {"num_key_value_heads": 1}, "num_key_value_heads 1"),
        ("qwen3", {"intermediate_size": 51}, "intermediate_size 51"),
        ("qwen3", {"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}, "moe_tp_experts"),
    ],
)
def test_models_that_cannot_be_cut_are_refused(model_type: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_model(model_of(model_type, **fields), 2)


@pytest.mark.parametrize(
    ("model_type", "fields", "attention", "said"),
    [
        ("mistral", {}, "sdpa", "a model of the type mistral"),
        ("olmo3", {}, "eager", "attention eager"),
        ("olmo3", {"attention_dropout": 0.1}, "sdpa", "attention_dropout 0.1"),
    ],
)
def test_models_whose_windows_are_not_shared_are_refused(
    model_type: str, fields: dict[str, Any], attention: Any, said: str
) -> None:
    model = model_of(model_type, **fields)
    model.config._attn_implementation = attention
    with pytest.raises(ConfigError, match=said):
        share_windows(model, Layout(World(), context_size=2))


def test_models_of_the_usual_types_can_be_cut() -> None:
    for model_type in ("qwen3", "llama", "olmo3", "smollm3"):
        check_model(model_of(model_type), 2)
