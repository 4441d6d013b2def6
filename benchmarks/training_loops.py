"""The contenders: our loop, a bare PyTorch loop (under DDP where there are processes), and transformers' Trainer.

Each is a function that trains from the first step to the last and calls `after_step` after every optimizer step. All
have the same model and read the same windows in the same micro-batches: one to a logical replica of the recipe.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from training_workload import make_job, plain_model, read_windows
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from train.batch import read_batch
from train.gradients import clip_
from train.layout import Layout
from train.loop import TrainingRun, run_steps
from train.settings import OptimizerConfig, PretrainConfig

AfterStep = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """What a contender trains, and where; `directory` is its own, seen by all processes."""

    config: PretrainConfig
    corpus: Path
    directory: Path
    layout: Layout


def our_loop(work: Work, after_step: AfterStep) -> None:
    """A whole job as `train.worker` runs it: ledger, journal, digests, checksums and checkpoints on."""
    job = make_job(work.config, work.corpus, work.directory)
    run_steps(TrainingRun(job, work.layout), [lambda *_: after_step()])


def our_steps_alone(work: Work, after_step: AfterStep) -> None:
    """Our passes, exact reduction, clipping and optimizer, without any record."""
    run = TrainingRun(make_job(work.config, work.corpus, work.directory), work.layout)
    for step in range(1, work.config.num_steps + 1):
        _our_step(run, step)
        after_step()


def _our_step(run: TrainingRun, step: int) -> None:
    optimizer = run.config.optimizer
    run.prepared.refresh()
    gradients = run.gradients.compute(read_batch(run.windows, run.order, step))
    clip_(list(gradients.by_name.values()), gradients.norm, optimizer.max_gradient_norm)
    run.optimizer.step(gradients.by_name, optimizer.peak_learning_rate)


def bare_loop(work: Work, after_step: AfterStep, *, fused: bool | None = None) -> None:
    """Forward, backward, `clip_grad_norm_`, AdamW, nothing else; with processes under DDP and `no_sync`.

    Args:
        fused: torch's fused AdamW; None takes torch's default, which on CPUs is a loop over tensors.
    """
    config, world = work.config, work.layout.world
    windows = read_windows(config, work.corpus).to(world.device)
    model = plain_model(config, work.corpus).to(world.device)
    optimizer = _adamw(model, config.optimizer, fused)
    trained = DistributedDataParallel(model, gradient_as_bucket_view=True) if world.size > 1 else model
    share = config.num_logical_replicas // world.size
    for ids_BT in windows:
        for number, part_BT in enumerate(ids_BT.chunk(world.size)[world.rank].chunk(share)):
            is_last = number == share - 1
            with nullcontext() if is_last or world.size == 1 else trained.no_sync():
                with _precision(config, world.device):
                    logits_BTV = trained(input_ids=part_BT[:, :-1], use_cache=False).logits
                loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), part_BT[:, 1:].flatten()) / share
                torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        after_step()


def _precision(config: PretrainConfig, device: torch.device) -> AbstractContextManager[None]:
    """fp32, or torch's autocast to bf16: what a plain loop does."""
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


def fused_bare_loop(work: Work, after_step: AfterStep) -> None:
    """The bare loop with fused AdamW."""
    bare_loop(work, after_step, fused=True)


def _adamw(model: nn.Module, config: OptimizerConfig, fused: bool | None) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.peak_learning_rate, betas=betas, eps=config.epsilon, fused=fused)


class _Rows(Dataset[dict[str, torch.Tensor]]):
    """Windows as the Trainer takes them: the model shifts the labels by itself."""

    def __init__(self, windows: torch.Tensor) -> None:
        self._rows_NT = windows.flatten(0, 1)[:, :-1].contiguous()

    def __len__(self) -> int:
        return len(self._rows_NT)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows_NT[index], "labels": self._rows_NT[index]}


class _AfterStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    def __init__(self, after_step: AfterStep) -> None:
        self._after_step = after_step

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._after_step()


def trainer_loop(work: Work, after_step: AfterStep) -> None:
    """transformers' Trainer with its own default optimizer (fused AdamW), no logging, no evaluation, no saving.

    Its bf16 is autocast: every product casts its weights, where ours are cast once for each pass.
    """
    config, optimizer = work.config, work.config.optimizer
    windows = read_windows(config, work.corpus)
    arguments = TrainingArguments(
        output_dir=str(work.directory),
        per_device_train_batch_size=windows.shape[1] // config.num_logical_replicas,
        gradient_accumulation_steps=config.num_logical_replicas,
        max_steps=config.num_steps,
        learning_rate=optimizer.peak_learning_rate,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_gradient_norm,
        lr_scheduler_type="constant",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=work.layout.world.device.type == "cpu",
        torch_compile=config.compile,
        bf16=config.precision == "bf16",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=plain_model(config, work.corpus),
        args=arguments,
        train_dataset=_Rows(windows),
        callbacks=[_AfterStep(after_step)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
