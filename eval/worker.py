"""One model through lm-eval, in a process of its own: `provenance.program eval.worker JOB.json OUTPUT.json`.

The job names a checkpoint directory and tasks; the output holds, for each task, what lm-eval was given and what it
answered for every item, and its own aggregates, as hexadecimal floats. The process that starts this one sets the
library variables (threads, caches, offline) and the working directory, which is the directory of the task files.
"""

import random
import sys
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from eval.harness import PROGRESS_MARK
from provenance.canonical import Json, hex_float, read_json, write_json
from provenance.digests import sha256_bytes
from provenance.environment import platform_record


def evaluate(job_path: Path, output_path: Path) -> None:
    """Evaluate the model of a job on its tasks, one after the other."""
    job = read_json(job_path)
    torch.set_num_threads(job["num_threads"])
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    model = HFLM(
        pretrained=job["checkpoint"],
        backend="causal",
        device="cpu",
        dtype=job["dtype"],
        batch_size=job["batch_size"],
        max_length=job["context_tokens"],
        attn_implementation=job["attention"],
    )
    limit = model.model.config.max_position_embeddings
    if limit < job["context_tokens"]:
        raise SystemExit(f"context_tokens is {job['context_tokens']}, the model takes {limit} tokens")
    manager = TaskManager(include_path=str(Path.cwd()), include_defaults=False)
    results = {}
    for task in job["tasks"]:
        if task["chat"] and not model.tokenizer.chat_template:
            raise SystemExit(f"{task['name']} is asked in chat format and the tokenizer has no chat template")
        results[task["name"]] = _run_task(model, manager, task, job["seed"])
        print(f"{PROGRESS_MARK}{task['name']}", flush=True)
    template = model.tokenizer.chat_template or ""
    write_json(
        output_path,
        {
            "tasks": results,
            "chat_template_sha256": sha256_bytes(template.encode()) if template else None,
            "prefix_token_id": int(model.prefix_token_id),
            "platform": platform_record(),
        },
    )


def _run_task(model: HFLM, manager: TaskManager, task: dict[str, Any], seed: int) -> Json:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    loaded = manager.load([task["name"]])
    for entry in loaded["tasks"].values():
        entry.set_fewshot_seed(seed=seed)
    outcome = lm_eval.evaluator.evaluate(
        lm=model,
        task_dict=loaded,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=task["chat"],
        fewshot_as_multiturn=task["chat"],
    )
    aggregates = {
        name.removesuffix(",none"): hex_float(value)
        for name, value in outcome["results"][task["name"]].items()
        if name.endswith(",none") and "_stderr" not in name
    }
    samples = [
        {
            "item_id": sample["doc"]["item_id"],
            "rendered": [[str(text) for text in arguments] for arguments in sample["arguments"]],
            "outputs": [_output(responses[0]) for responses in sample["resps"]],
        }
        for sample in outcome["samples"][task["name"]]
    ]
    return {"aggregates": aggregates, "samples": samples}


def _output(response: Any) -> Json:
    """A log-likelihood, with the flag for a greedy match where lm-eval gives one."""
    if isinstance(response, tuple):
        return {"loglikelihood": hex_float(response[0]), "is_greedy": bool(response[1])}
    return {"loglikelihood": hex_float(response)}


def main() -> None:
    """Evaluate the model of the job that the first argument names; the output goes to the second."""
    evaluate(Path(sys.argv[1]), Path(sys.argv[2]))
