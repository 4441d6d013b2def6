"""Bundles for the verifier's benchmark: made here, true in every ledger record, of any number of steps and bytes."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.order import Order, OrderSource, Phase
from data_recipes.order_numpy import order_digests
from provenance.canonical import canonical_json, write_json
from provenance.digests import sha256_bytes, sha256_file, tagged_digest
from provenance.ledger import ChainWriter

WINDOW_TOKENS = 256
SOURCES = (OrderSource("code", 9_000_000), OrderSource("prose", 3_000_000), OrderSource("talk", 400_000))
SHARES = (47, 13, 4)
ROW_BYTES = 2**16
_BLOCK_STEPS = 4096
_CODE = {"commit": "0" * 40, "dirty": False, "packages_digest": tagged_digest("sources/1", [])}


@dataclass(frozen=True)
class Shape:
    """What a bundle holds.

    Attributes:
        num_steps: steps of its one training stage, of `sum(SHARES)` windows each.
        weights_bytes: size of the released weights, which the last checkpoint holds too; zeros, as sparse files.
        blobs: numbers of files of random bytes with their sizes.
    """

    num_steps: int = 10
    weights_bytes: int = ROW_BYTES
    blobs: tuple[tuple[int, int], ...] = ()


def make_bundle(bundle: Path, shape: Shape) -> Path:
    """Write a lone `model/` repository whose ledger holds; the data that it names is not there."""
    model = bundle / "model"
    weights = _write_weights(model / "model.safetensors", shape.weights_bytes)
    order = _order(shape.num_steps)
    recipe = _recipe(shape.num_steps)
    final = {"weights_digest": _state_digest(weights), "state_digest": None}
    _write_run(model, shape, order, recipe, final, weights)
    for folder in (model, model / "checkpoints" / "pretrain" / f"step-{shape.num_steps:08d}"):
        write_json(folder / "config.json", {"model_type": "none"})
    write_json(model / "code" / "CODE.json", {"format": "openwright-code/1", "commit": "0" * 40, "files": []})
    for kind, (count, size_bytes) in enumerate(shape.blobs):
        for number in range(count):
            path = model / "blobs" / f"{kind}-{number:05d}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(min(size_bytes, 2**20)) * max(1, size_bytes // 2**20))
    _write_manifests(model, recipe)
    return bundle


def _order(num_steps: int) -> Order:
    counts = tuple(num_steps * share for share in SHARES)
    return Order("1" * 64, 7, SOURCES, (Phase(num_steps, sum(SHARES), counts),))


def _recipe(num_steps: int) -> dict[str, Any]:
    mixture = {source.name: share for source, share in zip(SOURCES, SHARES, strict=True)}
    checkpoints = {"weights_until_step": 0, "weights_every_steps": 0, "full_every_steps": num_steps}
    return {
        "seed": 7,
        "data": {"split": "train", "window_tokens": WINDOW_TOKENS, "heldout_every_steps": num_steps},
        "phases": [{"num_steps": num_steps, "sequences_per_step": sum(SHARES), "mixture": mixture}],
        "branch": None,
        "skip_steps": [],
        "checkpoints": {**checkpoints, "keep_last_full": None, "published_full_steps": []},
        "reduction": "exact",
        "num_logical_replicas": 8,
    }


# ---- tensors: one of zeros, in rows ----------------------------------------------------------------------------------


def _header(name: str, dtype: str, shape: list[int], size_bytes: int) -> bytes:
    text = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size_bytes]}}).encode()
    return len(text).to_bytes(8, "little") + text


def _write_weights(path: Path, size_bytes: int) -> bytes:
    """Write one tensor of zeros as a sparse file; returns its digest `state/1:tensor`."""
    rows = max(1, size_bytes // ROW_BYTES)
    header = _header("weight", "F32", [rows, ROW_BYTES // 4], rows * ROW_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + rows * ROW_BYTES)
    return _tensor_digest("weight", "F32", [rows, ROW_BYTES // 4], [bytes(ROW_BYTES)], rows)


def _tensor_digest(name: str, dtype: str, shape: list[int], parts: list[bytes], repeats: int = 1) -> bytes:
    digest = hashlib.sha256(b"openwright:state/1:tensor\n")
    digest.update(canonical_json({"name": name, "dtype": dtype, "shape": shape}) + b"\n")
    leaves = b"".join(hashlib.sha256(part).digest() for part in parts)
    for _ in range(repeats):
        digest.update(leaves)
    return digest.digest()


def _state_digest(*tensors: bytes) -> str:
    return hashlib.sha256(b"openwright:state/1\n" + b"".join(tensors)).hexdigest()


# ---- the run ---------------------------------------------------------------------------------------------------------


def _write_run(model: Path, shape: Shape, order: Order, recipe: Any, final: dict[str, Any], weights: bytes) -> None:
    folder, last = model / "training" / "pretrain", shape.num_steps
    write_json(folder / "recipe.json", recipe)
    ledger = ChainWriter(folder / "ledger.jsonl")
    ledger.append(_start_record(order, recipe))
    scores = {"loss": (8.0).hex(), "bits_per_byte": (2.0).hex(), "num_tokens": 1000, "num_bytes": 2500}
    step_bytes = last.to_bytes(8, "little")
    state = _state_digest(_tensor_digest("optimizer.step", "I64", [], [step_bytes]), weights)
    for step, records in ((0, iter(())), (last, _step_records(order))):
        for record in records:
            ledger.append(record)
        ledger.append({"kind": "evaluation", "step": step, "split": "heldout", **scores})
        digests = {**final, "state_digest": state if step else None}
        target = model / "checkpoints" / "pretrain" / f"step-{step:08d}"
        target.mkdir(parents=True)
        os.link(model / "model.safetensors", target / "model.safetensors")
        if step:
            (target / "optimizer.safetensors").write_bytes(_header("optimizer.step", "I64", [], 8) + step_bytes)
        kind = "full" if step else "weights"
        place = {"num_records": ledger.num_records, "size_bytes": ledger.size_bytes, "head": ledger.head}
        record = {"format": "openwright-checkpoint/1", "kind": kind, "step": step, "ledger": place, **digests}
        write_json(target / "checkpoint.json", record)
        ledger.append({"kind": "checkpoint", "step": step, "checkpoint_kind": kind, **digests})
    ends = {**final, "state_digest": state}
    ledger.append({"kind": "end", "step": last, **ends})
    ledger.close()
    run = {
        "format": "openwright-run/1",
        "stage": "pretrain",
        "num_steps": last,
        "num_tokens": last * sum(SHARES) * WINDOW_TOKENS,
        "final": {"step": last, "path": f"checkpoints/step-{last:08d}", **ends},
        "ledger": {"head": ledger.head, "num_records": ledger.num_records},
        "heldout": {"first": {"step": 0, **scores}, "last": {"step": last, **scores}},
    }
    write_json(folder / "run.json", run)


def _start_record(order: Order, recipe: Any) -> dict[str, Any]:
    return {
        "kind": "start",
        "format": "openwright-ledger/1",
        "stage": "pretrain",
        "recipe_digest": tagged_digest("recipe/1", recipe),
        "reduction": "exact",
        "num_logical_replicas": 8,
        "order": {**order.as_json(), "split": "train", "window_tokens": WINDOW_TOKENS},
        "parents": [],
    }


def _step_records(order: Order) -> Iterator[dict[str, Any]]:
    """Step records whose order is true; of the others, only their form is."""
    read = {source.name: share * WINDOW_TOKENS for source, share in zip(SOURCES, SHARES, strict=True)}
    for first in range(1, order.num_steps + 1, _BLOCK_STEPS):
        last = min(order.num_steps, first + _BLOCK_STEPS - 1)
        for step, digest in enumerate(order_digests(order, first, last), start=first):
            yield {
                "kind": "step",
                "step": step,
                "order_digest": digest,
                "token_digest": sha256_bytes(step.to_bytes(8, "little")),
                "tokens_by_source": read,
                "num_trained_tokens": sum(read.values()),
                "loss": (8 - 6 * step / order.num_steps).hex(),
                "gradient_norm": (1 + 1 / step).hex(),
                "learning_rate": (1e-3 / step).hex(),
                "parameter_checksum": f"{step:016x}-{step * step:016x}",
            }


# ---- manifests -------------------------------------------------------------------------------------------------------


def _entry(root: Path, path: Path) -> dict[str, Any]:
    place = path.relative_to(root).as_posix()
    return {"path": place, "size_bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _write_manifests(model: Path, recipe: Any) -> None:
    folder = model / "training" / "pretrain"
    results = [_entry(folder, folder / name) for name in ("ledger.jsonl", "recipe.json", "run.json")]
    kept = sorted(path for path in (model / "checkpoints" / "pretrain").rglob("*") if path.is_file())
    results += [
        {**entry, "path": f"checkpoints/{entry['path']}"}
        for entry in (_entry(model / "checkpoints" / "pretrain", path) for path in kept)
    ]
    results.sort(key=lambda entry: str(entry["path"]))
    content = tagged_digest("content/1", {"kind": "pretrain", "parents": [], "results": results})
    row = {"fingerprint": "f" * 64, "content_digest": content, "parents": [], "code": _CODE}
    artifact = {"format": "openwright-artifact/1", "kind": "pretrain", "dev": False, "recipe": recipe, **row}
    write_json(folder / "manifest.json", {**artifact, "results": results, "observations": []})
    files = []
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        is_other = path.parent.name == "blobs" or path.name == "manifest.json"
        files.append({**_entry(model, path), "role": "observation" if is_other else "result"})
    files.sort(key=lambda entry: str(entry["path"]))
    listed = [
        {key: entry[key] for key in ("path", "size_bytes", "sha256")} for entry in files if entry["role"] == "result"
    ]
    dataset = {"content_digest": "d" * 64, "manifest_sha256": "e" * 64}
    value = {"name": "benchmark", "version": "1", "results": listed, "dataset": dataset["content_digest"]}
    root = {"format": "openwright-bundle/1", "name": "benchmark", "version": "1", "dev": False, "dataset": dataset}
    stages = [{"stage": "pretrain", **row}]
    digest = tagged_digest("bundle/1", value)
    write_json(model / "manifest.json", {**root, "content_digest": digest, "stages": stages, "files": files})
