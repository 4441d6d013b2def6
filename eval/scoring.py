"""From per-sample outputs to the table: pure functions, without torch, equal bits on every machine."""

import json
import math
from collections.abc import Mapping, Sequence

from eval.intervals import Interval, ratio_interval, wilson_interval
from eval.samples import ChoiceSample, Samples, TextSample
from provenance.canonical import Json, canonical_json, hex_float, parse_hex_float

RESULTS_FORMAT = "openwright-results/1"
BITS_PER_BYTE = "bits_per_byte"
ACCURACY = "acc"
NORMALISED_ACCURACY = "acc_norm"
LN_2 = 0.6931471805599453


def choose(loglikelihoods: Sequence[float], lengths: Sequence[int] | None = None) -> int:
    """Index of the most likely choice, per character where lengths are given; the first one wins a tie."""
    values = list(loglikelihoods) if lengths is None else [x / n for x, n in zip(loglikelihoods, lengths, strict=True)]
    return values.index(max(values))


def count_correct(samples: Sequence[ChoiceSample], metric: str) -> int:
    """How many items a model answers rightly by plain (`acc`) or length-normalised (`acc_norm`) likelihood."""
    return sum(
        choose(s.loglikelihoods, s.choice_num_characters if metric == NORMALISED_ACCURACY else None) == s.answer
        for s in samples
    )


def bits(loglikelihood: float) -> float:
    """Natural log-likelihood to bits of information."""
    return -loglikelihood / LN_2


def plain_scores(samples: Samples) -> dict[str, float]:
    """The scores of one model on one task, by metric, without intervals."""
    texts = [s for s in samples if isinstance(s, TextSample)]
    if texts:
        return {BITS_PER_BYTE: math.fsum(bits(s.loglikelihood) for s in texts) / sum(s.num_bytes for s in texts)}
    choices = [s for s in samples if isinstance(s, ChoiceSample)]
    return {metric: count_correct(choices, metric) / len(choices) for metric in (ACCURACY, NORMALISED_ACCURACY)}


def chance_verdict(interval: Interval, chance: float) -> str:
    """A plain word for an accuracy beside chance."""
    if interval.low > chance:
        return "above chance"
    if interval.high < chance:
        return "below chance"
    return "cannot be told from chance"


def baseline_verdict(
    samples: Sequence[TextSample], baselines: Sequence[Mapping[str, Json]], num_resamples: int, seed: int
) -> str:
    """Bits per byte beside the baselines, in words.

    Each baseline is compared on the same resampled documents: better or worse only where the 95% interval of the
    difference leaves zero out.
    """
    groups: dict[str, list[str]] = {"better than": [], "cannot be told from": [], "worse than": []}
    num_bytes = [sample.num_bytes for sample in samples]
    for row in baselines:
        if row["document_bits"] is None:
            per_byte = parse_hex_float(row["value"])
            others = [per_byte * size for size in num_bytes]
        else:
            others = [parse_hex_float(text) for text in row["document_bits"]]
        differences = [bits(s.loglikelihood) - other for s, other in zip(samples, others, strict=True)]
        interval = ratio_interval(differences, num_bytes, num_resamples, seed)
        word = "cannot be told from"
        if interval.high < 0:
            word = "better than"
        elif interval.low > 0:
            word = "worse than"
        groups[word].append(str(row["name"]))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in groups.items() if names)


def score_samples(
    samples: Mapping[str, Mapping[str, Samples]],
    baselines: Sequence[Mapping[str, Json]],
    num_resamples: int,
    seed: int,
) -> Json:
    """Build the value of `results.json` from the samples alone.

    Args:
        samples: by model and task, both in the order of the table.
        baselines: rows of `baselines.json`, whose documents are those of the bits-per-byte samples, in order.
        num_resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.
    """
    rows = []
    for model, tasks in samples.items():
        for task, found in tasks.items():
            for metric, value in plain_scores(found).items():
                row = {"model": model, "task": task, "metric": metric, "value": hex_float(value)}
                texts = [s for s in found if isinstance(s, TextSample)]
                choices = [s for s in found if isinstance(s, ChoiceSample)]
                if texts:
                    rows.append(row | _text_columns(texts, baselines, num_resamples, seed))
                else:
                    rows.append(row | _choice_columns(choices, metric))
    return {"format": RESULTS_FORMAT, "rows": rows}


def _text_columns(
    samples: Sequence[TextSample], baselines: Sequence[Mapping[str, Json]], num_resamples: int, seed: int
) -> dict[str, Json]:
    information = [bits(sample.loglikelihood) for sample in samples]
    interval = ratio_interval(information, [sample.num_bytes for sample in samples], num_resamples, seed)
    return {
        "low": hex_float(interval.low),
        "high": hex_float(interval.high),
        "num_items": len(samples),
        "chance": None,
        "lower_is_better": True,
        "verdict": baseline_verdict(samples, baselines, num_resamples, seed),
    }


def _choice_columns(samples: Sequence[ChoiceSample], metric: str) -> dict[str, Json]:
    interval = wilson_interval(count_correct(samples, metric), len(samples))
    chance = math.fsum(1 / len(sample.loglikelihoods) for sample in samples) / len(samples)
    return {
        "low": hex_float(interval.low),
        "high": hex_float(interval.high),
        "num_items": len(samples),
        "chance": hex_float(chance),
        "lower_is_better": False,
        "verdict": chance_verdict(interval, chance),
    }


def results_bytes(results: Json) -> bytes:
    """The bytes of `results.json`."""
    canonical_json(results)
    text = json.dumps(results, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    return text.encode("utf-8") + b"\n"
