"""Whether a bundle holds the tokens that the steps of a segment read: some are not shipped, some were taken down."""

from pathlib import Path
from typing import Any

from data_recipes.order import Order
from data_recipes.tombstones import TOMBSTONES_NAME
from data_recipes.windows import REDACTED_FOLDER
from provenance.canonical import read_json
from provenance.ledger import read_chain
from release.replay_segments import Segment


def tokens_not_here(bundle: Path, segment: Segment) -> str:
    """Why a segment cannot be replayed from the tokens of this bundle; empty where it can.

    Args:
        segment: steps of a stage; the steps since its checkpoint are replayed as well.
    """
    start = next(read_chain(bundle / "model" / "training" / segment.stage / "ledger.jsonl"))["order"]
    split = read_json(bundle / "dataset" / "tokens" / "tokens.json")["splits"][start["split"]]
    dataset = bundle / "dataset"
    for source in split["sources"]:
        for shard in source["shards"]:
            for file in shard["files"].values():
                places = (dataset / file["path"], dataset / REDACTED_FOLDER / file["path"])
                if not any(path.is_file() for path in places):
                    return f"the tokens of source {source['name']} are not shipped"
    blank = _blank(dataset)
    if not blank:
        return ""
    order = Order.from_json(start)
    for step in range(segment.first, segment.last + 1):
        for draw in order.step_draws(step):
            pool = order.sources[draw.source]
            length = pool.window_tokens or int(start["window_tokens"])
            source = next(source for source in split["sources"] if source["name"] == pool.name)
            if _is_blank(source, split, length, draw.window, blank):
                return f"step {step} read a document of {pool.name} that was taken down: dataset/{TOMBSTONES_NAME}"
    return ""


def _blank(dataset: Path) -> dict[str, list[list[int]]]:
    path = dataset / TOMBSTONES_NAME
    files = read_json(path)["blanked"]["files"] if path.is_file() else []
    return {file["path"]: file["ranges"] for file in files}


def _is_blank(source: Any, split: Any, length: int, window: int, blank: dict[str, list[list[int]]]) -> bool:
    """Whether a window of a source touches tokens that were taken down."""
    for shard in source["shards"]:
        num_tokens = shard["num_tokens"]
        is_stream = split["layout"] == "stream"
        num_windows = max(0, num_tokens - 1) // length if is_stream else num_tokens // split["width"]
        if window < num_windows:
            begin = window * (length if is_stream else split["width"])
            ranges = blank.get(shard["files"]["tokens"]["path"], [])
            return any(first <= begin + length and begin < end for first, end in ranges)
        window -= num_windows
    return False
