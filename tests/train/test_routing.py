import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_processes import joined, run_processes
from transformers import AutoConfig, AutoModelForCausalLM

from provenance.canonical import canonical_json, read_json, write_json
from provenance.errors import ConfigError, TrainingError
from train.layout import World
from train.routing import EXPERT_SETTINGS, RouterLoads

VOCABULARY = 101
ATTENTION = {"num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 64}
DEEPSEEK = {
    **ATTENTION,
    "hidden_size": 66,
    "intermediate_size": 175,
    "moe_intermediate_size": 35,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 20,
    "q_lora_rank": 22,
    "qk_rope_head_dim": 10,
    "qk_nope_head_dim": 12,
    "v_head_dim": 14,
}
OLMOE = {**ATTENTION, "hidden_size": 66, "intermediate_size": 35, "num_hidden_layers": 2}
OLMOE |= {"num_experts": 6, "num_experts_per_tok": 3}


def make_model(model_type: str = "deepseek_v3", fields: dict[str, int] = DEEPSEEK) -> Any:
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, **fields)
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **EXPERT_SETTINGS).train()


def token_ids(number: int, num_sequences: int = 2) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (num_sequences, 16), generator=torch.Generator().manual_seed(number))


def brute_force_counts(model: Any, batches: list[torch.Tensor]) -> list[list[int]]:
    """Choices by layer and expert, from what each router is given, one token at a time."""
    seen: list[tuple[Any, torch.Tensor]] = []
    gates = [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]
    hooks = [gate.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs[0]))) for gate in gates]
    with torch.no_grad():
        for ids in batches:
            model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    counts = [[0] * gate.num_experts for gate in gates]
    for module, inputs in seen:
        for state in inputs.detach().reshape(-1, 66):
            logits = module.weight.detach() @ state
            bias = getattr(module, "e_score_correction_bias", None)
            scores = logits if bias is None else logits.sigmoid() + bias
            for expert in scores.argsort(descending=True)[: module.top_k].tolist():
                counts[gates.index(module)][expert] += 1
    return counts


@pytest.mark.parametrize(("model_type", "fields"), [("deepseek_v3", DEEPSEEK), ("olmoe", OLMOE), ("qwen3_moe", OLMOE)])
def test_counts_are_those_of_counting_by_hand(model_type: str, fields: dict[str, int]) -> None:
    model = make_model(model_type, fields)
    batches = [token_ids(1), token_ids(2)]
    expected = brute_force_counts(model, batches)
    loads = RouterLoads(model)
    with loads.counting():
        for ids in batches:
            model(input_ids=ids)
    statistics = loads.finish_step(World())
    assert statistics is not None
    for layer, counts in zip(statistics["layers"], expected, strict=True):
        assert (layer["num_experts"], layer["num_choices"]) == (len(counts), sum(counts))
        assert (layer["smallest_load"], layer["largest_load"]) == (min(counts), max(counts))
    flat = [count for counts in expected for count in counts]
    assert statistics["counts_sha256"] == hashlib.sha256(struct.pack(f"<{len(flat)}Q", *flat)).hexdigest()
    assert statistics["layers"][-1]["router"] == f"model.layers.{fields['num_hidden_layers'] - 1}.mlp.gate"
    canonical_json(statistics)


def count_one_step(model: Any, loads: RouterLoads, *, backward_inside: bool = False) -> Any:
    """Statistics of a step: a forward pass inside the context, other passes and the backward pass outside."""
    model(input_ids=token_ids(8))  # a held-out pass, say
    with loads.counting():
        loss = model(input_ids=token_ids(1), labels=token_ids(1)).loss
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    with torch.no_grad():
        model(input_ids=token_ids(9))
    return loads.finish_step(World())


def test_recomputed_and_heldout_passes_are_not_counted() -> None:
    plain, checkpointed = make_model(), make_model()
    checkpointed.activation_checkpointing_enable()
    expected = count_one_step(plain, RouterLoads(plain))
    loads = RouterLoads(checkpointed)
    assert count_one_step(checkpointed, loads) == expected
    assert count_one_step(checkpointed, loads) == expected  # counting begins anew
    # Recomputation takes place: a backward pass inside the context is seen to be counted.
    assert count_one_step(checkpointed, loads, backward_inside=True) != expected


def spread_after(rate: float, num_steps: int) -> int:
    """Difference of the largest and the smallest load of any router, after training its biases alone."""
    model = make_model()
    for layer in model.model.layers[1:]:
        layer.mlp.gate.weight.data.mul_(5)
        layer.mlp.gate.e_score_correction_bias[0] = 0.4  # all tokens go to one expert
    loads = RouterLoads(model, rate)
    statistics: Any = None
    with torch.no_grad():
        for _ in range(num_steps):
            with loads.counting():
                model(input_ids=token_ids(1, 8))
            statistics = loads.finish_step(World())
    return max(layer["largest_load"] - layer["smallest_load"] for layer in statistics["layers"])


def test_the_bias_evens_the_load() -> None:
    before, without, after = spread_after(0.01, 1), spread_after(0.0, 60), spread_after(0.01, 60)
    assert before == without > 80
    assert after < 20


def test_each_bias_moves_by_the_rate_towards_the_mean() -> None:
    model = make_model()
    loads = RouterLoads(model, 0.25)
    counts = brute_force_counts(model, [token_ids(1)])
    with loads.counting():
        model(input_ids=token_ids(1))
    loads.finish_step(World())
    for layer, counted in zip(model.model.layers[1:], counts, strict=True):
        mean = sum(counted) / len(counted)
        expected = [0.25 if count < mean else -0.25 if count > mean else 0.0 for count in counted]
        assert layer.mlp.gate.e_score_correction_bias.tolist() == expected
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in model.state_dict()


NUM_REPLICAS = 4


def balance(world: World) -> dict[str, Any]:
    """Some steps of the four logical replicas shared out over processes; the biases in hexadecimal, and statistics."""
    model = make_model()
    loads = RouterLoads(model, 0.001)
    statistics = []
    share = NUM_REPLICAS // world.size
    with torch.no_grad():
        for step in range(8):
            for replica in range(world.rank * share, (world.rank + 1) * share):
                with loads.counting():
                    model(input_ids=token_ids(10 * step + replica))
            statistics.append(loads.finish_step(world))
    biases = [layer.mlp.gate.e_score_correction_bias for layer in model.model.layers[1:]]
    return {"statistics": statistics, "biases": [[x.hex() for x in bias.tolist()] for bias in biases]}


class NotAdding(World):
    """A world whose processes do not add up what they counted."""

    def all_reduce(self, tensor: torch.Tensor, *, largest: bool = False) -> torch.Tensor:
        return tensor


def balance_at_sizes(rank: int, directory: Path) -> None:
    for size in (2, 4):
        if rank < size:
            with joined(rank, size, 1, directory / f"join-{size}") as layout:
                write_json(directory / f"{size}-{rank}.json", balance(layout.world))


def test_any_number_of_processes_gives_the_same_biases_and_statistics(tmp_path: Path) -> None:
    run_processes(balance_at_sizes, 4, tmp_path)
    alone = balance(World())
    for size in (2, 4):
        for rank in range(size):
            assert read_json(tmp_path / f"{size}-{rank}.json") == alone
    assert balance(NotAdding(rank=0, size=4))["biases"] != alone["biases"]


def test_models_without_routers_have_no_statistics() -> None:
    model = make_model("llama", {**ATTENTION, "hidden_size": 66, "intermediate_size": 175, "num_hidden_layers": 1})
    loads = RouterLoads(model)
    with loads.counting():
        model(input_ids=token_ids(1))
    assert loads.finish_step(World()) is None


@pytest.mark.parametrize("model_type", ["olmoe", "llama"])
def test_a_rate_without_a_bias_is_refused(model_type: str) -> None:
    fields = OLMOE if model_type == "olmoe" else {**ATTENTION, "hidden_size": 66, "num_hidden_layers": 1}
    with pytest.raises(ConfigError, match="router_bias_update_rate"):
        RouterLoads(make_model(model_type, fields), 0.001)


def test_a_router_that_returns_something_else_is_refused() -> None:
    model = make_model()
    gate = model.model.layers[1].mlp.gate
    gate.register_forward_hook(lambda _module, _inputs, output: (*output[:2], output[2].int()))
    loads = RouterLoads(model)
    with pytest.raises(TrainingError, match=r"layers\.1\.mlp\.gate returns torch\.int32"), loads.counting():
        gate(torch.randn(3, 66))


def test_default_experts_fail_at_sizes_like_these_and_ours_do_not() -> None:
    config = make_model().config
    default = AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="grouped_mm")
    with pytest.raises(RuntimeError, match="16 bytes"):
        default(input_ids=token_ids(1))


def test_an_expert_that_no_token_chose_has_gradient_zero() -> None:
    model = make_model()
    model(input_ids=token_ids(1)[:1, :1]).logits.sum().backward()
    gradient = model.model.layers[1].mlp.experts.down_proj.grad
    assert sorted(bool(expert.any()) for expert in gradient) == [False, False, False, True, True]
