"""Rebuild the results table from the stored samples, byte for byte, without torch or the model."""

import re
from collections.abc import Iterable
from pathlib import Path

from eval.samples import ChoiceSample, Samples, TextSample, read_items, read_samples
from eval.scoring import results_bytes, score_samples
from provenance.canonical import Json, parse_json, read_json
from provenance.digests import sha256_file
from provenance.errors import EvaluationError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def rescore(path: Path) -> None:
    """Check an evaluation directory against itself.

    Each sample against its own digest, the table against the samples, the samples, tasks and baselines against the
    digests in `record.json`, and the items of the samples against those of the tasks.

    Raises:
        EvaluationError: naming the sample, the row or the file that differs.
        BundleError: for a file that is missing or not strict JSON.
    """
    try:
        _rescore(path)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise EvaluationError(
            f"the evaluation is malformed ({error!r})", expected="the fields of docs/formats.md", where=str(path)
        ) from None


def _rescore(path: Path) -> None:
    record = read_json(path / "record.json")
    _check_names([model["name"] for model in record["models"]], path)
    _check_names([task for model in record["models"] for task in model["tasks"]], path)
    _check_names([task["items"] for task in record["tasks"].values()], path)
    samples = _load_samples(path, record)
    _check_table(path, rebuild_results(path, record, samples))
    for name, digest in sorted(record["files"].items()):
        if not (path / name).is_file() or sha256_file(path / name) != digest:
            raise EvaluationError(
                "the file is not the one that the record names", expected=f"sha256 {digest}", where=str(path / name)
            )
    _check_items(path, record, samples)


def _check_names(names: Iterable[str], path: Path) -> None:
    """A record may come from a stranger: its names must stay inside the directory."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise EvaluationError(f"name {name!r}", expected="a plain file name", where=str(path / "record.json"))


def rebuild_results(path: Path, record: Json, samples: dict[str, dict[str, Samples]] | None = None) -> bytes:
    """The bytes that `results.json` must have."""
    baselines = read_json(path / "baselines.json")["rows"]
    settings = record["intervals"]
    found = samples if samples is not None else _load_samples(path, record)
    return results_bytes(score_samples(found, baselines, settings["num_resamples"], settings["seed"]))


def _load_samples(path: Path, record: Json) -> dict[str, dict[str, Samples]]:
    return {
        model["name"]: {
            task: read_samples(path / "samples" / model["name"] / f"{task}.jsonl") for task in model["tasks"]
        }
        for model in record["models"]
    }


def _check_table(path: Path, rebuilt: bytes) -> None:
    where = str(path / "results.json")
    stored = (path / "results.json").read_bytes() if (path / "results.json").is_file() else b""
    if stored == rebuilt:
        return
    found = {_row_name(row): row for row in parse_json(stored, where)["rows"]}
    expected = {_row_name(row): row for row in parse_json(rebuilt, where)["rows"]}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise EvaluationError(
                f"row {name} is {_row_text(found.get(name))}",
                expected=f"{_row_text(expected.get(name))}, as the samples say",
                where=where,
            )
    raise EvaluationError("the table has the right rows in other bytes", expected="the bytes we write", where=where)


def _row_name(row: Json) -> str:
    return f"{row['model']} / {row['task']} / {row['metric']}"


def _row_text(row: Json) -> str:
    if row is None:
        return "absent"
    return ", ".join(f"{key} {row[key]}" for key in ("value", "low", "high", "num_items", "verdict"))


def _is_about(sample: TextSample | ChoiceSample, item: Json) -> bool:
    if isinstance(sample, TextSample):
        return (sample.item_id, sample.num_bytes) == (item["item_id"], len(item["text"].encode("utf-8")))
    lengths = tuple(len(choice) for choice in item["choices"])
    found = (sample.item_id, sample.answer, sample.choice_num_characters, len(sample.loglikelihoods))
    return found == (item["item_id"], item["answer"], lengths, len(lengths))


def _check_items(path: Path, record: Json, samples: dict[str, dict[str, Samples]]) -> None:
    """The samples must be about the items of the tasks: same ids, order, answers and lengths."""
    for model in record["models"]:
        for task in model["tasks"]:
            items_path = path / "tasks" / record["tasks"][task]["items"]
            rows = read_items(items_path)
            found: list[TextSample | ChoiceSample] = list(samples[model["name"]][task])
            where = str(path / "samples" / model["name"] / f"{task}.jsonl")
            if len(rows) != len(found):
                raise EvaluationError(f"{len(found)} samples", expected=f"{len(rows)} items", where=where)
            for number, (row, sample) in enumerate(zip(rows, found, strict=True), start=1):
                same = _is_about(sample, row)
                if not same:
                    raise EvaluationError(
                        f"sample {sample.item_id} is not about item {row['item_id']} of the task",
                        expected="the item's id, answer and lengths",
                        where=f"{where}:{number}",
                    )
