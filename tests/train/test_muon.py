from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from gloo_processes import joined, run_processes
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from train.layout import Layout, Part, World, part_of
from train.muon import Muon, plan_rounds
from train.optimizers import build_optimizer
from train.settings import OptimizerConfig
from train.state import state_digest

CONFIG = OptimizerConfig(name="muon", peak_learning_rate=0.02, weight_decay=0.1)
NUM_STEPS = 4
# Sizes that divide by nothing: shards end in the middle of vectors, and some processes of eight hold no row at all.
SHAPES = {
    "model.embed_tokens.weight": (1021, 66),
    "model.layers.0.self_attn.q_proj.weight": (66, 66),
    "model.layers.0.mlp.gate_proj.weight": (175, 66),
    "model.layers.0.mlp.down_proj.weight": (66, 175),
    "model.layers.0.low_rank.weight": (3, 66),
    "model.layers.1.mlp.experts.gate_up_proj": (5, 35, 66),
    "model.layers.1.mlp.experts.down_proj": (5, 66, 35),
    "model.layers.1.mlp.gate.weight": (5, 66),
    "model.norm.weight": (66,),
    "model.layers.0.short_norm.weight": (3,),
}
MATRICES = [name for name in SHAPES if ".layers." in name and "gate.weight" not in name and "norm" not in name]
# Processes, and processes in a row.
LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 1), (8, 2), (8, 4), (8, 8)]


def random_tensors(seed: int, scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


def cut(tensors: Mapping[str, torch.Tensor], layout: Layout) -> list[Part]:
    """Cut tensors by hand the way torch.chunk does, with nothing left for the last processes of a row."""
    parts = []
    for name, tensor in tensors.items():
        chunks = tensor.chunk(layout.shard_size)
        first = sum(len(chunk) for chunk in chunks[: layout.shard])
        rows = chunks[layout.shard].clone() if layout.shard < len(chunks) else tensor[:0].clone()
        parts.append(Part(name, rows, tuple(tensor.shape), first))
    return parts


def rows_of(parts: Sequence[Part], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows of whole tensors that go with the parts."""
    return {p.name: tensors[p.name][p.first_row : p.first_row + len(p.tensor)].clone() for p in parts}


def train(parts: list[Part], layout: Layout) -> dict[str, torch.Tensor]:
    """Some steps on random gradients, with a save and a load halfway; returns the parts and the state."""
    optimizer = build_optimizer(CONFIG, parts, layout)
    for step in range(1, NUM_STEPS + 1):
        gradients = rows_of(parts, random_tensors(step, 0.1))
        optimizer.step(gradients, CONFIG.peak_learning_rate / step)
        if step == 2:
            saved = {part.name: part.tensor.clone() for part in optimizer.state()}
            optimizer = build_optimizer(CONFIG, parts, layout)
            optimizer.load(saved, step)
    return {part.name: part.tensor for part in [*parts, *optimizer.state()]}


def train_at_layouts(rank: int, directory: Path) -> None:
    for size, shard_size in LAYOUTS:
        if rank < size:
            with joined(rank, size, shard_size, directory / f"join-{size}-{shard_size}") as layout:
                parts = cut(random_tensors(0, 1.0), layout)
                save_file(train(parts, layout), directory / f"{size}-{shard_size}-{rank}.safetensors")


def gathered_digest(directory: Path, size: int, shard_size: int) -> str:
    """Digest of the tensors that a row of processes holds together; every row must hold the same."""
    digests = set()
    for first in range(0, size, shard_size):
        held = [load_file(directory / f"{size}-{shard_size}-{first + n}.safetensors") for n in range(shard_size)]
        whole = {name: torch.cat([each[name] for each in held]) for name in held[0]} if shard_size > 1 else held[0]
        digests.add(state_digest(whole))
    assert len(digests) == 1
    return digests.pop()


def test_every_layout_gives_the_bits_of_one_process(tmp_path: Path) -> None:
    run_processes(train_at_layouts, 8, tmp_path)
    alone = train(cut(random_tensors(0, 1.0), Layout(World())), Layout(World()))
    assert {name for name in alone if name.endswith("momentum_buffer")} == {f"{n}.momentum_buffer" for n in MATRICES}
    digests = {layout: gathered_digest(tmp_path, *layout) for layout in LAYOUTS}
    assert digests == dict.fromkeys(LAYOUTS, state_digest(alone))


class Matrices(torch.nn.Module):
    """A hidden matrix and experts, to be sharded by torch."""

    def __init__(self) -> None:
        super().__init__()
        start = random_tensors(0, 1.0)
        self.names = [MATRICES[1], MATRICES[-1]]
        self.linear = torch.nn.Linear(66, 175, bias=False)
        self.experts = torch.nn.Module()
        self.linear.weight = torch.nn.Parameter(start[self.names[0]])
        self.experts.down_proj = torch.nn.Parameter(start[self.names[1]])


def torch_and_own_muon_on_shards(rank: int, directory: Path) -> None:
    gradients = random_tensors(1, 0.1)
    with joined(rank, 2, 2, directory / "join") as layout:
        assert layout.mesh is not None
        model = fully_shard(Matrices(), mesh=layout.mesh["shard"])
        parts = [part_of(name, p, layout) for name, p in zip(model.names, model.parameters(), strict=True)]
        Muon(CONFIG, parts, layout).step(rows_of(parts, gradients), 0.02)
        own = {part.name: part.tensor.clone() for part in parts}
        model = fully_shard(Matrices(), mesh=layout.mesh["shard"])
        weight = model.linear.weight
        weight.grad = distribute_tensor(gradients[model.names[0]], layout.mesh["shard"], [Shard(0)])
        torch.optim.Muon([weight], lr=0.02, adjust_lr_fn="match_rms_adamw").step()
        # Its rows as they are, with no collective that could change them.
        save_file({**own, "torch": weight.to_local().detach()}, directory / f"2-2-{rank}.safetensors")


def test_shards_of_torch_where_its_own_muon_is_seen_to_differ(tmp_path: Path) -> None:
    run_processes(torch_and_own_muon_on_shards, 2, tmp_path)
    held = [load_file(tmp_path / f"2-2-{rank}.safetensors") for rank in range(2)]
    found = {name: torch.cat([each[name] for each in held]) for name in held[0]}
    parts = cut(random_tensors(0, 1.0), Layout(World()))
    parts = [part for part in parts if part.name in found]
    Muon(CONFIG, parts, Layout(World())).step(random_tensors(1, 0.1), 0.02)
    for part in parts:
        assert torch.equal(found[part.name], part.tensor)
    assert not torch.equal(found["torch"], parts[0].tensor)
    assert torch.allclose(found["torch"], parts[0].tensor, atol=0.05)  # it is Muon all the same


def test_whole_matrices_move_as_in_torch() -> None:
    start = random_tensors(0, 1.0)
    names = [name for name in MATRICES if len(SHAPES[name]) == 2]
    theirs = {name: torch.nn.Parameter(start[name].clone()) for name in names}
    reference = torch.optim.Muon(
        theirs.values(), lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    parts = cut({name: start[name] for name in names}, Layout(World()))
    optimizer = Muon(CONFIG, parts, Layout(World()))
    for step in range(1, 4):
        gradients = random_tensors(step, 0.1)
        for name, parameter in theirs.items():
            parameter.grad = gradients[name].clone()
        reference.step()
        optimizer.step(rows_of(parts, gradients), 0.02)
    for part, buffer in zip(parts, optimizer.state(), strict=True):
        assert torch.equal(part.tensor, theirs[part.name])
        assert torch.equal(buffer.tensor, reference.state[theirs[part.name]]["momentum_buffer"])


def test_an_expert_moves_as_a_matrix_of_its_own() -> None:
    name = MATRICES[-1]
    start, gradient = random_tensors(0, 1.0)[name], random_tensors(1, 0.1)[name]
    stacked = cut({name: start}, Layout(World()))
    Muon(CONFIG, stacked, Layout(World())).step({name: gradient.clone()}, 0.02)
    for expert in range(5):
        single = cut({"weight": start[expert]}, Layout(World()))
        Muon(CONFIG, single, Layout(World())).step({"weight": gradient[expert].clone()}, 0.02)
        assert torch.equal(stacked[0].tensor[expert], single[0].tensor)


@pytest.mark.parametrize(("size", "shard_size"), [(1, 1), (8, 1), (8, 8), (8, 4)])
def test_owners_share_the_work_and_hold_one_matrix_at_a_time(size: int, shard_size: int) -> None:
    shapes = {f"layers.{n}.up_proj.weight": (175, 66) for n in range(12)} | {"layers.0.experts.up": (16, 35, 66)}
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    plans, num_owned = [], [0] * size
    for rank in range(size):
        layout = Layout(World(rank, size), shard_size)
        plans.append(plan_rounds(cut(tensors, layout), layout))
    for matrices in plans[0]:
        for owner, matrix in matrices.items():
            num_owned[owner] += 1
            if matrix.expert is not None:
                assert matrix.holders == [owner % shard_size]  # an expert stays in the column that holds it
    assert all(plan == plans[0] for plan in plans)
    assert sum(num_owned) == 28
    assert len(plans[0]) == max(num_owned) <= 28 // size + 2
