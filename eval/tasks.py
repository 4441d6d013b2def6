"""Our tasks as lm-eval task files: one YAML and one JSON lines file each, readable with `--include_path`.

The YAML names columns, never templates or code. Names are stable; a change of meaning raises VERSION.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from eval.items import NUM_CHOICES
from provenance.canonical import Json, canonical_json
from provenance.errors import EvaluationError

VERSION = 1
BITS_PER_BYTE = "openwright_bits_per_byte"
DOCSTRING_CHOICE = "openwright_docstring_choice"
DOCSTRING_CHOICE_CHAT = "openwright_docstring_choice_chat"
CLOZE = "openwright_cloze"


@dataclass(frozen=True)
class Task:
    """A task of ours.

    Attributes:
        name: its name in lm-eval.
        items: JSON lines file that it reads, without suffix.
        prompt_column: column that is shown; empty for bits per byte.
        separator: what stands between the prompt and a choice in plain text.
        chat: whether the prompt is rendered with the chat template.
    """

    name: str
    items: str
    prompt_column: str = ""
    separator: str = ""
    chat: bool = False


TASKS = {
    task.name: task
    for task in (
        Task(BITS_PER_BYTE, BITS_PER_BYTE),
        Task(DOCSTRING_CHOICE, DOCSTRING_CHOICE, "prompt", "\n\n"),
        Task(DOCSTRING_CHOICE_CHAT, DOCSTRING_CHOICE, "question", "", chat=True),
        Task(CLOZE, CLOZE, "prompt", " "),
    )
}
"""All tasks, in the order of the table."""

_OR_LEAVE_OUT = {
    DOCSTRING_CHOICE: ", or leave the task out where no function is documented: docstring_choice: null",
    CLOZE: ", or leave the task out: cloze: null",
}


def write_tasks(
    folder: Path, items: Mapping[str, Sequence[Json]], num_fewshot: Mapping[str, int], min_items: int
) -> None:
    """Write the YAML of the tasks that are asked and the items they read.

    Args:
        folder: the artifact's `tasks/`.
        items: by items file, of tasks that are asked; the first `num_fewshot` of them are shown solved, never asked.
        num_fewshot: by items file.
        min_items: fewest items that a task may ask.

    Raises:
        EvaluationError: when a task has too few items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in items.items():
        shown = num_fewshot.get(name, 0)
        if len(rows) - shown < min_items:
            raise EvaluationError(
                f"task {name} has {max(0, len(rows) - shown)} items from the held-out projects",
                expected=f"at least {min_items}",
                where="eval.yaml: min_items",
                next_command=f"hold out more in corpus.yaml, lower min_items{_OR_LEAVE_OUT.get(name, '')}",
            )
        _write_rows(folder / f"{name}.jsonl", rows[shown:])
        if shown:
            _write_rows(folder / f"{name}_fewshot.jsonl", rows[:shown])
    for task in TASKS.values():
        if task.items not in items:
            continue
        config = _task_config(task, num_fewshot.get(task.items, 0))
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (folder / f"{task.name}.yaml").write_text(text, encoding="utf-8")


def _write_rows(path: Path, rows: Sequence[Json]) -> None:
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))


def _task_config(task: Task, num_fewshot: int) -> dict[str, Json]:
    files = {"test": f"{task.items}.jsonl"}
    config: dict[str, Json] = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
    }
    if not task.prompt_column:
        config |= {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
        }
    else:
        config |= {
            "output_type": "multiple_choice",
            "doc_to_text": task.prompt_column,
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": task.separator,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
        }
    if num_fewshot:
        files["fewshot"] = f"{task.items}_fewshot.jsonl"
        config |= {"fewshot_split": "fewshot", "fewshot_config": {"sampler": "first_n"}}
    config |= {"num_fewshot": num_fewshot}
    num_choices = NUM_CHOICES if task.prompt_column else 0
    return config | {"metadata": {"version": VERSION, "num_choices": num_choices, "chat": task.chat}}
