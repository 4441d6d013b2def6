"""Versions of formats and constructions that this program reads: a file in another version is for another program.

What reads a bundle's files fails on a version that it does not know, for whatever reason comes first. So `openwright
verify` looks at the versions before it checks: UNVERIFIED, with the version that was found, and never a guess.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from data_recipes.documents import CODES_FORMAT
from data_recipes.order import ORDER_VERSIONS
from data_recipes.summary import CORPUS_FORMAT
from data_recipes.tombstones import TOMBSTONES_FORMAT
from data_recipes.windows import TOKENS_FORMAT
from eval.baselines import BASELINES_FORMAT
from eval.record import EVALUATION_FORMAT
from eval.scoring import RESULTS_FORMAT
from provenance.artifacts import ARTIFACT_FORMAT
from provenance.canonical import parse_json
from provenance.errors import OpenwrightError
from provenance.ledger import MAX_LINE_BYTES
from release.code_copy import CODE_FORMAT
from release.components import COMPONENTS_FORMAT
from release.layout import DATASET_FORMAT
from release.rule_table import RULES_FORMAT
from release.tolerance import TOLERANCE_FORMAT
from train.average import AVERAGE_FORMAT
from train.records import LEDGER_FORMAT, RUN_FORMAT

# Written out, since the modules that define them load what a check of versions does not need; a test compares them.
SOURCES_FORMAT = "openwright-sources/1"
CHECKPOINT_FORMAT = "openwright-checkpoint/1"

FORMATS = {
    "dataset/manifest.json": DATASET_FORMAT,
    "dataset/corpus.json": CORPUS_FORMAT,
    "dataset/sources.lock": SOURCES_FORMAT,
    "dataset/documents/codes.json": CODES_FORMAT,
    "dataset/tokens/tokens.json": TOKENS_FORMAT,
    "dataset/tombstones.json": TOMBSTONES_FORMAT,
    "model/checkpoints/*/step-*/checkpoint.json": CHECKPOINT_FORMAT,
    "model/training/*/manifest.json": ARTIFACT_FORMAT,
    "model/training/*/run.json": RUN_FORMAT,
    "model/training/average/average.json": AVERAGE_FORMAT,
    "model/training/*/ledger.jsonl": LEDGER_FORMAT,
    "model/training/*/tolerance.json": TOLERANCE_FORMAT,
    "model/evaluation/manifest.json": ARTIFACT_FORMAT,
    "model/evaluation/record.json": EVALUATION_FORMAT,
    "model/evaluation/results.json": RESULTS_FORMAT,
    "model/evaluation/baselines.json": BASELINES_FORMAT,
    "model/code/CODE.json": CODE_FORMAT,
    "model/openness/components.json": COMPONENTS_FORMAT,
    "model/openness/rules.yaml": RULES_FORMAT,
}
"""Formats of files by their places in a bundle."""


def unknown_version(bundle: Path, *folders: str) -> tuple[str, str] | None:
    """Look for a version that this program does not know.

    Args:
        bundle: the directory that holds `model/` and `dataset/`.
        folders: beginnings of the bundle-relative paths to look at.

    Returns:
        What was found and in which file, or None. Files that cannot be read are left to the checks that read them.
    """
    for pattern, expected in FORMATS.items():
        for path in sorted(bundle.glob(pattern)) if pattern.startswith(folders) else ():
            for found, known in _versions(path, expected):
                if found not in known and str(found).partition("/")[0] == known[0].partition("/")[0]:
                    told = f"format {found}; this program reads {' and '.join(known)}"
                    return told, path.relative_to(bundle).as_posix()
    return None


def _versions(path: Path, expected: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Versions that a file names, each with those that are known here."""
    try:
        with path.open("rb") as file:
            data = file.readline(MAX_LINE_BYTES) if path.suffix == ".jsonl" else file.read()
        value = yaml.safe_load(data) if path.suffix == ".yaml" else parse_json(data, path.name)
    except (OSError, ValueError, RecursionError, OpenwrightError, yaml.YAMLError):
        return
    if isinstance(value, dict):
        yield value.get("format"), (expected,)
        if isinstance(value.get("order"), dict):
            yield value["order"].get("version"), ORDER_VERSIONS
