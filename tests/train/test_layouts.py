"""One recipe at many layouts of processes: every result file equal, byte for byte. No size divides by anything."""

from pathlib import Path
from typing import Any

import gloo_processes
import pytest
import tiny_runs
import torch

from train.loop import run_job

MOE = {
    "model_type": "deepseek_v3",
    "router_bias_update_rate": 0.01,
    "fields": {
        "hidden_size": 66,
        "intermediate_size": 90,
        "moe_intermediate_size": 35,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "n_routed_experts": 6,
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
        "attention_dropout": 0.1,
        "tie_word_embeddings": False,
    },
}
MUON = {"name": "muon", "peak_learning_rate": 5e-3, "max_gradient_norm": 0.5}
MASKED = {**tiny_runs.pretrain_values()["data"], "document_masking": True}

RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "muon": {"optimizer": MUON, "loss": {"z_loss": 1e-4}},
    "moe": {"model": MOE},
    "moe-bf16-muon-chunks": {"model": MOE, "precision": "bf16", "optimizer": MUON, "loss": {"chunk_tokens": 17}},
    "chunks-masked": {"model": tiny_runs.LLAMA, "loss": {"chunk_tokens": 17, "z_loss": 1e-4}, "data": MASKED},
}
ALL_LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 2), (8, 1), (8, 8)]
SOME_LAYOUTS = [(1, 1), (4, 2), (8, 8)]
SHORT: dict[str, Any] = {
    "phases": [{"num_steps": 3, "sequences_per_step": 8}, {"num_steps": 2, "sequences_per_step": 16}],
    "schedule": {"warmup_steps": 2, "decay_steps": 2},
    "checkpoints": {"weights_until_step": 2, "full_every_steps": 3, "max_file_bytes": 90_000},
}
OBSERVED = {"journal.jsonl", "environment.json", "accelerate.yaml"}


def train(
    rank: int, size: int, shard_size: int, corpus: Path, run_dir: Path, changes: dict[str, Any], last_step: int = 0
) -> None:
    """One process of a job at a layout."""
    torch.use_deterministic_algorithms(True)
    execution = {"num_processes": size, "shard_size": shard_size, **changes.get("execution", {})}
    config = tiny_runs.pretrain_config(**{**changes, "execution": execution})
    job = tiny_runs.make_job("pretrain", config, corpus, run_dir)
    with gloo_processes.joined(rank, size, shard_size, run_dir.with_suffix(f".{size}-{shard_size}")) as layout:
        run_job(job, layout)


def results(run_dir: Path) -> dict[str, bytes]:
    """Bytes of every result file of a run."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name not in OBSERVED]
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.make_corpus(tmp_path_factory.mktemp("corpus")).path


def run(corpus: Path, run_dir: Path, size: int, shard_size: int, changes: dict[str, Any]) -> dict[str, bytes]:
    run_dir.mkdir(parents=True, exist_ok=True)
    gloo_processes.run_processes(train, size, size, shard_size, corpus, run_dir, changes)
    return results(run_dir)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_layout_gives_the_same_bytes(corpus: Path, tmp_path: Path, recipe: str) -> None:
    layouts = ALL_LAYOUTS if recipe in ("fp32", "moe-bf16-muon-chunks") else SOME_LAYOUTS
    changes = {**SHORT, **RECIPES[recipe]}
    found = {layout: run(corpus, tmp_path / "{}-{}".format(*layout), *layout, changes) for layout in layouts}
    straight = found.pop((1, 1))
    assert len(straight) > 10
    for layout, files in found.items():
        different = [name for name in {**straight, **files} if straight.get(name) != files.get(name)]
        assert different == [], layout
