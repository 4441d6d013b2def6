"""Training on one GPU: tokens per second against a bare loop and the Trainer, MFU, checkpoints, peak memory.

A Llama style model of 0.4 billion parameters in bf16, which fills a large GPU's units and not its memory. No checkpoint
falls into the blocks of the speeds: one of this model is written in seconds, and real runs make one in some hundred
steps. What one costs is measured by itself.
"""

import os
from pathlib import Path
from statistics import median

import torch
from figures import Figure, make_figure
from training_checkpoints import LATE_STEP, StepwiseRun, checkpoint_seconds, compare_checkpoints
from training_loops import Work, fused_bare_loop, our_loop, trainer_loop
from training_speed import LoopAndRecipe, SpeedOptions, speed_figure, take_turns
from training_workload import NEVER, load_workload, write_corpus

from provenance.ledger import read_chain
from train.accounting import meta_model, model_shape
from train.layout import Layout, World
from train.memory import measure_activations, memory_parts, peak_bytes
from train.settings import PretrainConfig
from train.worker import be_deterministic

VOCAB_SIZE, WINDOW_TOKENS, WINDOWS_PER_STEP, NUM_PASSES = 50_304, 2048, 32, 4
STEPS_OF_A_CHECKPOINT = 16
"""While one is written; with fewer the loop would end by waiting for the disk."""

TOKENS_PER_STEP = WINDOWS_PER_STEP * WINDOW_TOKENS
MODEL = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": WINDOW_TOKENS,
    "tie_word_embeddings": "false",
}
RECIPE = (
    f"model={{model_type: llama, fields: {{{', '.join(f'{name}: {value}' for name, value in MODEL.items())}}}}}",
    f"data.window_tokens={WINDOW_TOKENS}",
    f"num_logical_replicas={NUM_PASSES}",
    f"checkpoints={{weights_until_step: 0, full_every_steps: {NEVER}}}",
    "optimizer.peak_learning_rate=0.0003",
    "precision=bf16",
    "execution.device=cuda",
)
FASTEST = ("loss.chunk_tokens=2048", "compile=true")
COMPILED = ("compile=true",)
LOOPS: dict[str, LoopAndRecipe] = {
    "ours": (our_loop, ()),
    "bare, fused": (fused_bare_loop, ()),
    "Trainer": (trainer_loop, ()),
    "ours, fastest": (our_loop, FASTEST),
    "Trainer, compiled": (trainer_loop, COMPILED),
}


def gpu_workload(num_steps: int, *overrides: str) -> PretrainConfig:
    """The recipe over some steps."""
    phases = f"phases=[{{num_steps: {num_steps}, sequences_per_step: {WINDOWS_PER_STEP}, mixture: proportional}}]"
    return load_workload(num_steps, *RECIPE, phases, *overrides)


def gpu_figures(directory: Path, pairs: int, block_steps: int) -> list[Figure]:
    """Figures of one GPU."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as the launcher sets it
    be_deterministic(1)
    corpus, layout = directory / "gpu-corpus", Layout(World(device=torch.device("cuda")))
    write_corpus(corpus, vocab_size=VOCAB_SIZE)
    options = SpeedOptions(pairs, block_steps, processor_time=False)
    seconds = take_turns(LOOPS, gpu_workload, layout, corpus, directory, options)

    def compare(figure: str, ours: str, peer: str, at_least: float) -> Figure:
        num_tokens = block_steps * TOKENS_PER_STEP
        return speed_figure(figure, seconds[ours], seconds[peer], num_tokens, "tokens/s", at_least)

    return [
        compare("1. GPU, bf16, against a bare autocast loop, fused AdamW", "ours", "bare, fused", 0.97),
        compare("2. GPU, bf16, against Trainer", "ours", "Trainer", 1.0),
        compare("2. GPU, bf16, chunked loss, compiled, against Trainer", "ours, fastest", "Trainer", 1.2),
        compare("2. GPU, bf16, the same against Trainer, compiled", "ours, fastest", "Trainer, compiled", 1.0),
        *(_utilisation(directory / name, name) for name in ("ours", "ours, fastest")),
    ]


def _utilisation(run_dir: Path, name: str) -> Figure:
    """Median MFU of a run's steps as its journal has it; of no peer."""
    found = [float.fromhex(r["mfu"]) for r in read_chain(run_dir / "journal.jsonl") if "mfu" in r]
    return make_figure(f"GPU, bf16, model FLOP utilisation, {name}", median(found), 1.0, runs=len(found))


def gpu_checkpoint_figures(directory: Path, pairs: int) -> list[Figure]:
    """What a full checkpoint costs the loop on one GPU."""
    corpus, layout = directory / "gpu-corpus", Layout(World(device=torch.device("cuda")))
    run = StepwiseRun(layout, corpus, directory / "checkpoints", gpu_workload(2 * LATE_STEP))
    seconds = checkpoint_seconds(run, pairs, STEPS_OF_A_CHECKPOINT)
    run.run.close()
    return compare_checkpoints("4. GPU, full checkpoint, seconds", seconds)


def gpu_memory_figures(directory: Path) -> list[Figure]:
    """Peak memory of our steps on one GPU, against what `openwright plan` says."""
    corpus, layout = directory / "gpu-corpus", Layout(World(device=torch.device("cuda")))
    config = gpu_workload(3, *FASTEST[:1])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    our_loop(Work(config, corpus, directory / "memory", layout), lambda: None)
    peak = torch.cuda.max_memory_allocated() - before
    shape = model_shape(meta_model(config.model, VOCAB_SIZE, WINDOW_TOKENS))
    activations = measure_activations(config.model, config.precision, VOCAB_SIZE, WINDOW_TOKENS)
    planned = peak_bytes(memory_parts(shape, config, activations, 1, 1))[0]
    return [make_figure("6. GPU, peak GiB, against plan", peak / 2**30, planned / 2**30, runs=1, near_one=0.1)]
