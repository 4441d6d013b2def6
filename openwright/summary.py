"""The short closing summary of a release, read from its bundle: nothing in it is remembered from the run."""

from pathlib import Path
from typing import Any

from openwright.bundles import OpenBundle, open_bundle
from openwright.report import table_lines
from provenance.canonical import read_json
from provenance.made_model import AVERAGE

SHOWN_BASELINES = ("unigram", "trigram", "gzip")


def summarise(bundle_dir: Path) -> dict[str, Any]:
    """Collect the figures of a bundle's summary; plain numbers, so that `--json` can print them."""
    bundle = open_bundle(bundle_dir)
    return {
        "name": bundle.manifest["name"],
        "version": bundle.manifest["version"],
        "dev": bundle.manifest["dev"],
        "stages": [_stage(bundle, stage) for stage in bundle.training_stages],
        "average": bundle.average,
        "heldout_bits_per_byte": _heldout(bundle),
        "evaluation": [_evaluation_row(row) for row in bundle.results],
        "openness": _openness(bundle),
        "bundle": bundle.path.as_posix(),
        "size_bytes": sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file()),
        "content_digest": bundle.manifest["content_digest"],
        "manifest_digest": bundle.manifest_digest,
        "page": bundle.page.as_posix(),
    }


def _stage(bundle: OpenBundle, stage: str) -> dict[str, Any]:
    run = bundle.run(stage)
    heldout = run["heldout"]
    return {
        "stage": stage,
        "model_type": run["model_type"],
        "num_parameters": run["num_parameters"],
        "num_steps": run["num_steps"],
        "num_tokens": run["num_tokens"],
        "heldout_bits_per_byte": {
            when: float.fromhex(heldout[when]["bits_per_byte"]) for when in ("first", "last") if heldout.get(when)
        },
    }


def _heldout(bundle: OpenBundle) -> dict[str, float]:
    """Held-out bits per byte of each model and of the baselines, all on the documents of the evaluation."""
    found = {row["model"]: float.fromhex(row["value"]) for row in bundle.results if row["metric"] == "bits_per_byte"}
    rows = read_json(bundle.model / "evaluation" / "baselines.json")["rows"]
    found |= {row["name"]: float.fromhex(row["value"]) for row in rows if row["name"] in SHOWN_BASELINES}
    return found


def _evaluation_row(row: dict[str, Any]) -> dict[str, Any]:
    numbers = ("value", "low", "high", "chance")
    return {**row, **{name: None if row[name] is None else float.fromhex(row[name]) for name in numbers}}


def _openness(bundle: OpenBundle) -> dict[str, Any]:
    reasons = {row["id"]: row["reason"] for row in bundle.verdict["results"]}
    commands = sorted({row["command"] for row in bundle.verdict["results"] if row["command"]})
    keys = ("profile", "title", "verdict", "missing", "conflicts", "statements_needed")
    profiles = [{key: profile[key] for key in keys} for profile in bundle.verdict["profiles"]]
    named = {rule for profile in profiles for key in ("missing", "conflicts") for rule in profile[key]}
    return {
        "profiles": profiles,
        "reasons": {rule: reasons[rule] for rule in sorted(named)},
        "statement_command": commands[0] if commands else "",
        "notice": bundle.verdict["notice"],
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary for people."""
    title = f"{summary['name']} {summary['version']}"
    lines = [title + (" (a --dev build: not a release)" if summary["dev"] else "")]
    for stage in summary["stages"]:
        lines.append(
            f"{stage['stage']:<10} {stage['model_type']}, {stage['num_parameters']:,} parameters, "
            f"{stage['num_steps']:,} steps, {stage['num_tokens']:,} tokens"
        )
    if average := summary["average"]:
        steps = ", ".join(f"{part['stage']} {part['step']:,}" for part in average["ingredients"])
        lines.append(f"{AVERAGE:<10} {average['kind']}, of the checkpoints {steps}")
    values = ", ".join(f"{name} {value:.3f}" for name, value in summary["heldout_bits_per_byte"].items())
    lines += [f"held-out   bits per byte: {values}", ""]
    lines += [*_evaluation_lines(summary["evaluation"]), ""]
    lines += _openness_lines(summary["openness"])
    return [
        *lines,
        f"bundle     {summary['bundle']} ({summary['size_bytes'] / 1e6:,.0f} MB)",
        f"content    {summary['content_digest']}",
        f"manifest   {summary['manifest_digest']}",
        f"page       {summary['page']}",
    ]


def _evaluation_lines(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            f"{row['model']} {row['task']} {row['metric']}",
            f"{row['value']:.4f}",
            f"[{row['low']:.4f}, {row['high']:.4f}]",
            "" if row["chance"] is None else f"{row['chance']:.4f}",
            str(row["num_items"]),
            row["verdict"],
        ]
        for row in rows
    ]
    return table_lines(("evaluation", "value", "95% interval", "chance", "items", "in plain words"), cells)


def _openness_lines(openness: dict[str, Any]) -> list[str]:
    lines = []
    for profile in openness["profiles"]:
        lines.append(f"openness   {profile['title']}: {profile['verdict']}")
        for title, key in (("missing", "missing"), ("conflict", "conflicts")):
            lines += [f"           {title}: {rule}, {openness['reasons'][rule]}" for rule in profile[key]]
        if profile["statements_needed"]:
            needed = profile["statements_needed"]
            counted = "1 statement" if len(needed) == 1 else f"{len(needed)} statements"
            lines.append(f"           {counted} by people needed: {', '.join(needed)}")
    if openness["statement_command"]:
        lines.append(f"           for example: {openness['statement_command']}")
    return lines
