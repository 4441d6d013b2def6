"""What a forger can do: change files of a bundle, then chain, hash and list everything anew.

Written from `docs/formats.md` with the standard library alone; nothing of the project is imported.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(construction: str, value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"openwright:{construction}\n".encode() + text.encode()).hexdigest()


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the values of a JSON file in place."""
    values = read(path)
    change(values)
    write(path, values)


def entry(root: Path, path: str) -> Record:
    data = (root / path).read_bytes()
    return {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def edit_ledger(bundle: Path, stage: str, edit: Callable[[list[Record]], None]) -> None:
    """Edit a ledger's records and chain them anew, in checkpoints and run.json too."""
    folder = bundle / "model" / "training" / stage
    records = [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    edit(records)
    heads = ["0" * 64]
    lines = []
    for record in records:
        record["previous"] = heads[-1]
        lines.append(json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())
        heads.append(hashlib.sha256(lines[-1]).hexdigest())
    (folder / "ledger.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    run = read(folder / "run.json")
    run["ledger"] = {"head": heads[-1], "num_records": len(records)}
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line) + 1)
    write(folder / "run.json", run)
    for path in (bundle / "model" / "checkpoints" / stage).glob("*/checkpoint.json"):
        values = read(path)
        if values["ledger"]["num_records"] < len(heads):
            number = values["ledger"]["num_records"]
            values["ledger"] = {"num_records": number, "size_bytes": ends[number], "head": heads[number]}
            write(path, values)


def edit_recipe(bundle: Path, stage: str, edit: Callable[[Record], None]) -> None:
    """Edit a recipe where it stands, in the stage's manifest and by its digest in the ledger."""
    path = bundle / "model" / "training" / stage / "recipe.json"
    recipe = read(path)
    edit(recipe)
    write(path, recipe)
    manifest = read(_manifest_path(bundle, stage))
    write(_manifest_path(bundle, stage), {**manifest, "recipe": recipe})
    digest = digest_of("recipe/1", recipe)
    edit_ledger(bundle, stage, lambda records: records[0].update(recipe_digest=digest))


def checkpoint(bundle: Path, stage: str, step: int) -> Path:
    """Directory of a checkpoint."""
    return bundle / "model" / "checkpoints" / stage / f"step-{step:08d}"


def demote_checkpoint(bundle: Path, stage: str, step: int) -> None:
    """Keep nothing but the weights of a full checkpoint."""
    folder = checkpoint(bundle, stage, step)
    for path in folder.glob("optimizer*"):
        path.unlink()
    write(folder / "checkpoint.json", {**read(folder / "checkpoint.json"), "kind": "weights", "state_digest": None})


def rehash_tokens(bundle: Path) -> dict[str, str]:
    """Bring tokens.json into agreement with the shard files; returns old split digests with the new ones."""
    dataset = bundle / "dataset"
    tokens = read(dataset / "tokens" / "tokens.json")
    changed = {}
    for split in tokens["splits"].values():
        for source in split["sources"]:
            for shard in source["shards"]:
                for file in shard["files"].values():
                    file["sha256"] = entry(dataset, file["path"])["sha256"]
        value = {key: split[key] for key in ("layout", "dtype", "width")}
        value["sources"] = [
            {
                "name": source["name"],
                "shards": [
                    {"num_tokens": s["num_tokens"], "files": {r: f["sha256"] for r, f in s["files"].items()}}
                    for s in source["shards"]
                ],
            }
            for source in split["sources"]
        ]
        new = digest_of("tokens/1", value)
        changed[split["digest"]] = new
        split["digest"] = new
    write(dataset / "tokens" / "tokens.json", tokens)
    return changed


def reseal(bundle: Path) -> None:
    """Make every manifest and content digest agree with the files as they are now; what is gone is listed no more."""
    model, dataset = bundle / "model", bundle / "dataset"
    root = read(model / "manifest.json")
    renamed: dict[str, str] = {}
    for stage in root["stages"]:
        if (model / "training" / stage["stage"] / "ledger.jsonl").is_file():
            edit_ledger(bundle, stage["stage"], lambda records: _rename_parents(records[0]["parents"], renamed))
        if stage["stage"] == "eval":
            _rename_evaluated(model / "evaluation" / "record.json", renamed)
        for holder, values, place in _stage_manifests(bundle, stage["stage"]):
            for kind in ("results", "observations"):
                there = [item["path"] for item in values[kind] if Path(*place(item["path"])).is_file()]
                values[kind] = [{**entry(*place(path)), "path": path} for path in there]
            _rename_parents(values["parents"], renamed)
            old = values["content_digest"]
            content = {"kind": values["kind"], "results": values["results"], "parents": values["parents"]}
            values["content_digest"] = renamed[old] = digest_of("content/1", content)
            stage["content_digest"], stage["parents"] = values["content_digest"], values["parents"]
            if stage["stage"] == "corpus":
                holder["content_digest"] = values["content_digest"]
                listed = [item for item in holder["files"] if (dataset / item["path"]).is_file()]
                holder["files"] = [{**item, **entry(dataset, item["path"])} for item in listed]
                write(dataset / "manifest.json", holder)
            else:
                write(_manifest_path(bundle, stage["stage"]), values)
    root["dataset"] = {
        "content_digest": read(dataset / "manifest.json")["content_digest"],
        "manifest_sha256": entry(dataset, "manifest.json")["sha256"],
    }
    there = [item for item in root["files"] if (model / item["path"]).is_file()]
    root["files"] = [{**item, **entry(model, item["path"])} for item in there]
    results = [
        {k: item[k] for k in ("path", "size_bytes", "sha256")} for item in root["files"] if item["role"] == "result"
    ]
    value = {"name": root["name"], "version": root["version"], "dataset": root["dataset"]["content_digest"]}
    root["content_digest"] = digest_of("bundle/1", {**value, "results": sorted(results, key=lambda item: item["path"])})
    write(model / "manifest.json", root)


def _rename_parents(parents: list[Record], renamed: dict[str, str]) -> None:
    for parent in parents:
        parent["content_digest"] = renamed.get(parent["content_digest"], parent["content_digest"])


def _rename_evaluated(path: Path, renamed: dict[str, str]) -> None:
    record = read(path)
    before = json.dumps(record)
    _rename_parents([record["corpus"], *record["models"]], renamed)
    if json.dumps(record) != before:
        write(path, record)


def _manifest_path(bundle: Path, stage: str) -> Path:
    folder = "evaluation" if stage == "eval" else f"training/{stage}"
    return bundle / "model" / folder / "manifest.json"


def _stage_manifests(bundle: Path, stage: str) -> Iterator[tuple[Any, Any, Callable[[str], tuple[Path, str]]]]:
    if stage == "corpus":
        holder = read(bundle / "dataset" / "manifest.json")
        yield holder, holder["corpus"], lambda path: (bundle / "dataset", path)
        return

    def place(path: str) -> tuple[Path, str]:
        if path.startswith("checkpoints/"):
            return bundle / "model" / "checkpoints" / stage, path.removeprefix("checkpoints/")
        return _manifest_path(bundle, stage).parent, path

    yield None, read(_manifest_path(bundle, stage)), place


def next_float(text: str) -> str:
    """The neighbouring float, in hexadecimal."""
    bits = struct.unpack("<q", struct.pack("<d", float.fromhex(text)))[0]
    return str(struct.unpack("<d", struct.pack("<q", bits + 1))[0].hex())
