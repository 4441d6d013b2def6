"""Whether a bundle holds the tokens that the steps of a segment read: some are not shipped, some were taken down."""

from collections.abc import Iterator
from pathlib import Path

from data_recipes.order_file import read_order
from data_recipes.tombstones import TOMBSTONES_NAME, TokenRange, windows_of_pools
from data_recipes.windows import shard_file
from provenance.canonical import Json, read_json
from provenance.ledger import read_chain
from release.replay_segments import Segment


def tokens_not_here(bundle: Path, segment: Segment) -> str:
    """Why a segment cannot be replayed from the tokens of this bundle; empty where it can.

    Args:
        segment: steps of a stage; the steps since its checkpoint are replayed as well.
    """
    folder = bundle / "model" / "training" / segment.stage
    start = next(read_chain(folder / "ledger.jsonl"))["order"]
    split = read_json(bundle / "dataset" / "tokens" / "tokens.json")["splits"][start["split"]]
    dataset = bundle / "dataset"
    if source := source_not_here(dataset, split):
        return f"the tokens of source {source} are not shipped"
    order = read_order(start, folder)
    blank: dict[int, list[range]] = {}
    parts = blanked_ranges(dataset, start["split"], split)
    for number, windows in windows_of_pools(order, int(start["window_tokens"]), split, parts):
        blank.setdefault(number, []).append(windows)
    for step in range(segment.first, segment.last + 1) if blank else ():
        for draw in order.step_draws(step):
            if any(draw.window in windows for windows in blank.get(draw.source, ())):
                pool = order.sources[draw.source].name
                return f"step {step} read a document of {pool} that was taken down: dataset/{TOMBSTONES_NAME}"
    return ""


def source_not_here(dataset: Path, split: Json) -> str:
    """The first source of a split of which a token file is missing; empty where all are here.

    Args:
        split: as `tokens.json` describes it.
    """
    for source in split["sources"]:
        for shard in source["shards"]:
            if not all(shard_file(dataset, file["path"]).is_file() for file in shard["files"].values()):
                return str(source["name"])
    return ""


def blanked_ranges(dataset: Path, name: str, split: Json) -> Iterator[TokenRange]:
    """Stretches of the token files of a split that were taken down.

    Args:
        name: of the split.
        split: as `tokens.json` describes it.
    """
    path = dataset / TOMBSTONES_NAME
    files = read_json(path)["blanked"]["files"] if path.is_file() else []
    listed = {shard["files"]["tokens"]["path"] for source in split["sources"] for shard in source["shards"]}
    for file in files:
        for begin, end in file["ranges"] if file["path"] in listed else ():
            yield TokenRange(name, file["path"], begin, end)
