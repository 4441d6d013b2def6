"""Whether a bundle holds the held-out tokens that a replay scores: some are not shipped, some were taken down."""

from pathlib import Path

from data_recipes.tombstones import TOMBSTONES_NAME, TokenRange, windows_touching
from data_recipes.windows import TokenWindows, shard_file, spread_windows
from provenance.canonical import Json, read_json
from provenance.ledger import read_chain
from release.replay_segments import Segment


def heldout_not_here(bundle: Path, segment: Segment) -> str:
    """Why the held-out losses of a segment cannot be measured again; empty where they can, or none falls in it."""
    folder, dataset = bundle / "model" / "training" / segment.stage, bundle / "dataset"
    data = read_json(folder / "recipe.json")["data"]
    split = read_json(dataset / "tokens" / "tokens.json")["splits"][data["heldout_split"]]
    for source in split["sources"]:
        for shard in source["shards"]:
            if not all(shard_file(dataset, file["path"]).is_file() for file in shard["files"].values()):
                return f"the tokens of source {source['name']}, which the run is scored on, are not shipped"
    blank = _blank_windows(dataset, split, data)
    if not blank or not _is_scored(folder, segment):
        return ""
    windows = TokenWindows(dataset, data["heldout_split"], data["window_tokens"])
    for number, window in spread_windows(windows, data["heldout_windows"]):
        name = windows.sources[number].name
        if any(window in touched for source, touched in blank if source == name):
            told = f"the run is scored on a document of {name} that was taken down: dataset/{TOMBSTONES_NAME}"
            return f"{told}; steps between two scores can be replayed"
    return ""


def _blank_windows(dataset: Path, split: Json, data: Json) -> list[tuple[str, range]]:
    """Windows of a held-out split that hold a token which was taken down, by source."""
    path = dataset / TOMBSTONES_NAME
    files = read_json(path)["blanked"]["files"] if path.is_file() else []
    listed = {shard["files"]["tokens"]["path"] for source in split["sources"] for shard in source["shards"]}
    parts = [
        TokenRange(data["heldout_split"], file["path"], begin, end)
        for file in files
        for begin, end in (file["ranges"] if file["path"] in listed else ())
    ]
    return [windows_touching(split, part, data["window_tokens"]) for part in parts]


def _is_scored(folder: Path, segment: Segment) -> bool:
    """Whether a held-out loss is recorded among the steps of a segment; that of step 0 comes before step 1."""
    first = 0 if segment.first == 1 else segment.first
    records = read_chain(folder / "ledger.jsonl")
    return any(record["kind"] == "evaluation" and first <= record["step"] <= segment.last for record in records)
