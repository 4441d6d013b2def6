"""The memory table of `plan` against the tensors that a real step allocates."""

import json

import pytest
import torch
import torch.distributed as dist
from gloo_processes import joined, run_processes
from tiny_runs import make_corpus, make_job, pretrain_config
from torch.distributed import HashStore
from torch.profiler import ProfilerActivity, profile

from provenance.canonical import read_json
from train.accounting import meta_model, model_shape
from train.layout import World, make_layout
from train.loop import TrainingRun
from train.memory import measure_activations, memory_parts, peak_bytes, snapshot_bytes

OLMO3 = {
    "model_type": "olmo3",
    "fields": {
        "hidden_size": 198,
        "intermediate_size": 505,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "sliding_window": 16,
    },
}
MOE = {
    "model_type": "deepseek_v3",
    "fields": {
        "hidden_size": 126,
        "intermediate_size": 330,
        "moe_intermediate_size": 90,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 12,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 10,
        "qk_rope_head_dim": 6,
        "v_head_dim": 10,
        "max_position_embeddings": 64,
    },
}
FOUR = {"num_logical_replicas": 4, "phases": [{"num_steps": 10, "sequences_per_step": 16}]}
ONE = {"num_logical_replicas": 1, "phases": [{"num_steps": 10, "sequences_per_step": 64}]}
RECIPES = {
    "four passes": FOUR,
    "one large pass": ONE,
    "recomputed": {**ONE, "execution": {"activation_checkpointing": True}},
    "chunks": {**ONE, "loss": {"chunk_tokens": 100}},
    "z-loss": {**ONE, "loss": {"z_loss": 1e-4}},
    "documents": {**ONE, "data_masking": True},
    "muon": {**FOUR, "optimizer": {"name": "muon", "peak_learning_rate": 1e-3}},
    "bf16": {**FOUR, "precision": "bf16"},
    "experts": {**FOUR, "model": MOE},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus")).path


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def config_of(changes):
    values = {"model": OLMO3, "schedule": {"warmup_steps": 1, "decay_steps": 1}, **changes}
    masking = values.pop("data_masking", False)
    config = pretrain_config(**values)
    return config.model_copy(update={"data": config.data.model_copy(update={"document_masking": masking})})


def live_bytes(config, corpus, run_dir, layout=None, num_steps=1):
    """Most bytes of tensors at any time of a step after the first: weights and optimizer, and what the step allocates.

    Of several steps, the one with the least: gloo's threads hold what was sent for a moment longer in some of them.
    """
    run = TrainingRun(make_job("pretrain", config, corpus, run_dir), layout or make_layout(World(), 1))
    run.train_step(1)
    return min(step_bytes(run, step) for step in range(2, 2 + num_steps))


def step_bytes(run, step):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run.train_step(step)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    held = sum(part.tensor.nbytes for part in [*run.weights, *run.optimizer.state()])
    copies = sum(parameter.nbytes for parameter in run.module.parameters() if parameter.dtype == torch.bfloat16)
    return held + copies + most


def planned(config, vocab_size, num_processes=1, shard_size=1):
    shape = model_shape(meta_model(config.model, vocab_size, config.data.window_tokens))
    activations = measure_activations(config.model, config.precision, vocab_size, config.data.window_tokens)
    return memory_parts(shape, config, activations, num_processes, shard_size)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_peak_is_within_a_tenth_of_what_a_step_allocates(recipe, corpus, tmp_path):
    config = config_of(RECIPES[recipe])
    vocab_size = read_json(corpus / "tokens" / "tokens.json")["vocab_size"]
    expected = peak_bytes(planned(config, vocab_size))[0]
    assert live_bytes(config, corpus, tmp_path / "run") == pytest.approx(expected, rel=0.1)


def measure(rank, root, corpus, layout, recipes):
    """Live bytes of each recipe in one of some processes."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    with joined(rank, *layout, root / "rendezvous") as grid:
        found = {name: live_bytes(config_of(values), corpus, root / name, grid, 3) for name, values in recipes.items()}
    (root / f"{rank}.json").write_text(json.dumps(found))


AT_LAYOUTS = {
    (2, 1): {name: RECIPES[name] for name in ("four passes", "bf16")},
    (2, 2): {name: RECIPES[name] for name in ("four passes", "bf16", "experts")}
    | {"recomputed": {**RECIPES["recomputed"], "num_logical_replicas": 4}, "native": {**FOUR, "reduction": "native"}},
    (4, 1): {"four passes": FOUR},
    (4, 2): {"four passes": FOUR},
}


@pytest.mark.parametrize("layout", AT_LAYOUTS)
def test_the_peak_is_within_a_tenth_at_other_layouts(layout, corpus, tmp_path):
    recipes = AT_LAYOUTS[layout]
    run_processes(measure, layout[0], tmp_path, corpus, layout, recipes)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(layout[0])]
    vocab_size = read_json(corpus / "tokens" / "tokens.json")["vocab_size"]
    for name, changes in recipes.items():
        expected = peak_bytes(planned(config_of(changes), vocab_size, *layout))[0]
        assert [each[name] for each in found] == pytest.approx([expected] * layout[0], rel=0.1), name


def parts_of(changes, num_processes=1, shard_size=1):
    parts = planned(config_of(changes), 331, num_processes, shard_size)
    return {part.name: part.num_bytes for part in parts}


def test_the_table_is_of_the_phases_with_windows_of_the_measured_length():
    phases = [
        {"num_steps": 5, "sequences_per_step": 16},
        {"num_steps": 5, "sequences_per_step": 8, "window_tokens": 48},
        {"num_steps": 5, "sequences_per_step": 64, "window_tokens": 12},
    ]
    config = config_of({**FOUR, "phases": phases})
    shape = model_shape(meta_model(config.model, 331, config.longest_window))
    for number, length in enumerate(config.window_lengths):
        alone = config_of({**FOUR, "phases": [{**phases[number], "window_tokens": length}]})
        activations = measure_activations(config.model, config.precision, 331, length)
        assert memory_parts(shape, config, activations, 1, 1) == memory_parts(shape, alone, activations, 1, 1)


def test_sharding_divides_what_is_held_and_adds_what_is_gathered():
    whole, halves = parts_of(FOUR), parts_of(FOUR, 2, 2)
    for name in ("master weights", "optimizer state", "gradients"):
        assert halves[name] == -(-whole[name] // 8) * 4
    assert halves["activations"] == whole["activations"]
    outer, layer = ([f"{unit} weights", f"{unit} weights gathered"] for unit in ("outer", "layer"))
    assert {*outer, *layer, "unit gradients", "last units"} == set(halves) - set(whole)
    assert halves[outer[1]] == 2 * halves[outer[0]]
    assert halves[layer[0]] == 2 * halves[layer[1]]


def test_partial_sums_follow_the_passes_of_a_process():
    weights = parts_of(FOUR)["master weights"]
    assert parts_of(FOUR)["partial sums"] == 2 * weights
    assert parts_of(FOUR, 2)["partial sums"] == weights
    assert parts_of(FOUR, 4)["exchange"] == 2 * weights  # received, and gathered in one bucket
    assert "exchange" not in parts_of(FOUR, 2)  # two copies add in place
    assert "partial sums" not in parts_of(ONE)
    native = parts_of({**FOUR, "reduction": "native"}, 2, 2)
    assert native["whole gradients"] == weights
    assert {"partial sums", "exchange"} & set(native) == set()


def test_the_largest_process_copies_its_files_for_a_checkpoint():
    config = config_of({**FOUR, "checkpoints": {"max_file_bytes": 2**20}})
    shape = model_shape(meta_model(config.model, 331, 24))
    alone = snapshot_bytes(shape, config, 1)
    assert alone == 12 * shape.num_parameters
    assert alone / 4 <= snapshot_bytes(shape, config, 4) <= alone / 4 + 2**20
