"""Which files of a bundle a command reads, as patterns of bundle paths; from the Hub no others are fetched.

What a step read is known from records: those are fetched first, and the rest by what they say. They are a stranger's:
`release.readable` looks at them, and names that they give are looked up among the listed files, and never used as
patterns or paths of their own.
"""

from collections.abc import Iterable, Iterator
from glob import escape
from typing import Any

from data_recipes.order_file import ORDER_FILE
from data_recipes.tombstones import TOMBSTONES_NAME
from data_recipes.windows import REDACTED_FOLDER
from openwright.located import LocalBundle, Located
from provenance.canonical import read_json
from provenance.made_model import AVERAGE
from release.readable import require_average, require_for_comparison, require_for_inspection, require_order
from release.replay_segments import Segment, training_stages
from release.reproduce import ReplayPlan
from train.average import AVERAGED
from train.checkpoint_records import checkpoint_name

EVERYTHING = ("model/**", "dataset/**")
"""What `verify` reads: it says of every listed file that it is the listed one."""

RECORDS = ("model/README.md", "model/index.html", "model/training/**", "model/evaluation/**", "model/openness/**")
"""What notebooks read: everything but weights, checkpoints, code and data."""

_TOKENS = "dataset/tokens/tokens.json"
_RECORDED = ("ledger.jsonl", "recipe.json", ORDER_FILE)


def fetch_everything(bundle: Located, *, is_lone_allowed: bool = False) -> None:
    """Fetch a whole bundle."""
    bundle.fetch(*EVERYTHING, is_lone_allowed=is_lone_allowed)


def fetch_for_inspection(bundle: Located, stage: str, *, with_text: bool) -> None:
    """Fetch what `inspect` reads: order, token shards of the split, documents, conversations made from them.

    Args:
        with_text: whether tokens are turned into text again.

    Raises:
        BundleError: as `release.readable`, for a bundle in a directory too.
    """
    folder = f"model/training/{stage}"
    tokenizer = ["model/tokenizer.json"] if with_text else []
    bundle.fetch(*(f"{folder}/{name}" for name in _RECORDED), _TOKENS, *tokenizer)
    require_order(bundle.path, stage)
    split = _recipe(bundle, stage)["data"]["split"]
    is_stream = read_json(bundle.path / _TOKENS)["splits"][split]["layout"] == "stream"
    rows = ["dataset/documents/*", "dataset/corpus.json", f"dataset/{TOMBSTONES_NAME}"]
    conversations = [] if is_stream else ["dataset/conversations/*"]
    bundle.fetch(*_shards(bundle, [split]), *rows, *conversations)
    require_for_inspection(bundle.path, with_text=with_text, with_conversations=not is_stream)


def fetch_for_comparison(bundle: Located, stage: str) -> None:
    """Fetch what `compare` reads of a bundle: the records of a stage and the evaluation table.

    Raises:
        BundleError: as `release.readable`, for a bundle in a directory too.
    """
    folder = f"model/training/{stage}"
    bundle.fetch(*(f"{folder}/{name}" for name in _RECORDED), "model/evaluation/results.json")
    if (bundle.path / "model").is_dir():
        require_for_comparison(bundle.path, stage)


def fetch_for_planning(bundle: Located) -> None:
    """Fetch what the choice of steps to replay reads, and the code that a person is asked about."""
    checkpoints = "model/checkpoints/*/*/checkpoint.json"
    data = (_TOKENS, f"dataset/{TOMBSTONES_NAME}", "dataset/tokenizer/*")
    bundle.fetch("model/code/**", "model/training/**", checkpoints, *data)


def fetch_for_replay(bundle: Located, plan: ReplayPlan) -> None:
    """Fetch what a replay reads: the checkpoint before its steps, the tokens, and for fine-tuning its base.

    The checkpoints that the recorded run kept of these steps come too: what differs is compared with them.
    """
    if isinstance(bundle, LocalBundle):
        return
    patterns: list[str] = []
    for segment in plan.segments:
        data = _recipe(bundle, segment.stage)["data"]
        patterns += [f"{folder}/**" for folder in _checkpoints(bundle, segment)]
        patterns += _shards(bundle, [data["split"], data["heldout_split"]])
    bundle.fetch(*dict.fromkeys(patterns))


def fetch_for_average(bundle: Located) -> None:
    """Fetch what an average is made again from: its own weights, and those of its checkpoints."""
    made, _ = require_average(bundle.path)
    places = [f"{escape(part['stage'])}/{checkpoint_name(part['step'])}" for part in made["ingredients"]]
    bundle.fetch(*(f"model/checkpoints/{place}/model*" for place in (*places, f"{AVERAGE}/{AVERAGED}")))


def fetch_for_branch(bundle: Located, stage: str, step: int) -> None:
    """Fetch what a branch takes over: the run's records and one checkpoint."""
    folder, checkpoints = f"model/training/{stage}", f"model/checkpoints/{stage}"
    records = [f"{folder}/{name}" for name in _RECORDED]
    bundle.fetch(*records, f"{checkpoints}/*/checkpoint.json", f"{checkpoints}/{checkpoint_name(step)}/**")


def _checkpoints(bundle: Located, segment: Segment) -> Iterator[str]:
    kept = bundle.path / "model" / "checkpoints" / segment.stage
    yield f"model/checkpoints/{segment.stage}/{segment.checkpoint.name}"
    for path in sorted(kept.glob("step-*")):
        if segment.first <= int(read_json(path / "checkpoint.json")["step"]) <= segment.last:
            yield f"model/checkpoints/{segment.stage}/{path.name}"
    stages = training_stages(bundle.path)
    if base := stages[: stages.index(segment.stage)][-1:]:
        final = read_json(bundle.path / "model" / "training" / base[0] / "run.json")["final"]
        yield f"model/checkpoints/{base[0]}/{checkpoint_name(int(final['step']))}"


def _recipe(bundle: Located, stage: str) -> dict[str, Any]:
    values: dict[str, Any] = read_json(bundle.path / "model" / "training" / stage / "recipe.json")
    return values


def _shards(bundle: Located, splits: Iterable[str]) -> list[str]:
    """Patterns of the files of some splits, and of the copies that stand in their place after a takedown."""
    listed = read_json(bundle.path / _TOKENS)["splits"]
    paths = [
        escape(file["path"])
        for split in splits
        for source in listed[split]["sources"]
        for shard in source["shards"]
        for file in shard["files"].values()
    ]
    return [f"dataset/{folder}{path}" for path in paths for folder in ("", f"{REDACTED_FOLDER}/")]
