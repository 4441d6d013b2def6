"""A tiny evaluation by the formats page: two tasks, made-up samples, the table that follows from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.rescore import rebuild_results
from eval.samples import sample_line
from provenance.artifacts import Artifact
from provenance.canonical import canonical_json, hex_float, write_json
from provenance.digests import sha256_file
from provenance.made_model import made_model


def write_evaluation(work: Path, texts: Sequence[str], corpus: Artifact, runs: Mapping[str, Artifact]) -> None:
    """Write the files of an evaluation of `runs` on held-out texts."""
    bits_items = [{"item_id": f"text-{n}", "text": text} for n, text in enumerate(texts)]
    choices = ["returns a value", "raises an error", "prints το όνομα", "closes the file"]
    choice_items = [{"item_id": f"choice-{n}", "choices": choices, "answer": n % 4, "prompt": "f()"} for n in range(8)]
    tasks = {"openwright_bits_per_byte": bits_items, "openwright_docstring_choice": choice_items}
    (work / "tasks").mkdir(parents=True)
    for name, items in tasks.items():
        lines = b"".join(canonical_json(item) + b"\n" for item in items)
        (work / "tasks" / f"{name}.jsonl").write_bytes(lines)
        (work / "tasks" / f"{name}.yaml").write_text(f"task: {name}\n")
    for number, model in enumerate(runs):
        _write_samples(work / "samples" / model, bits_items, choice_items, number)
    write_json(work / "baselines.json", _baselines(texts))
    record = _record(work, corpus, runs, list(tasks))
    write_json(work / "record.json", record)
    (work / "results.json").write_bytes(rebuild_results(work, record))


def _write_samples(folder: Path, texts: Sequence[Any], questions: Sequence[Any], shift: int) -> None:
    folder.mkdir(parents=True)
    lines = [
        sample_line(
            {
                "item_id": item["item_id"],
                "inputs_digest": "3" * 64,
                "num_bytes": len(item["text"].encode()),
                "loglikelihood": hex_float(-len(item["text"].encode()) * (1.7 - 0.2 * shift) - number),
            }
        )
        for number, item in enumerate(texts)
    ]
    (folder / "openwright_bits_per_byte.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    lines = [
        sample_line(
            {
                "item_id": item["item_id"],
                "inputs_digest": "4" * 64,
                "answer": item["answer"],
                "choice_num_characters": [len(choice) for choice in item["choices"]],
                "loglikelihoods": [hex_float(-10.0 - (number + place + shift) % 4) for place in range(4)],
                "is_greedy": [False] * 4,
            }
        )
        for number, item in enumerate(questions)
    ]
    (folder / "openwright_docstring_choice.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _baselines(texts: Sequence[str]) -> dict[str, Any]:
    sizes = [len(text.encode()) for text in texts]
    rows = []
    for name, per_byte in (("unigram", 3.1), ("trigram", 2.3), ("gzip", 2.9), ("xz", 2.8)):
        bits = [hex_float(per_byte * n) for n in sizes] if name.endswith("gram") else None
        values = {"value": hex_float(per_byte), "low": None, "high": None, "document_bits": bits}
        rows.append({"name": name, "metric": "bits_per_byte", **values, "compressed_bytes": None})
    return {"format": "openwright-baselines/1", "num_bytes": sum(sizes), "document_num_bytes": sizes, "rows": rows}


def _record(work: Path, corpus: Artifact, runs: Mapping[str, Artifact], tasks: Sequence[str]) -> dict[str, Any]:
    files = [p for folder in ("tasks", "samples") for p in (work / folder).rglob("*") if p.is_file()]
    files.append(work / "baselines.json")
    return {
        "format": "openwright-evaluation/1",
        "harness": {"name": "lm-eval", "version": "0.4.13", "model_class": "HFLM"},
        "libraries": {},
        "corpus": {"content_digest": corpus.content_digest},
        "models": [
            {
                "name": name,
                "content_digest": run.content_digest,
                "weights_digest": made_model(run.path).weights_digest,
                "tasks": list(tasks),
            }
            for name, run in runs.items()
        ],
        "tasks": {name: {"version": 1, "items": f"{name}.jsonl", "num_fewshot": 0, "chat": False} for name in tasks},
        "intervals": {"level": "95%", "num_resamples": 100, "seed": 0},
        "files": {p.relative_to(work).as_posix(): sha256_file(p) for p in sorted(files)},
    }
