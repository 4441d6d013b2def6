from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train.adamw import AdamW
from train.layout import Layout, Part, World
from train.optimizers import Optimizer, build_optimizer, is_hidden_matrix
from train.settings import OptimizerConfig

ADAMW = OptimizerConfig(peak_learning_rate=1e-2)
MUON = OptimizerConfig(name="muon", peak_learning_rate=1e-2)
ALONE = Layout(World())


def names_by_rule(model_type: str, **fields: int) -> dict[bool, set[str]]:
    """Kinds of parameters of a real model, layer numbers left out, by whether they are hidden matrices."""
    config = AutoConfig.for_model(model_type, num_hidden_layers=2, **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for name, parameter in model.named_parameters():
        kinds[is_hidden_matrix(name, parameter.dim())].add(".".join(name.split(".")[-3:]))
    return kinds


def test_llama_has_its_matrices_and_nothing_else_updated_by_muon() -> None:
    kinds = names_by_rule("llama")
    attention = {f"self_attn.{x}_proj.weight" for x in "qkvo"}
    assert kinds[True] == attention | {f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
    assert {name.split(".")[-2] for name in kinds[False]} == {
        "embed_tokens",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
        "lm_head",
    }


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [("deepseek_v3", {"first_k_dense_replace": 1}), ("qwen3_moe", {}), ("olmoe", {}), ("qwen2_moe", {})],
)
def test_experts_are_matrices_and_routers_are_not(model_type: str, fields: dict[str, int]) -> None:
    kinds = names_by_rule(model_type, **fields)
    assert {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "self_attn.o_proj.weight"} <= kinds[True]
    assert "mlp.gate.weight" in kinds[False]
    assert ("mlp.shared_expert_gate.weight" in kinds[False]) == (model_type == "qwen2_moe")
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in kinds[True])


def test_gpt2_and_biases() -> None:
    kinds = names_by_rule("gpt2")
    assert kinds[True] == {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
    assert not is_hidden_matrix("model.layers.0.mlp.experts.gate_up_proj_bias", 2)
    assert not is_hidden_matrix("model.layers.0.mlp.experts.gate_up_proj_bias", 3)
    assert not is_hidden_matrix("model.layers.0.mixer.conv1d.weight", 3)
    assert is_hidden_matrix("base_model.model.layers.0.q_proj.lora_A.default.weight", 2)


def parts_of(shapes: dict[str, tuple[int, ...]]) -> list[Part]:
    generator = torch.Generator().manual_seed(0)
    return [Part(name, torch.randn(shape, generator=generator), shape) for name, shape in shapes.items()]


def steps(optimizer: Optimizer, parts: list[Part], numbers: range) -> None:
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        optimizer.step({p.name: torch.randn(p.tensor.shape, generator=generator) for p in parts}, 1e-2 / number)


SHAPES = {"embed.weight": (101, 66), "layers.0.q_proj.weight": (66, 66), "norm.weight": (66,)}


def test_muon_leaves_the_rest_to_adamw() -> None:
    parts = parts_of(SHAPES)
    optimizer = build_optimizer(MUON, parts, ALONE)
    steps(optimizer, parts, range(1, 4))
    assert {part.name for part in optimizer.state()} == {
        "layers.0.q_proj.weight.momentum_buffer",
        "embed.weight.exp_avg",
        "embed.weight.exp_avg_sq",
        "norm.weight.exp_avg",
        "norm.weight.exp_avg_sq",
    }
    others = [part for part in parts_of(SHAPES) if "q_proj" not in part.name]
    adamw = AdamW(MUON, others)
    for number in range(1, 4):
        generator = torch.Generator().manual_seed(number)
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        adamw.step(gradients, 1e-2 / number)
    assert torch.equal(others[0].tensor, parts[0].tensor)
    assert torch.equal(others[1].tensor, parts[2].tensor)


@pytest.mark.parametrize("names", [["layers.0.q_proj.weight"], ["norm.weight"]])
def test_muon_with_nothing_on_one_side(names: list[str]) -> None:
    parts = parts_of({name: SHAPES[name] for name in names})
    before = parts[0].tensor.clone()
    steps(build_optimizer(MUON, parts, ALONE), parts, range(1, 2))
    assert not torch.equal(parts[0].tensor, before)


@pytest.mark.parametrize("config", [ADAMW, MUON])
@pytest.mark.parametrize("num_steps_before", [0, 2])
def test_saved_and_loaded_state_goes_on_with_the_same_bits(config: OptimizerConfig, num_steps_before: int) -> None:
    straight, resumed = parts_of(SHAPES), parts_of(SHAPES)
    steps(build_optimizer(config, straight, ALONE), straight, range(1, 5))
    first = build_optimizer(config, resumed, ALONE)
    steps(first, resumed, range(1, 1 + num_steps_before))
    saved = {part.name: part.tensor.clone() for part in first.state()}
    second = build_optimizer(config, resumed, ALONE)
    second.load(saved, num_steps_before)
    steps(second, resumed, range(1 + num_steps_before, 5))
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one.tensor, other.tensor)


def test_loading_without_the_state_is_seen_to_differ() -> None:
    straight, reset = parts_of(SHAPES), parts_of(SHAPES)
    steps(build_optimizer(MUON, straight, ALONE), straight, range(1, 5))
    steps(build_optimizer(MUON, reset, ALONE), reset, range(1, 3))
    steps(build_optimizer(MUON, reset, ALONE), reset, range(3, 5))
    assert not torch.equal(straight[1].tensor, reset[1].tensor)


@pytest.mark.parametrize("num_pieces", [2, 8, 101])
def test_adamw_has_the_same_bits_on_any_cut(num_pieces: int) -> None:
    shape = (101, 66)
    whole, cut = parts_of({"embed.weight": shape}), parts_of({"embed.weight": shape})
    pieces = [
        Part(f"piece.{n}", piece.clone(), shape) for n, piece in enumerate(cut[0].tensor.tensor_split(num_pieces))
    ] + [Part("none", torch.empty(0, 66), shape)]
    one, many = AdamW(ADAMW, whole), AdamW(ADAMW, pieces)
    for number in range(1, 6):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        one.step({"embed.weight": gradient.clone()}, 1e-2)
        rows = gradient.tensor_split(num_pieces)
        many.step({**{f"piece.{n}": row for n, row in enumerate(rows)}, "none": torch.empty(0, 66)}, 1e-2)
    assert torch.equal(whole[0].tensor, torch.cat([piece.tensor for piece in pieces]))


def trained(cuts: list[int], threads: int, make: Callable[[list[Part]], Callable[[list[torch.Tensor]], None]]) -> bytes:
    """Bytes of a vector after three updates, held in pieces that end at these elements."""
    weight = torch.randn(3 * 4096 + 7, generator=torch.Generator().manual_seed(0))
    pieces = [piece.clone() for piece in weight.tensor_split(cuts)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step = make([Part(f"{n}", piece, (len(weight), 1)) for n, piece in enumerate(pieces)])
        for number in range(1, 4):
            gradient = torch.randn(len(weight), generator=torch.Generator().manual_seed(number))
            step(list(gradient.tensor_split(cuts)))
    finally:
        torch.set_num_threads(before)
    return torch.cat(pieces).numpy().tobytes()


def ours(parts: list[Part]) -> Callable[[list[torch.Tensor]], None]:
    optimizer = AdamW(ADAMW, parts)
    return lambda gradients: optimizer.step({f"{n}": gradient for n, gradient in enumerate(gradients)}, 1e-2)


def of_torch(parts: list[Part], *, fused: bool = True) -> Callable[[list[torch.Tensor]], None]:
    weights = [torch.nn.Parameter(part.tensor) for part in parts]
    betas = (ADAMW.beta1, ADAMW.beta2)
    optimizer = torch.optim.AdamW(weights, 1e-2, betas, ADAMW.epsilon, ADAMW.weight_decay, fused=fused)

    def step(gradients: list[torch.Tensor]) -> None:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    return step


CUTS: list[list[int]] = [[], [1], [4095, 4096, 4101], [63, 64, 65, 12_000], list(range(7, 2100, 7))]


def test_adamw_has_the_same_bits_wherever_a_vector_is_cut_and_on_any_number_of_threads() -> None:
    whole = trained([], 1, ours)
    assert all(trained(cuts, threads, ours) == whole for cuts in CUTS for threads in (1, 3))
    assert len({trained(cuts, 1, of_torch) for cuts in CUTS}) > 1, "torch's own, given the pieces, has others"


def test_adamw_is_adamw() -> None:
    found = torch.frombuffer(bytearray(trained([100], 1, ours)), dtype=torch.float32)
    plain = trained([100], 1, lambda parts: of_torch(parts, fused=False))
    assert torch.allclose(found, torch.frombuffer(bytearray(plain), dtype=torch.float32), rtol=1e-6, atol=1e-7)
