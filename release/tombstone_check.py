"""Whether a bundle forgot what its tombstones name: no text of it, and its tokens blank, these and no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.conversation_rows import CONVERSATION_SPLITS
from data_recipes.tombstones import TOMBSTONES_NAME, HeldDocument, document_ranges
from data_recipes.windows import REDACTED_FOLDER, TOKEN_DTYPES
from provenance.canonical import read_json
from release.facts import BundleFacts
from release.verify import CheckResult

_NAME, _WHERE = "tombstones", "dataset/tombstones.json"


def check_tombstones(bundle: Path) -> CheckResult:
    """The blanked stretches are where the forgotten documents lie, and whole rows that conversations became."""
    dataset = bundle / "dataset"
    documents = BundleFacts(bundle).forgotten
    quoted = _quoted(bundle, documents)
    stated = read_json(dataset / TOMBSTONES_NAME)["blanked"]
    blanked = {file["path"]: file["ranges"] for file in stated["files"]}
    problem = quoted or _problem(dataset, documents, blanked) or _not_blank(dataset, blanked, stated["token"])
    if problem:
        return CheckResult("records", _NAME, "FAIL", problem, _WHERE)
    detail = f"{len(documents)} documents forgotten; their tokens are blank in {len(blanked)} files, and no others"
    return CheckResult("records", _NAME, "PASS", detail, _WHERE)


def _problem(dataset: Path, documents: list[HeldDocument], blanked: dict[str, list[list[int]]]) -> str:
    """The first thing that is wrong with what is blank; empty where nothing is."""
    copies = (path for path in (dataset / REDACTED_FOLDER).rglob("*") if path.is_file())
    if {path.relative_to(dataset / REDACTED_FOLDER).as_posix() for path in copies} != blanked.keys():
        return "redacted/ holds other files than tombstones.json names"
    forgotten = {document.document_id for document in documents if document.split not in CONVERSATION_SPLITS}
    if forgotten:
        return "a conversation is there, and a tombstone names it"
    expected: dict[str, list[list[int]]] = {}
    for part in document_ranges(dataset, documents).values():
        expected.setdefault(part.path, []).append([part.begin, part.end])
    for split in read_json(dataset / "tokens" / "tokens.json")["splits"].values():
        for path in _paths(split):
            ranges = blanked.get(path, [])
            if split["layout"] == "rows" and any(place % split["width"] for stretch in ranges for place in stretch):
                return f"a part of a row of {path} is blank"
            is_here = path in blanked or (dataset / path).is_file()
            if split["layout"] == "stream" and is_here and ranges != sorted(expected.get(path, [])):
                return f"{path}: what is blank is not what the forgotten documents are"
    return ""


def _quoted(bundle: Path, documents: list[HeldDocument]) -> str:
    """A forgotten held-out document that the evaluation was not made without; empty where there is none."""
    left_out = read_json(bundle / "model" / "evaluation" / "manifest.json")["recipe"].get("forget", [])
    named = {document.document_id for document in documents if document.split == "heldout"}
    quoted = sorted(named - set(left_out)) or sorted(named & _evaluated(bundle))
    return f"the evaluation may quote document {quoted[0][:12]}, and a tombstone names it" if quoted else ""


def _evaluated(bundle: Path) -> set[str]:
    """Documents that the items of the evaluation are made of."""
    paths = sorted((bundle / "model" / "evaluation" / "tasks").glob("*.jsonl"))
    items = (json.loads(line) for path in paths for line in path.read_bytes().splitlines())
    return {str(item.get("document_id", "")) for item in items}


def _not_blank(dataset: Path, blanked: dict[str, list[list[int]]], token: int) -> str:
    """The first stretch that holds anything but the blank token; empty where all are blank."""
    for split in read_json(dataset / "tokens" / "tokens.json")["splits"].values():
        for path in set(_paths(split)) & blanked.keys():
            tokens = np.fromfile(dataset / REDACTED_FOLDER / path, TOKEN_DTYPES[split["dtype"]])
            for begin, end in blanked[path]:
                if len(tokens) < end or (tokens[begin:end] != token).any():
                    return f"{path}: a token from {begin} to {end} is not blank"
    return ""


def _paths(split: Any) -> list[str]:
    shards = [shard for source in split["sources"] for shard in source["shards"]]
    return [shard["files"]["tokens"]["path"] for shard in shards]
