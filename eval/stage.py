"""The stage `eval`: items from held-out projects, lm-eval over the models, samples, baselines, the table.

The stage's directory is specified in `docs/formats.md` under "Evaluation".
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from eval.baselines import measure_baselines
from eval.harness import HarnessSettings, ModelJob, run_harness
from eval.heldout import heldout_digests, read_documents, read_functions
from eval.items import cloze_items, docstring_items, text_items
from eval.record import evaluation_record, num_fewshot
from eval.rescore import rebuild_results, rescore
from eval.samples import inputs_digest, read_items, read_samples, sample_line
from eval.scoring import plain_scores
from eval.settings import EvalConfig
from eval.tasks import (
    BITS_PER_BYTE,
    CLOZE,
    DOCSTRING_CHOICE,
    DOCSTRING_CHOICE_CHAT,
    TASKS,
    Task,
    write_tasks,
)
from provenance.artifacts import Artifact
from provenance.canonical import Json, parse_hex_float, read_json, write_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.environment import environment_record
from provenance.errors import EvaluationError
from provenance.ledger import Journal
from provenance.made_model import made_model
from provenance.stage import StageContext, StageSpec, run_stage

SPEC = StageSpec(
    kind="eval",
    packages=("provenance", "data_recipes", "eval"),
    libraries=("datasets", "lm-eval", "numpy", "pyarrow", "tokenizers", "torch", "transformers"),
)

AGREEMENT = 1e-9
"""Largest relative difference between our scores and lm-eval's own aggregates."""


def evaluate(config: EvalConfig, context: StageContext, corpus: Artifact, models: Mapping[str, Artifact]) -> Artifact:
    """Evaluate what stages made, their final weights, on the corpus's held-out projects.

    Args:
        config: what to evaluate and how.
        context: the release.
        corpus: artifact of the stage `corpus`.
        models: artifacts of the stages that make models, by name; those that the config names are evaluated.

    Raises:
        EvaluationError: for a missing model, no held-out text, too few items, a failure of lm-eval, or scores that
            disagree with lm-eval's.
    """
    checkpoints = {name: _final_checkpoint(name, models) for name in config.models}
    parents = [corpus.as_parent("corpus"), *(models[name].as_parent(name) for name in config.models)]

    def body(work: Path) -> None:
        _evaluate(config, corpus, {name: models[name] for name in config.models}, checkpoints, work)

    return run_stage(context, SPEC, recipe_of(config), parents, body)


def _evaluate(
    config: EvalConfig, corpus: Artifact, models: Mapping[str, Artifact], checkpoints: Mapping[str, Path], work: Path
) -> None:
    for left_over in work.iterdir():
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
    journal = Journal(work / "journal.jsonl")
    journal.note("start")
    _write_items(config, corpus.path, work / "tasks")
    started = time.monotonic()
    items = read_items(work / "tasks" / f"{BITS_PER_BYTE}.jsonl")
    write_json(work / "baselines.json", measure_baselines(corpus.path, items, config.baselines, config.intervals))
    journal.note("baselines", seconds=f"{time.monotonic() - started:.1f}")
    jobs = [ModelJob(name, checkpoints[name], _tasks_for(name, config)) for name in config.models]
    settings = HarnessSettings(
        config.seed, config.context_tokens, config.batch_size, config.dtype, config.threads_per_process
    )
    outputs = run_harness(jobs, settings, work / "tasks", _num_processes(config))
    for job in jobs:
        for task in job.tasks:
            _write_samples(work, job.name, task, outputs[job.name]["tasks"][task.name])
        journal.note("model", model=job.name, seconds=f"{outputs[job.name]['seconds']:.1f}")
    digests = heldout_digests(corpus.path)
    record = evaluation_record(config, work, corpus, digests, models, jobs, outputs)
    write_json(work / "record.json", record)
    (work / "results.json").write_bytes(rebuild_results(work, record))
    rescore(work)
    platforms = {job.name: outputs[job.name]["platform"] for job in jobs}
    write_json(work / "environment.json", environment_record() | {"workers": platforms})
    journal.note("finish")
    journal.close()
    _show(work)


def _final_checkpoint(name: str, models: Mapping[str, Artifact]) -> Path:
    if name not in models:
        raise EvaluationError(
            f"there is no model {name}",
            expected=f"one of {', '.join(sorted(models)) or 'none'}",
            where="eval.yaml: models",
            next_command="add the stage to release.yaml, or take the model out of eval.yaml",
        )
    artifact = models[name]
    path = artifact.path / made_model(artifact.path).path
    if not (path / "config.json").is_file():
        raise EvaluationError(
            f"model {name} has no final checkpoint",
            expected="a directory that from_pretrained loads",
            where=str(path),
            next_command="openwright run CONFIG_DIR",
        )
    return path


def _write_items(config: EvalConfig, corpus: Path, tasks_dir: Path) -> None:
    documents, functions = read_documents(corpus, config.forget), read_functions(corpus, config.forget)
    items = {BITS_PER_BYTE: text_items(documents, config.bits_per_byte, config.seed)}
    if config.docstring_choice is not None:
        items[DOCSTRING_CHOICE] = docstring_items(functions, config.docstring_choice, config.seed)
    if config.cloze is not None:
        items[CLOZE] = cloze_items(documents, config.cloze, config.seed)
    write_tasks(tasks_dir, items, num_fewshot(config), config.min_items)
    fact("items: " + ", ".join(f"{len(rows)} {name.removeprefix('openwright_')}" for name, rows in items.items()))


def _tasks_for(model: str, config: EvalConfig) -> tuple[Task, ...]:
    tasks = [TASKS[BITS_PER_BYTE]]
    if config.docstring_choice is not None:
        in_chat = model in config.docstring_choice.chat_models
        tasks.append(TASKS[DOCSTRING_CHOICE_CHAT if in_chat else DOCSTRING_CHOICE])
    if config.cloze is not None:
        tasks.append(TASKS[CLOZE])
    return tuple(tasks)


def _num_processes(config: EvalConfig) -> int:
    return config.execution.num_processes or min(2, len(os.sched_getaffinity(0)))


def _write_samples(work: Path, model: str, task: Task, output: Json) -> None:
    """Write the samples of a model on a task and check that our scores are lm-eval's."""
    items = read_items(work / "tasks" / f"{task.items}.jsonl")
    path = work / "samples" / model / f"{task.name}.jsonl"
    if [sample["item_id"] for sample in output["samples"]] != [item["item_id"] for item in items]:
        raise EvaluationError("lm-eval answered other items than were asked", where=str(path))
    lines = [sample_line(_sample(item, found)) for item, found in zip(items, output["samples"], strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    for metric, value in plain_scores(read_samples(path)).items():
        theirs = parse_hex_float(output["aggregates"][metric])
        if abs(value - theirs) > AGREEMENT * max(1.0, abs(theirs)):
            raise EvaluationError(
                f"{metric} of {model} on {task.name} is {value!r} from the samples",
                expected=f"lm-eval's aggregate {theirs!r}",
                where=str(path),
            )


def _sample(item: Json, found: Json) -> dict[str, Json]:
    common = {"item_id": item["item_id"], "inputs_digest": inputs_digest(found["rendered"])}
    loglikelihoods = [output["loglikelihood"] for output in found["outputs"]]
    if "text" in item:
        return common | {"num_bytes": len(item["text"].encode("utf-8")), "loglikelihood": loglikelihoods[0]}
    return common | {
        "answer": item["answer"],
        "choice_num_characters": [len(choice) for choice in item["choices"]],
        "loglikelihoods": loglikelihoods,
        "is_greedy": [output["is_greedy"] for output in found["outputs"]],
    }


def _show(work: Path) -> None:
    for row in read_json(work / "results.json")["rows"]:
        value, low, high = (parse_hex_float(row[key]) for key in ("value", "low", "high"))
        name = f"{row['model']} {row['task'].removeprefix('openwright_')} {row['metric']}"
        fact(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}], {row['verdict']}")
