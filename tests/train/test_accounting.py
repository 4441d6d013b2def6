"""The arithmetic of `plan` against torch's own counters, against models that are really built, and against the loop."""

import math

import pytest
import torch
from tiny_runs import pretrain_config
from torch.utils.flop_counter import FlopCounterMode

from provenance.errors import ConfigError
from train.accounting import (
    FLOPS_PER_MULTIPLY_ADD,
    attended_pairs,
    computed_pairs,
    forward_flops,
    heldout_steps,
    meta_model,
    model_shape,
    num_sequences,
    num_tokens,
    plan_checkpoints,
    training_flops,
)
from train.model import build_model
from train.settings import ModelConfig

TOKENS = 40
VOCABULARY = 331
COMMON = {"hidden_size": 66, "intermediate_size": 176, "num_attention_heads": 3, "max_position_embeddings": 64}
MODELS = {
    "olmo3": {"num_hidden_layers": 4, "num_key_value_heads": 3, "sliding_window": 16, "tie_word_embeddings": False},
    "llama": {"num_hidden_layers": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen3": {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 32},
    "smollm3": {"num_hidden_layers": 2, "num_key_value_heads": 1},
    "deepseek_v3": {
        "num_hidden_layers": 3,
        "num_key_value_heads": 3,
        "hidden_size": 64,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_shared_experts": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
}


def small_model(model_type, attention="eager"):
    return ModelConfig(model_type=model_type, fields={**COMMON, **MODELS[model_type]}, attention=attention)


def built(model_type):
    torch.manual_seed(0)
    model = build_model(
        small_model(model_type), vocab_size=VOCABULARY, eos_id=0, pad_id=1, window_tokens=TOKENS
    ).train()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # plain products, which the counter sees
    return model


def counted(model, batch=2):
    ids = torch.randint(2, VOCABULARY, (batch, TOKENS))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    return counter.get_total_flops() / batch


@pytest.mark.parametrize("model_type", MODELS)
def test_forward_and_backward_flops_are_those_that_torch_counts(model_type):
    """With eager attention every product of the model goes through `mm` or `bmm`, which the counter sees.

    It does not see the fused attention kernel of CPUs nor grouped products of experts; neither is used here. It also
    counts the tables of rotary angles of some models (products of one column), which the formula leaves out: 1%.
    """
    shape = model_shape(built(model_type))
    expected = 3 * forward_flops(shape, TOKENS, TOKENS * TOKENS)
    assert counted(built(model_type)) == pytest.approx(expected, rel=0.01)


def test_the_comparison_would_notice_a_missing_term():
    shape = model_shape(built("deepseek_v3"))
    without_head = 3 * forward_flops(shape, TOKENS, TOKENS * TOKENS, layers_only=True)
    assert counted(built("deepseek_v3")) != pytest.approx(without_head, rel=0.01)
    assert counted(built("deepseek_v3")) != pytest.approx(3 * forward_flops(shape, TOKENS), rel=0.01)


def test_recomputed_layers_are_one_more_forward_pass():
    """Torch stops computing a layer again once it has what the backward pass needs: up to the last product less."""
    model = built("olmo3")
    model.activation_checkpointing_enable({"use_reentrant": False})
    config = pretrain_config(model=small_model("olmo3").model_dump(), execution={"activation_checkpointing": True})
    shape = model_shape(built("olmo3"))
    planned = training_flops(
        shape, config.model_copy(update={"data": config.data.model_copy(update={"window_tokens": TOKENS})}), "eager"
    )
    assert counted(model) == pytest.approx(planned.computed / num_sequences(config), rel=0.02)
    assert planned.model < planned.computed


def test_pairs_of_windows_and_masks():
    for tokens, window in ((7, 3), (7, 7), (7, 100), (1, 1), (40, 16)):
        brute = sum(1 for i in range(tokens) for j in range(tokens) if j <= i and i - j < window)
        assert attended_pairs(tokens, window) == brute
    assert attended_pairs(7, None) == 28
    sliding, full = model_shape(built("olmo3")).layers[0], model_shape(built("olmo3")).layers[3]
    assert sliding.window_tokens == 16
    assert full.window_tokens is None
    assert computed_pairs(full, TOKENS, "sdpa", document_masking=False) == attended_pairs(TOKENS, None)
    assert computed_pairs(full, TOKENS, "sdpa", document_masking=True) == TOKENS**2
    assert computed_pairs(sliding, TOKENS, "sdpa", document_masking=False) == TOKENS**2
    assert computed_pairs(sliding, 15, "sdpa", document_masking=False) == attended_pairs(15, None)


@pytest.mark.parametrize("model_type", MODELS)
def test_a_model_on_the_meta_device_has_the_sizes_of_a_real_one(model_type):
    planned = model_shape(meta_model(small_model(model_type), VOCABULARY, TOKENS))
    real = built(model_type)
    assert planned == model_shape(real)
    assert planned.num_parameters == sum(p.numel() for p in real.parameters())
    embeddings = {id(p): p.numel() for p in (real.lm_head.weight, real.model.embed_tokens.weight)}
    assert planned.num_embedding_parameters == sum(embeddings.values())


def test_active_parameters_are_those_of_the_chosen_experts():
    shape = model_shape(built("deepseek_v3"))
    experts = 8 * 3 * 64 * 32  # experts, matrices, hidden size, expert size
    assert shape.num_parameters - shape.num_active_parameters == 2 * experts * 5 // 8
    assert [layer.num_inactive_parameters for layer in shape.layers] == [0, experts * 5 // 8, experts * 5 // 8]
    dense = model_shape(built("olmo3"))
    assert dense.num_active_parameters == dense.num_parameters


def test_the_published_sizes_of_the_largest_model():
    """DeepSeek-V3: 671 billion parameters, 37 billion per token (arXiv:2412.19437), without the prediction module."""
    shape = model_shape(meta_model(ModelConfig(model_type="deepseek_v3", fields={}), 129280, 4096))
    assert shape.num_parameters == pytest.approx(671e9, rel=0.001)
    assert shape.num_active_parameters == pytest.approx(37e9, rel=0.02)
    per_token = 3 * forward_flops(shape, 4096) / 4096
    assert per_token == pytest.approx(6 * shape.num_active_parameters, rel=0.15)


def test_skipped_steps_read_nothing():
    config = pretrain_config(skip_steps=[(2, 3), (7, 8)])
    assert num_sequences(pretrain_config()) == 7 * 8 + 3 * 16
    assert num_sequences(config) == 4 * 8 + 2 * 16
    shape = model_shape(built("olmo3"))
    whole, fewer = (training_flops(shape, c, "sdpa").model for c in (pretrain_config(), config))
    assert fewer * num_sequences(pretrain_config()) == whole * num_sequences(config)


def test_phases_with_other_windows_are_counted_at_their_own_length():
    phases = [{"num_steps": 7, "sequences_per_step": 8}, {"num_steps": 3, "sequences_per_step": 16}]
    longer = [phases[0], {**phases[1], "window_tokens": 48}]
    config = pretrain_config(phases=longer, skip_steps=[(2, 3), (8, 8)])
    assert config.window_lengths == (24, 48)
    assert [config.phase_of(step) for step in (1, 7, 8, 10)] == [config.phases[0]] * 2 + [config.phases[1]] * 2
    assert num_tokens(config) == 5 * 8 * 24 + 2 * 16 * 48
    shape = model_shape(built("olmo3"))
    flops = training_flops(shape, config, "sdpa")
    assert flops.model == 3 * (5 * 8 * forward_flops(shape, 24) + 2 * 16 * forward_flops(shape, 48))
    at_one_length = [
        training_flops(
            shape, pretrain_config(phases=[{**phase, "num_steps": steps}], schedule={"warmup_steps": 0}), "sdpa"
        )
        for phase, steps in ((longer[0], 5), (longer[1], 2))
    ]
    assert flops.computed == sum(each.computed for each in at_one_length)
    assert flops.heldout == training_flops(shape, pretrain_config(), "sdpa").heldout


def test_heldout_steps_are_the_due_ones():
    assert list(heldout_steps(pretrain_config())) == [0, 4, 8, 10]


def test_kept_checkpoints_follow_schedule_and_retention():
    shape = model_shape(built("olmo3"))
    every = plan_checkpoints(shape, pretrain_config())
    assert (every.weights_steps, every.full_steps) == ((0, 1, 2, 4), (3, 6, 9, 10))
    few = pretrain_config(
        checkpoints={
            "weights_until_step": 1,
            "weights_every_steps": 4,
            "full_every_steps": 2,
            "keep_last_full": 1,
            "published_full_steps": [2],
        }
    )
    kept = plan_checkpoints(shape, few)
    assert (kept.weights_steps, kept.full_steps) == ((0, 1, 4), (2, 8, 10))
    assert kept.weights_bytes == 4 * shape.num_parameters
    assert kept.full_bytes == 3 * kept.weights_bytes
    assert kept.total_bytes == 3 * kept.weights_bytes + 3 * kept.full_bytes


def test_a_branch_keeps_what_it_begins_with_and_nothing_from_before():
    shape = model_shape(built("olmo3"))
    branch = {"ledger_head": "a" * 64, "state_digest": "b" * 64, "step": 4}
    whole = plan_checkpoints(shape, pretrain_config(branch=branch, skip_steps=[(6, 7)]))
    assert (whole.weights_steps, whole.full_steps) == ((), (4, 9, 10))
    kept = {"weights_until_step": 8, "full_every_steps": 2, "keep_last_full": 1}
    few = plan_checkpoints(shape, pretrain_config(branch=branch, checkpoints=kept))
    assert (few.weights_steps, few.full_steps) == ((), (4, 8, 10))


def test_muon_keeps_one_state_for_a_matrix():
    shape = model_shape(built("olmo3"))
    muon = plan_checkpoints(shape, pretrain_config(optimizer={"name": "muon", "peak_learning_rate": 0.01}))
    adamw = plan_checkpoints(shape, pretrain_config())
    assert adamw.full_bytes - muon.full_bytes == 4 * shape.num_matrix_parameters
    assert shape.largest_matrix == 66 * 176


def test_a_model_without_a_list_of_layers_is_refused():
    with pytest.raises(ConfigError, match="list of layers"):
        model_shape(
            meta_model(ModelConfig(model_type="gpt2", fields={"n_embd": 12, "n_head": 2, "n_layer": 1}), 300, 40)
        )


def test_flops_count_a_multiply_add_twice():
    assert FLOPS_PER_MULTIPLY_ADD == 2
    assert math.isclose(
        forward_flops(model_shape(built("llama")), 1),
        2 * (66 * 331 + 2 * (2 * 66 * 66 + 2 * 66 * 22 + 3 * 66 * 176) + 2 * 3 * 44),
    )
