"""Make a golden bundle by the stages themselves: `python tests/golden/make_trained.py DIRECTORY`.

As `make_golden.py` does, once and for ever; that one writes what the formats page says, this one what the program
writes. The release is that of the test of the command line (`tests/openwright/tiny_release.py`: a Llama on text in
several scripts, a tokenizer and tokens made elsewhere, a licence outside the policy), and besides: an order by file,
masked documents, conversations and preference pairs from files, text that must be shared alike, an average of
checkpoints as the released model, and a document that was taken down. Its `code/` is a stand-in, so that it stays
small. Run this in a clone of your own: training refuses a source tree that changes meanwhile.
"""

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from make_golden import TESTS, describe, make_keys, make_project

sys.path[:0] = [str(TESTS / "openwright"), str(TESTS / "data_recipes")]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402
from corpus_fixtures import chat_source  # noqa: E402
from tiny_release import sentence, write_configs  # noqa: E402

from data_recipes.lookup import Lookup  # noqa: E402
from data_recipes.order_file import read_order  # noqa: E402
from data_recipes.tombstones import Tombstone, write_tombstones  # noqa: E402
from openwright.configs import StageConfigs, load_directory  # noqa: E402
from openwright.pipeline import run_one  # noqa: E402
from provenance.artifacts import Artifact  # noqa: E402
from provenance.canonical import read_json  # noqa: E402
from provenance.digests import sha256_file  # noqa: E402
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest  # noqa: E402
from provenance.ledger import read_chain  # noqa: E402
from provenance.stage import StageContext  # noqa: E402
from release.bundle import bundle_path  # noqa: E402

NAME = "trained"
CHECKPOINTS = {"weights_until_step": 0, "weights_every_steps": 2, "full_every_steps": 6}
STAGES = ("corpus", "pretrain", "sft", "average", "eval")


def main() -> None:
    """Run the stages, build, sign, pack and describe the bundle."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        project = make_project(Path(scratch) / "code")
        key = make_keys(Path(scratch), target)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("release.bundle.project_root", lambda: project)
            bundle = _make_bundle(Path(scratch), CodeIdentity("ab" * 20, False, sources_digest(PACKAGES, project)))
        describe({NAME: bundle}, key, target)


def _make_bundle(scratch: Path, code: CodeIdentity) -> Path:
    directory = write_configs(scratch / NAME, scratch)
    data_dir, rng = scratch / "data", random.Random(8)
    _change(directory, "corpus", lambda values: _add_pairs(values, data_dir, rng))
    context = StageContext(NAME, scratch / "artifacts" / NAME, code)
    artifacts = {"corpus": run_one("corpus", _load(directory), context, {})}
    _change(directory, "pretrain", lambda values: _order_by_file(values, data_dir, artifacts["corpus"]))
    _change(directory, "sft", lambda values: {**values, "checkpoints": {**CHECKPOINTS, "weights_every_steps": 0}})
    _change(directory, "eval", lambda values: {**values, "models": ["pretrain", "sft", "average"]})
    _change(directory, "release", lambda values: {**values, "name": NAME, "stages": list(STAGES)})
    parts = [{"stage": "pretrain", "steps": [2, 6]}, {"stage": "sft", "steps": [4]}]
    average = {"kind": "weights", "weights": [1, 2, 3], "ingredients": parts}
    (directory / "average.yaml").write_text(yaml.safe_dump(average))
    for stage in STAGES[1:]:
        artifacts[stage] = run_one(stage, _load(directory), context, artifacts)
    document_id = _read_by_few(artifacts)
    write_tombstones(directory / "tombstones.json", [Tombstone(document_id, "0" * 64, "2026-11-26", "asked for")])
    return bundle_path(run_one("release", _load(directory), context, artifacts))


def _load(directory: Path) -> StageConfigs:
    return load_directory(directory, ())


def _change(directory: Path, stage: str, change: Any) -> None:
    path = directory / f"{stage}.yaml"
    values = change(yaml.safe_load(path.read_text(encoding="utf-8")))
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _add_pairs(values: dict[str, Any], data_dir: Path, rng: random.Random) -> dict[str, Any]:
    """Conversations and preference pairs from files, and a licence that asks for attribution and the same terms."""
    pairs = [{"prompt": f"{n} 問", "chosen": sentence(rng), "rejected": f"नहीं {n}"} for n in range(6)]
    talks = [{"prompt": f"спитай {n}", "completion": sentence(rng)} for n in range(6)]
    share_alike = {"licence": {"spdx": "CC-BY-SA-4.0", "evidence": "the program that makes them"}}
    sources = [
        chat_source(data_dir, "пары", "preference", pairs, **share_alike),
        chat_source(data_dir, "розмови", "prompt-completion", talks),
    ]
    chats = {"window_tokens": 127, "packing": "best-fit", "sources": sources}
    return {**values, "policy": {"allow": [*values["policy"]["allow"], "CC-BY-SA-4.0"]}, "chats": chats}


def _order_by_file(values: dict[str, Any], data_dir: Path, corpus: Artifact) -> dict[str, Any]:
    """An order that another program might have made: strides over all windows; attention ends with each document."""
    split = read_json(corpus.path / "tokens" / "tokens.json")["splits"]["train"]
    length, phase = values["data"]["window_tokens"], values["phases"][0]
    shards = [shard for source in split["sources"] for shard in source["shards"]]
    total = sum(max(0, shard["num_tokens"] - 1) // length for shard in shards)
    places = np.arange(phase["num_steps"] * phase["sequences_per_step"], dtype="<u8")
    (data_dir / "порядок.bin").write_bytes((places * 97 % total).astype("<u4").tobytes())
    pin = {"path": "порядок.bin", "sha256": sha256_file(data_dir / "порядок.bin"), "dtype": "u32"}
    data = {**values["data"], "order": {**pin, "tokens_digest": split["digest"]}, "document_masking": True}
    small = {"hidden_size": 8, "intermediate_size": 20, "tie_word_embeddings": True}
    model = {**values["model"], "fields": {**values["model"]["fields"], **small}}
    execution = {"data_dir": str(data_dir), "num_processes": 1}
    return {**values, "model": model, "data": data, "checkpoints": CHECKPOINTS, "execution": execution}


def _read_by_few(artifacts: dict[str, Artifact]) -> str:
    """A document that some of the steps of pretraining read."""
    start = next(read_chain(artifacts["pretrain"].path / "ledger.jsonl"))["order"]
    order = read_order(start, artifacts["pretrain"].path)
    lookup = Lookup(artifacts["corpus"].path, order, "train", start["window_tokens"])
    rows = [row for step in range(1, order.num_steps + 1) for window in lookup.step(step) for row in window.documents]
    return min((len(lookup.steps_that_read(row)), row.document_id) for row in rows if row.source == "rows")[1]


if __name__ == "__main__":
    main()
