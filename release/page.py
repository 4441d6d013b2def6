"""The release page: one HTML file without network or script, generated from the bundle."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from provenance.canonical import parse_hex_float
from release.cards import document_values
from release.display import count, number, percent, render
from release.facts import BundleFacts
from release.page_charts import Bar, bar_chart, loss_chart

_STYLE = Path(__file__).with_name("templates") / "page.css"

_SYMBOLS = {
    "pass": "✓",
    "fail": "✗",
    "needs_statement": "✎",
    "unknown": "?",
    "not_applicable": "\u2013",
    "evidence complete": "✓",
    "evidence missing": "✗",
    "needs statement": "✎",
    "conflict": "!",
}


def release_page(facts: BundleFacts, verdict: dict[str, Any]) -> str:
    """Return `model/index.html`.

    Args:
        verdict: the value of `openness/verdict.json`.
    """
    values = {
        **document_values(facts),
        "verdict": verdict,
        "style": Markup(_STYLE.read_text(encoding="utf-8")),
        "symbols": _SYMBOLS,
        "data_date": facts.data_date,
        "loss_charts": [(stage, Markup(_loss_chart(facts, stage))) for stage in facts.training_stages],
        "bits_chart": Markup(_bits_chart(facts)),
        "mix_chart": Markup(_mix_chart(facts)),
        "trained_share": trained_shares(facts),
        "environments": [(stage, environment_rows(facts, stage)) for stage in facts.training_stages],
    }
    return render("page.html.j2", values)


def _loss_chart(facts: BundleFacts, stage: str) -> str:
    ledger = facts.ledgers[stage]
    heldout = [(record["step"], record["loss"]) for record in ledger.evaluations]
    return loss_chart(f"Loss of {stage}", ledger.losses, heldout, facts.kept_checkpoints(stage))


def _bits_chart(facts: BundleFacts) -> str:
    """Bits per byte of the models and of the baselines, on the documents of the evaluation; best first."""
    bars = [
        Bar(
            label=row["model"],
            value=parse_hex_float(row["value"]),
            text=number(row["value"]),
            emphasis=True,
            low=parse_hex_float(row["low"]),
            high=parse_hex_float(row["high"]),
        )
        for row in facts.results
        if row["metric"] == "bits_per_byte"
    ]
    for row in facts.baselines["rows"]:
        bars.append(Bar(f"{row['name']} (baseline)", parse_hex_float(row["value"]), number(row["value"])))
    return bar_chart("Bits per byte on held-out projects", sorted(bars, key=lambda bar: (bar.value, bar.label)))


def trained_shares(facts: BundleFacts) -> dict[str, dict[str, int]]:
    """Tokens read per source and stage, by the ledgers."""
    return {stage: dict(sorted(facts.ledgers[stage].tokens_by_source.items())) for stage in facts.training_stages}


def _mix_chart(facts: BundleFacts) -> str:
    """Tokens kept per training source, and below each the tokens that the first stage's ledger says were read."""
    read = facts.ledgers[facts.training_stages[0]].tokens_by_source
    total = sum(read.values())
    sources = sorted((s for s in facts.sources if s.split == "train"), key=lambda s: (-s.kept_tokens, s.name))
    bars = [
        Bar(
            label=source.name,
            value=float(source.kept_tokens),
            text=f"{count(source.kept_tokens)} kept",
            second=float(read.get(source.name, 0)),
            second_text=f"{count(read.get(source.name, 0))} read, {percent(read.get(source.name, 0), total)}",
        )
        for source in sources
    ]
    return bar_chart("Tokens per training source", bars)


def environment_rows(facts: BundleFacts, stage: str) -> list[tuple[str, str]]:
    """What was observed of the machine that ran a stage; empty where nothing was recorded."""
    environment = facts.environment(stage)
    if not environment:
        return []
    platform = environment.get("platform", {})
    versions = environment.get("distributions", {})
    libraries = [name for name in ("torch", "transformers", "accelerate", "tokenizers", "numpy") if name in versions]
    rows = [
        ("Processor", platform.get("cpu_model", "")),
        ("Cores", str(environment.get("num_cores", ""))),
        ("Memory", f"{int(environment.get('memory_bytes', 0)) / 2**30:.0f} GiB"),
        ("System", f"{platform.get('system', '')} {environment.get('kernel', '')}, {platform.get('machine', '')}"),
        ("Python", str(environment.get("python", ""))),
        ("Libraries", ", ".join(f"{name} {versions[name]['version']}" for name in libraries)),
        ("Devices", ", ".join(platform.get("devices", [])) or "none, CPU only"),
        ("Platform digest", str(platform.get("digest", ""))[:12]),
    ]
    return [(name, value) for name, value in rows if value]
