"""`openwright compare`: two runs side by side. It measures; which of them is right, it does not ask.

Steps are compared where both ledgers have them: a branch has none before the step at which it begins.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwright.branching import find_run
from openwright.report import table_lines
from provenance.canonical import Json, read_json
from release.readable import ledger_records
from release.tensor_diff import stored_tensors
from train.checkpoint_records import checkpoint_name
from train.distances import StoredArrays, distance_between

_NUMBER = re.compile(r"-?0x[0-9a-f.]+p[+-][0-9]+")
_READ = ("order_digest", "token_digest")
_LINK = "previous"
_MOST_CHARS = 80  # of a list, say of phases; `--json` has all of it


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        name: what the command line called it.
        root: the directory that was named.
        records: directory of its ledger and recipe.
        checkpoints: directory of its checkpoints; may be absent.
        results: evaluation table of the bundle; None for a run.
    """

    name: str
    root: Path
    records: Path
    checkpoints: Path
    results: Path | None

    def weights(self, step: int) -> Path | None:
        """Directory of a checkpoint's weights; None where they are not here, or where a stranger's link leads away."""
        folder = self.checkpoints / checkpoint_name(step)
        files = [path.resolve() for path in folder.glob("model*.safetensors")]
        is_own = all(path.is_file() and path.is_relative_to(self.root) for path in files)
        return folder if files and is_own else None


class LedgerWalk:
    """One walk along a ledger, which may be long: steps are handed on one by one, the rest is kept in a few words.

    Attributes:
        steps: the records of the steps, in order, as far as nobody has taken them; `finish` takes all that are left.
        stage: the stage that trained; known once a step was taken or the walk is finished, as the others are in full.
        bits_per_byte: of held-out text, by step.
        weights_digests: of the checkpoints, by step.
    """

    def __init__(self, ledger: Path) -> None:
        self.stage = ""
        self.bits_per_byte: dict[int, Json] = {}
        self.weights_digests: dict[int, Json] = {}
        self.steps = self._walk(ledger)

    def _walk(self, ledger: Path) -> Iterator[dict[str, Any]]:
        for kind, record in ledger_records(ledger):
            match kind:
                case "step":
                    yield record
                case "start":
                    self.stage = record["stage"]
                case "evaluation":
                    self.bits_per_byte[record["step"]] = record["bits_per_byte"]
                case "checkpoint":
                    self.weights_digests[record["step"]] = record["weights_digest"]

    def finish(self) -> None:
        """Walk to the end of the ledger."""
        for _ in self.steps:
            pass


def side_of(place: Path, stage: str, name: str) -> Side:
    """The run that a directory is, or that a bundle holds of a stage.

    Raises:
        ArtifactError: when it is neither.
    """
    records, checkpoints = find_run(place, stage)
    results = place / "model" / "evaluation" / "results.json"
    return Side(name, place.resolve(), records, checkpoints, results if results.is_file() else None)


def compare_runs(one: Side, other: Side) -> dict[str, Json]:
    """Recipes, steps, held-out losses, tokens by source, last weights and evaluations of two runs.

    Returns:
        The document that `--json` prints; of numbers the value in A and in B, None where one has none.
    """
    recipes = (_leaves(read_json(side.records / "recipe.json")) for side in (one, other))
    walks = LedgerWalk(one.records / "ledger.jsonl"), LedgerWalk(other.records / "ledger.jsonl")
    steps = _steps(*walks)
    for walk in walks:
        walk.finish()
    return {
        "stages": [walk.stage for walk in walks],
        "recipe": _differing(*recipes),
        "steps": steps,
        "heldout": _heldout(*walks),
        "weights": _weights((one, other), walks),
        "evaluation": _evaluation(one, other),
    }


def _leaves(value: Json, at: str = "") -> dict[str, Json]:
    """A recipe as one level of keys; a list is one value."""
    if not isinstance(value, dict):
        return {at: value}
    return {name: leaf for key in value for name, leaf in _leaves(value[key], f"{at}.{key}" if at else key).items()}


def _differing(one: Mapping[str, Json], other: Mapping[str, Json]) -> dict[str, Json]:
    names = sorted({*one, *other})
    return {name: [one.get(name), other.get(name)] for name in names if one.get(name) != other.get(name)}


def _shared_steps(one: LedgerWalk, other: LedgerWalk) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The records of each step that both ledgers have; neither ledger is held in memory."""
    lefts, rights = one.steps, other.steps
    left, right = next(lefts, None), next(rights, None)
    while left is not None and right is not None:
        if left["step"] == right["step"]:
            yield left, right
        ahead = left["step"] - right["step"]
        left = next(lefts, None) if ahead <= 0 else left
        right = next(rights, None) if ahead >= 0 else right


def _steps(one: LedgerWalk, other: LedgerWalk) -> dict[str, Json]:
    """Which steps both have, how many are equal, the first that is not, and what was read in them."""
    shared: list[int] = []
    num_equal = num_same_text = 0
    first: Json = None
    tokens: dict[str, list[int]] = {}
    losses: Json = None
    for left, right in _shared_steps(one, other):
        shared = [shared[0] if shared else left["step"], left["step"]]
        names = sorted({*left, *right} - {_LINK})
        differing: list[Json] = [name for name in names if left.get(name) != right.get(name)]
        num_equal += not differing
        num_same_text += not set(_READ) & set(differing)
        first = first or (differing and {"step": left["step"], "fields": differing}) or None
        for place, record in enumerate((left, right)):
            for source, count in record["tokens_by_source"].items():
                tokens.setdefault(source, [0, 0])[place] += count
        losses = [left["loss"], right["loss"]]
    return {
        "shared": shared,
        "num_equal": num_equal,
        "num_same_text": num_same_text,
        "first_difference": first,
        "last_losses": losses,
        "tokens_by_source": dict(sorted(tokens.items())),
    }


def _heldout(one: LedgerWalk, other: LedgerWalk) -> list[Json]:
    """Bits per byte on held-out text at each step at which either was measured."""
    found = [one.bits_per_byte, other.bits_per_byte]
    return [{"step": step, "bits_per_byte": [f.get(step) for f in found]} for step in sorted({*found[0], *found[1]})]


def _weights(sides: tuple[Side, Side], walks: tuple[LedgerWalk, LedgerWalk]) -> Json:
    """The last step of which both have a checkpoint: whether its weights are equal, and how far apart they are."""
    digests = [walk.weights_digests for walk in walks]
    step = max({*digests[0]} & {*digests[1]}, default=None)
    if step is None:
        return None
    folders = [folder for side in sides if (folder := side.weights(step)) is not None]
    shapes = [{name: tensor.shape for name, tensor in stored_tensors(folder, "model").items()} for folder in folders]
    distance = None
    if len(folders) == 2 and shapes[0] == shapes[1]:
        distance = distance_between(*(StoredArrays(folder, "model") for folder in folders)).overall.hex()
    return {"step": step, "equal": digests[0][step] == digests[1][step], "relative_distance": distance}


def _evaluation(one: Side, other: Side) -> list[Json]:
    """Scores that both bundles have."""
    if one.results is None or other.results is None:
        return []
    tables = [
        {(row["model"], row["task"], row["metric"]): row for row in read_json(path)["rows"]}
        for path in (one.results, other.results)
    ]
    numbers = ("value", "low", "high")
    return [
        {"model": model, "task": task, "metric": metric}
        | {name: [table[model, task, metric][name] for table in tables] for name in numbers}
        for model, task, metric in tables[0]
        if (model, task, metric) in tables[1]
    ]


def compare_lines(found: dict[str, Any], names: tuple[str, str]) -> list[str]:
    """The comparison for people."""
    steps, weights = found["steps"], found["weights"]
    lines = [f"A          {names[0]}", f"B          {names[1]}"]
    lines += [f"recipe     {key}: {_shown(a)} in A, {_shown(b)} in B" for key, (a, b) in found["recipe"].items()]
    lines += [] if found["recipe"] else ["recipe     the same"]
    if not steps["shared"]:
        return [*lines, "steps      none that both have"]
    first, last = steps["shared"]
    num = last - first + 1
    told = f"{steps['num_equal']:,} of {num:,} equal, {steps['num_same_text']:,} read the same text"
    lines.append(f"steps      {first:,} to {last:,} in both: {told}")
    if difference := steps["first_difference"]:
        lines.append(f"           the first that differs is {difference['step']:,}: {', '.join(difference['fields'])}")
    if weights is not None:
        distance = "" if weights["relative_distance"] is None else f", {_shown(weights['relative_distance'])} apart"
        equal = "equal bit for bit" if weights["equal"] else f"other weights{distance} (relative)"
        lines.append(f"weights    at step {weights['step']:,}: {equal}")
    rows = [(f"at step {row['step']:,}", *_pair(row["bits_per_byte"])) for row in found["heldout"]]
    lines += ["", *table_lines(("held-out bits per byte", "A", "B", "B - A"), rows)] if rows else []
    read = [(name, f"{a:,}", f"{b:,}", f"{b - a:+,}") for name, (a, b) in steps["tokens_by_source"].items()]
    lines += ["", *table_lines(("tokens read in these steps", "A", "B", "B - A"), read)]
    scores = [(f"{r['model']} {r['task']} {r['metric']}", *_pair(r["value"]), _apart(r)) for r in found["evaluation"]]
    return lines + (["", *table_lines(("evaluation", "A", "B", "B - A", "95% intervals"), scores)] if scores else [])


def _shown(value: Json) -> str:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return f"{float.fromhex(value):.4g}"
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."


def _pair(values: list[str | None]) -> tuple[str, str, str]:
    """Both numbers and their difference; a dash where one is missing."""
    told = [None if value is None else float.fromhex(value) for value in values]
    shown = ["-" if number is None else f"{number:.4f}" for number in told]
    a, b = told
    return shown[0], shown[1], "-" if a is None or b is None else f"{b - a:+.4f}"


def _apart(row: Mapping[str, Any]) -> str:
    lows, highs = ([float.fromhex(value) for value in row[name]] for name in ("low", "high"))
    return "overlap" if lows[0] <= highs[1] and lows[1] <= highs[0] else "lie apart"
