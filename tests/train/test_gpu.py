"""Equal bits on GPUs. One GPU serves all but the tests of NCCL: gloo lets several processes share it."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gloo_processes
import pytest
import small_jobs
import tiny_runs
import torch
from test_layouts import MASKED, MOE, MUON, SHORT

from provenance.canonical import read_json, write_json
from provenance.errors import ConfigError
from provenance.ledger import read_chain
from train.adamw import AdamW
from train.gradients import clip_
from train.jobs import launch, num_gpus
from train.layout import Layout, Part, World
from train.loop import run_job
from train.reduction import TreeSum, exact_norm
from train.replay import REPLAY_FORMAT, ReplayRequest, replay
from train.settings import OptimizerConfig
from train.state import ParameterChecksum, state_digest
from train.worker import be_deterministic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two GPUs")

# Expert sizes are multiples of 16 bytes also in bf16: grouped products ask for it.
GPU_MOE = {**MOE, "fields": {**MOE["fields"], "hidden_size": 64, "moe_intermediate_size": 40}}
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "moe-bf16-muon-chunks": {"model": GPU_MOE, "precision": "bf16", "optimizer": MUON, "loss": {"chunk_tokens": 17}},
    "chunks-masked": {"model": tiny_runs.LLAMA, "loss": {"chunk_tokens": 17, "z_loss": 1e-4}, "data": MASKED},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


def started(corpus: Path, run_dir: Path, num_processes: int = 1, shard_size: int = 1, **changes: Any) -> Path:
    """A run in fresh processes through `accelerate launch`, one GPU to each."""
    execution = {"device": "cuda", "num_processes": num_processes, "shard_size": shard_size}
    config = tiny_runs.pretrain_config(**changes, execution=execution)
    launch(tiny_runs.make_job("pretrain", config, corpus, run_dir), num_processes, 1)
    assert len(list(read_chain(run_dir / "ledger.jsonl"))) > 10
    return run_dir


def shared(rank: int, size: int, shard_size: int, corpus: Path, run_dir: Path, changes: dict[str, Any]) -> None:
    """One process of a run whose processes share one GPU."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    be_deterministic(1)
    execution = {"device": "cuda", "num_processes": size, "shard_size": shard_size, **changes.get("execution", {})}
    config = tiny_runs.pretrain_config(**{**SHORT, **changes, "execution": execution})
    job = tiny_runs.make_job("pretrain", config, corpus, run_dir)
    rendezvous = run_dir.with_suffix(f".{size}-{shard_size}")
    with gloo_processes.joined(rank, size, shard_size, rendezvous, device="cuda") as layout:
        run_job(job, layout)


def run_shared(corpus: Path, run_dir: Path, size: int, shard_size: int, changes: dict[str, Any]) -> dict[str, bytes]:
    run_dir.mkdir(parents=True)
    gloo_processes.run_processes(shared, size, size, shard_size, corpus, run_dir, changes)
    return small_jobs.results(run_dir)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_layout_gives_the_same_bytes(corpus: Path, tmp_path: Path, recipe: str) -> None:
    """Also the same run twice: the first layout stands twice."""
    layouts = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2)]
    found = [
        run_shared(corpus, tmp_path / f"{number}", *layout, RECIPES[recipe]) for number, layout in enumerate(layouts)
    ]
    assert len(found[0]) > 10
    for layout, files in zip(layouts[1:], found[1:], strict=True):
        different = [name for name in {**found[0], **files} if found[0].get(name) != files.get(name)]
        assert different == [], layout


def test_another_seed_is_seen_to_differ(corpus: Path, tmp_path: Path) -> None:
    first, second = (run_shared(corpus, tmp_path / f"{seed}", 1, 1, {"seed": seed}) for seed in (7, 8))
    assert first["ledger.jsonl"] != second["ledger.jsonl"]


def test_a_run_of_the_launcher_has_the_same_bytes_and_says_what_it_ran_on(corpus: Path, tmp_path: Path) -> None:
    changes = {**SHORT, "precision": "bf16"}
    run_dir = started(corpus, tmp_path / "launched", **changes)
    assert small_jobs.results(run_dir) == run_shared(corpus, tmp_path / "shared", 1, 1, changes)
    journal = small_jobs.records(run_dir, name="journal.jsonl")
    assert journal[0]["device"] == torch.cuda.get_device_name()
    energy = [record for record in journal if record["kind"] == "energy"]
    assert energy
    assert "NVML" in energy[-1]["source"]
    assert float.fromhex(energy[-1]["joules"]) > 0


def test_activations_computed_again_change_no_bit(corpus: Path, tmp_path: Path) -> None:
    again = {"execution": {"activation_checkpointing": True}}
    kept, recomputed = (
        run_shared(corpus, tmp_path / name, 1, 1, {"precision": "bf16", **changes})
        for name, changes in (("kept", {}), ("recomputed", again))
    )
    assert kept == recomputed


def test_compiled_layers_give_the_same_bytes_twice_and_on_two_processes(corpus: Path, tmp_path: Path) -> None:
    changes = {"model": tiny_runs.LLAMA, "precision": "bf16", "compile": True}
    first, second, sharded = (
        run_shared(corpus, tmp_path / name, *layout, changes)
        for name, layout in (("first", (1, 1)), ("second", (1, 1)), ("sharded", (2, 2)))
    )
    assert first == second
    assert first == sharded


def test_a_killed_run_goes_on_with_the_same_bytes_and_is_replayed(corpus: Path, tmp_path: Path) -> None:
    changes = {**SHORT, "phases": [{"num_steps": 90, "sequences_per_step": 8}]}
    straight = started(corpus, tmp_path / "straight", **changes)
    run_dir = tmp_path / "killed"
    process = multiprocessing.get_context("spawn").Process(target=started, args=(corpus, run_dir), kwargs=changes)
    process.start()
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints/step-00000009").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # launcher and worker end with it
    process.join()
    assert not (run_dir / "run.json").exists()
    started(corpus, run_dir, **changes)
    assert small_jobs.differing(run_dir, straight) == []
    assert "resume" in [record["kind"] for record in small_jobs.records(run_dir, name="journal.jsonl")]

    ledger = (straight / "ledger.jsonl").read_bytes()
    for first, altered in ((9, False), (12, True)):
        checkpoint = straight / "checkpoints" / f"step-{first:08d}"
        replayed = replay_from(corpus, straight, checkpoint, first + 6, tmp_path / f"replay-{first}", altered)
        assert replayed.count(b'"kind":"step"') == 6
        assert (replayed in ledger) is not altered


def replay_from(corpus: Path, run_dir: Path, checkpoint: Path, last_step: int, output: Path, altered: bool) -> bytes:
    """Ledger of some steps run again in fresh processes, by the recipe or one whose seed is another."""
    output.mkdir()
    recipe = read_json(run_dir / "recipe.json")
    write_json(output / "recipe.json", {**recipe, "seed": recipe["seed"] + altered})
    request = ReplayRequest(
        format=REPLAY_FORMAT,
        stage="pretrain",
        recipe=str(output / "recipe.json"),
        corpus=str(corpus),
        base_checkpoint="",
        from_checkpoint=str(checkpoint),
        last_step=last_step,
        output=str(output / "run"),
        num_processes=None,
    )
    replay(request)
    return (output / "run" / "ledger.jsonl").read_bytes()


def test_losses_are_near_those_of_the_cpu(corpus: Path, tmp_path: Path) -> None:
    """Another platform: near, and not the same bits."""
    losses = []
    for device in ("cuda", "cpu"):
        execution = {"device": device, "num_processes": 1}
        # Dropout draws from generators that differ between devices.
        config = tiny_runs.pretrain_config(**SHORT, model=tiny_runs.LLAMA, execution=execution)
        job = tiny_runs.make_job("pretrain", config, corpus, tmp_path / device)
        launch(job, 1, 1)
        losses.append([float.fromhex(record["loss"]) for record in small_jobs.records(tmp_path / device, "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


SHAPES = {"embed": (1021, 66), "experts": (5, 35, 66), "matrix": (175, 66), "norm": (66,), "short": (3,)}


def random_tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def parts_of(tensors: dict[str, torch.Tensor]) -> list[Part]:
    return [Part(name, tensor, tuple(tensor.shape)) for name, tensor in tensors.items()]


def test_norm_checksum_and_digest_have_the_bits_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        world = World(device=torch.device(device))
        tensors = {name: tensor.to(device) for name, tensor in random_tensors(1).items()}
        summed = TreeSum()
        for seed in range(4):
            summed.push([tensor.to(device) for tensor in random_tensors(seed).values()])
        found.append(
            (
                exact_norm(list(tensors.values()), world).hex(),
                ParameterChecksum(parts_of(tensors), Layout(world)).total(),
                state_digest(tensors),
                state_digest(dict(zip(SHAPES, summed.total(), strict=True))),
            )
        )
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


def test_adamw_on_cut_tensors_has_the_bits_of_whole_ones() -> None:
    """Cuts at places that divide by nothing; torch's kernel sees other tails, and other blocks."""
    config = OptimizerConfig(peak_learning_rate=1e-2)
    wholes = {name: tensor.cuda() for name, tensor in random_tensors(0).items()}
    cuts = {f"{name}.{half}": piece.clone() for name, half, piece in pieces_of(wholes)}
    whole, cut = AdamW(config, parts_of(wholes)), AdamW(config, cut_parts(cuts))
    for step in range(1, 6):
        gradients = {name: tensor.cuda() for name, tensor in random_tensors(step).items()}
        clip_(list(gradients.values()), exact_norm(list(gradients.values()), World(device=torch.device("cuda"))), 1.0)
        whole.step(gradients, 1e-2 / step)
        cut.step({f"{name}.{half}": piece.clone() for name, half, piece in pieces_of(gradients)}, 1e-2 / step)
    for name, half, piece in pieces_of(wholes):
        assert torch.equal(piece, cuts[f"{name}.{half}"]), name


def pieces_of(tensors: dict[str, torch.Tensor]) -> list[tuple[str, int, torch.Tensor]]:
    """Each tensor in two pieces: the first third of its rows, and the others."""
    cut = {name: len(tensor) // 3 for name, tensor in tensors.items()}
    return [
        (name, half, tensor[: cut[name]] if half == 0 else tensor[cut[name] :])
        for name, tensor in tensors.items()
        for half in (0, 1)
    ]


def cut_parts(cuts: dict[str, torch.Tensor]) -> list[Part]:
    """Parts with the shapes of whole tensors, which decide on weight decay."""
    return [Part(name, piece, SHAPES[name.split(".")[0]]) for name, piece in cuts.items()]


@needs_two_gpus
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shard_size", [1, 2])
def test_two_gpus_give_the_ledger_of_one(corpus: Path, tmp_path: Path, precision: str, shard_size: int) -> None:
    one = small_jobs.results(started(corpus, tmp_path / "one", 1, precision=precision))
    assert small_jobs.results(started(corpus, tmp_path / "two", 2, shard_size, precision=precision)) == one


@needs_two_gpus
@pytest.mark.parametrize("layout", [{"tensor_size": 2}, {"shard_size": 2, "context_size": 2}])
def test_two_gpus_compute_windows_together(corpus: Path, tmp_path: Path, layout: dict[str, int]) -> None:
    changes = {"model": tiny_runs.LLAMA | {"fields": tiny_runs.LLAMA["fields"] | {"num_key_value_heads": 2}}}  # type: ignore[operator]
    numbers = []
    for name, sizes in (("one", {"num_processes": 1}), ("two", {"num_processes": 2, **layout})):
        config = tiny_runs.pretrain_config(**changes, reduction="native", execution={"device": "cuda", **sizes})
        launch(tiny_runs.make_job("pretrain", config, corpus, tmp_path / name), sizes["num_processes"], 1)
        first = next(record for record in read_chain(tmp_path / name / "ledger.jsonl") if record["kind"] == "step")
        numbers.append([float.fromhex(first[field]) for field in ("loss", "gradient_norm")])
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


def test_more_processes_than_gpus_are_refused(corpus: Path, tmp_path: Path) -> None:
    wanted = 2 * torch.cuda.device_count()
    with pytest.raises(ConfigError, match="processes on a machine with") as caught:
        started(corpus, tmp_path / "run", wanted)
    assert "execution.device to cpu" in str(caught.value)


def test_the_driver_counts_the_gpus_that_a_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    count = "from train.jobs import num_gpus; print(num_gpus())"
    assert num_gpus() == torch.cuda.device_count()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert subprocess.run([sys.executable, "-c", count], capture_output=True, check=True).stdout == b"0\n"
