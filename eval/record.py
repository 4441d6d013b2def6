"""`record.json`: what was evaluated with what, so that two tables can be compared and a re-run knows what to repeat."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.harness import ATTENTION, ModelJob
from eval.settings import EvalConfig
from eval.tasks import CLOZE, DOCSTRING_CHOICE, TASKS, VERSION
from provenance.artifacts import Artifact
from provenance.canonical import Json, read_json
from provenance.digests import hash_files, sha256_file
from provenance.errors import EvaluationError
from provenance.fingerprint import library_versions
from provenance.made_model import made_model

EVALUATION_FORMAT = "openwright-evaluation/1"
LIBRARIES = ("accelerate", "datasets", "lm-eval", "numpy", "pyarrow", "tokenizers", "torch", "transformers")
REQUEST_ORDER = "lm-eval: choices by descending number of tokens, then token ids; documents in item order"


def evaluation_record(
    config: EvalConfig,
    work: Path,
    corpus: Artifact,
    heldout: Mapping[str, str],
    models: Mapping[str, Artifact],
    jobs: Sequence[ModelJob],
    outputs: Mapping[str, Json],
) -> Json:
    """Build the value of `record.json` from a directory that holds tasks, samples and baselines.

    Args:
        work: the artifact's directory.
        heldout: sha256 of the corpus files that items were made from.
        outputs: what `run_harness` returned.
    """
    used = {task.name for job in jobs for task in job.tasks}
    return {
        "format": EVALUATION_FORMAT,
        "harness": {"name": "lm-eval", "version": library_versions(["lm-eval"])["lm-eval"], "model_class": "HFLM"},
        "libraries": library_versions(LIBRARIES),
        "corpus": {
            "content_digest": corpus.content_digest,
            "heldout_files": dict(sorted(heldout.items())),
            "tokenizer_sha256": sha256_file(corpus.path / "tokenizer" / "tokenizer.json"),
        },
        "models": [_model(job, models[job.name], outputs[job.name]) for job in jobs],
        "tasks": {name: _task(name, config) for name in TASKS if name in used},
        "seed": config.seed,
        "dtype": config.dtype,
        "attention": ATTENTION,
        "context_tokens": config.context_tokens,
        "batch_size": config.batch_size,
        "request_order": REQUEST_ORDER,
        "device": "cpu",
        "num_threads": config.threads_per_process,
        "intervals": {
            "level": "95%",
            "accuracy": "wilson",
            "bits_per_byte": "percentile bootstrap of documents, splitmix64",
            "num_resamples": config.intervals.num_resamples,
            "seed": config.intervals.seed,
        },
        "files": _files(work),
    }


def _model(job: ModelJob, artifact: Artifact, output: Json) -> Json:
    made = made_model(artifact.path)
    if made.step is not None:  # an average is no checkpoint of a step: its own record alone says what it is
        checkpoint = read_json(job.checkpoint / "checkpoint.json")
        if checkpoint["weights_digest"] != made.weights_digest:
            raise EvaluationError(
                f"the final checkpoint of {job.name} has weights {checkpoint['weights_digest']}",
                expected=f"{made.weights_digest}, as run.json says",
                where=str(job.checkpoint),
            )
    files = [path for path in job.checkpoint.iterdir() if path.name.startswith("model") or path.name == "config.json"]
    return {
        "name": job.name,
        "content_digest": artifact.content_digest,
        "checkpoint": made.path,
        "step": made.step,
        "weights_digest": made.weights_digest,
        "files": {entry.path: entry.sha256 for entry in hash_files(job.checkpoint, files)},
        "tokenizer_sha256": sha256_file(job.checkpoint / "tokenizer.json"),
        "chat_template_sha256": output["chat_template_sha256"],
        "prefix_token_id": output["prefix_token_id"],
        "tasks": [task.name for task in job.tasks],
    }


def num_fewshot(config: EvalConfig) -> dict[str, int]:
    """Solved items that are shown first, by the items of the tasks of choice that are asked."""
    choices = {DOCSTRING_CHOICE: config.docstring_choice, CLOZE: config.cloze}
    return {items: task.num_fewshot for items, task in choices.items() if task is not None}


def _task(name: str, config: EvalConfig) -> Json:
    task = TASKS[name]
    return {
        "version": VERSION,
        "items": f"{task.items}.jsonl",
        "num_fewshot": num_fewshot(config).get(task.items, 0),
        "chat": task.chat,
    }


def _files(work: Path) -> dict[str, str]:
    """sha256 of everything that the table is made from."""
    paths = [path for folder in ("tasks", "samples") for path in (work / folder).rglob("*") if path.is_file()]
    return {entry.path: entry.sha256 for entry in hash_files(work, [*paths, work / "baselines.json"])}
