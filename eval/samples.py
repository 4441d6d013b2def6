"""Per-sample outputs: `samples/<model>/<task>.jsonl`, one canonical JSON object per line.

A line holds all that its score needs (`item_id`, byte or character lengths, the answer, log-likelihoods as
hexadecimal floats), a digest of the rendered inputs (`evaluation-inputs/1`: the strings that the model was given)
and a digest of the line itself without that field (`evaluation-sample/1`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json, canonical_json, parse_hex_float, parse_json
from provenance.digests import tagged_digest
from provenance.errors import EvaluationError


@dataclass(frozen=True)
class TextSample:
    """The outcome for one document: its bytes and the log-likelihood (natural logarithm) of all its tokens."""

    item_id: str
    num_bytes: int
    loglikelihood: float


@dataclass(frozen=True)
class ChoiceSample:
    """The outcome for one multiple-choice item; sequences are in the order of the choices."""

    item_id: str
    answer: int
    choice_num_characters: tuple[int, ...]
    loglikelihoods: tuple[float, ...]


Samples = Sequence[TextSample] | Sequence[ChoiceSample]


def inputs_digest(rendered: Sequence[Sequence[str]]) -> str:
    """Digest `evaluation-inputs/1` of the argument strings of an item's requests, in order."""
    return tagged_digest("evaluation-inputs/1", [list(arguments) for arguments in rendered])


def sample_line(values: Mapping[str, Json]) -> bytes:
    """One line of a samples file, with its own digest, without the newline."""
    return canonical_json({**values, "digest": tagged_digest("evaluation-sample/1", dict(values))})


def read_samples(path: Path) -> Samples:
    """Read a samples file and check each line's digest.

    Raises:
        EvaluationError: naming the file, line and item of a sample that is not what was written.
    """
    if not path.is_file():
        raise EvaluationError("the samples are missing", expected="a JSON lines file", where=str(path))
    samples = [_read_line(line, f"{path}:{n}") for n, line in enumerate(path.read_bytes().splitlines(), start=1)]
    if not samples:
        raise EvaluationError("no samples", expected="one line per item", where=str(path))
    texts = [sample for sample in samples if isinstance(sample, TextSample)]
    choices = [sample for sample in samples if isinstance(sample, ChoiceSample)]
    if texts and choices:
        raise EvaluationError("samples of two kinds in one file", where=str(path))
    return texts or choices


def read_items(path: Path) -> list[Json]:
    """Read the items of a task."""
    return [parse_json(line, f"{path}:{n}") for n, line in enumerate(path.read_bytes().splitlines(), start=1)]


def _read_line(line: bytes, where: str) -> TextSample | ChoiceSample:
    values = parse_json(line, where)
    if not isinstance(values, dict):
        raise EvaluationError("not a sample", expected="a JSON object", where=where)
    digest = values.pop("digest", None)
    if tagged_digest("evaluation-sample/1", values) != digest:
        raise EvaluationError(
            f"sample {values.get('item_id')} was changed after it was written",
            expected=f"values with digest {digest}",
            where=where,
        )
    try:
        if "num_bytes" in values:
            loglikelihood = parse_hex_float(values["loglikelihood"])
            return TextSample(values["item_id"], int(values["num_bytes"]), loglikelihood)
        return ChoiceSample(
            values["item_id"],
            int(values["answer"]),
            tuple(int(length) for length in values["choice_num_characters"]),
            tuple(parse_hex_float(text) for text in values["loglikelihoods"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"not a sample ({error!r})", expected="the fields of a sample", where=where) from None
