"""Whether a bundle holds the held-out tokens that a replay scores: some are not shipped, some were taken down."""

from pathlib import Path

from data_recipes.tombstones import TOMBSTONES_NAME, windows_touching
from data_recipes.windows import TokenWindows, spread_windows
from provenance.canonical import read_json
from provenance.ledger import read_chain
from release.replay_segments import Segment
from release.replay_tokens import blanked_ranges, source_not_here


def heldout_not_here(bundle: Path, segment: Segment) -> str:
    """Why the held-out losses of a segment cannot be measured again; empty where they can, or none falls in it."""
    folder, dataset = bundle / "model" / "training" / segment.stage, bundle / "dataset"
    data = read_json(folder / "recipe.json")["data"]
    split = read_json(dataset / "tokens" / "tokens.json")["splits"][data["heldout_split"]]
    if source := source_not_here(dataset, split):
        return f"the tokens of source {source}, which the run is scored on, are not shipped"
    parts = blanked_ranges(dataset, data["heldout_split"], split)
    blank = [windows_touching(split, part, data["window_tokens"]) for part in parts]
    if not blank or not _is_scored(folder, segment):
        return ""
    windows = TokenWindows(dataset, data["heldout_split"], data["window_tokens"])
    for number, window in spread_windows(windows, data["heldout_windows"]):
        name = windows.sources[number].name
        if any(window in touched for source, touched in blank if source == name):
            told = f"the run is scored on a document of {name} that was taken down: dataset/{TOMBSTONES_NAME}"
            return f"{told}; steps between two scores can be replayed"
    return ""


def _is_scored(folder: Path, segment: Segment) -> bool:
    """Whether a held-out loss is recorded among the steps of a segment; that of step 0 comes before step 1."""
    first = 0 if segment.first == 1 else segment.first
    records = read_chain(folder / "ledger.jsonl")
    return any(record["kind"] == "evaluation" and first <= record["step"] <= segment.last for record in records)
