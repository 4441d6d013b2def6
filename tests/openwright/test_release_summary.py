from openwright.summary import summarise, summary_lines
from provenance.canonical import write_json
from provenance.digests import sha256_file


def evaluation_row(model, metric, value, chance=None, verdict="cannot be told from chance"):
    return {
        "model": model,
        "task": "приклад",
        "metric": metric,
        "value": value.hex(),
        "low": (value - 0.1).hex(),
        "high": (value + 0.1).hex(),
        "num_items": 40,
        "chance": None if chance is None else chance.hex(),
        "lower_is_better": chance is None,
        "verdict": verdict,
    }


def write_bundle(bundle):
    model = bundle / "model"
    write_json(
        model / "manifest.json",
        {
            "name": "tiny",
            "version": "1.2",
            "dev": False,
            "content_digest": "c" * 64,
            "stages": [{"stage": "corpus"}, {"stage": "pretrain"}, {"stage": "eval"}],
        },
    )
    heldout = {when: {"bits_per_byte": value.hex()} for when, value in (("first", 3.5), ("last", 2.25))}
    write_json(
        model / "training" / "pretrain" / "run.json",
        {"model_type": "llama", "num_parameters": 12345, "num_steps": 6, "num_tokens": 777, "heldout": heldout},
    )
    rows = [
        evaluation_row("pretrain", "bits_per_byte", 2.2, verdict="worse than gzip"),
        evaluation_row("pretrain", "acc", 0.26, chance=0.25),
    ]
    write_json(model / "evaluation" / "results.json", {"rows": rows})
    baselines = [{"name": name, "value": value.hex()} for name, value in (("unigram", 4.0), ("gzip", 2.0), ("xz", 1.9))]
    write_json(model / "evaluation" / "baselines.json", {"rows": baselines})
    profile = {
        "profile": "osaid",
        "title": "OSAID 1.0",
        "verdict": "evidence missing",
        "missing": ["DATA-3"],
        "conflicts": [],
        "statements_needed": ["DATA-9"],
    }
    results = [
        {"id": "DATA-3", "reason": "no place is named", "command": None},
        {"id": "DATA-9", "reason": "", "command": "openwright release statement DATA-9"},
    ]
    write_json(
        model / "openness" / "verdict.json", {"profiles": [profile], "results": results, "notice": "not legal advice"}
    )
    return bundle


def test_the_summary_says_what_the_bundle_says(tmp_path):
    bundle = write_bundle(tmp_path / "tiny-1.2")
    text = "\n".join(summary_lines(summarise(bundle)))
    for words in (
        "12,345 parameters",
        "6 steps",
        "777 tokens",
        "pretrain 2.200",
        "unigram 4.000",
        "gzip 2.000",
        "[0.1600, 0.3600]",
        "cannot be told from chance",
        "OSAID 1.0: evidence missing",
        "missing: DATA-3, no place is named",
        "1 statement by people needed: DATA-9",
        "openwright release statement DATA-9",
        "c" * 64,
        sha256_file(bundle / "model" / "manifest.json"),
        "index.html",
    ):
        assert words in text, words


def test_the_figures_of_the_summary_are_numbers(tmp_path):
    summary = summarise(write_bundle(tmp_path / "tiny-1.2"))
    assert summary["stages"][0]["heldout_bits_per_byte"] == {"first": 3.5, "last": 2.25}
    assert summary["evaluation"][1]["chance"] == 0.25
    assert summary["size_bytes"] > 0
