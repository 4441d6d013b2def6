"""Model card and data card, generated from manifests and ledgers alone and read by the Hub's own classes."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from provenance.canonical import Json, parse_hex_float
from release.chat_counts import chat_findings
from release.components import assertion, licence_of
from release.display import is_small, render, task_name
from release.facts import BundleFacts, SourceFacts
from release.layout import TEXT_FOLDERS
from release.licence_terms import licence_ids
from release.sources import class_of, location_of, pin_of
from release.tolerance import TOLERANCE_NAME, read_tolerance, summary_of

HUB_LICENCES = frozenset(
    {
        "0bsd",
        "agpl-3.0",
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
    }
    | {"cc0-1.0", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "unlicense", "zlib"}
)
"""Licence names that the Hub knows; it is told `other` of the rest."""


PROMISES = {
    "exact": "the same bits on the recorded platform at every number of processes up to the logical replicas",
    "native": "the same bits on the recorded platform at the recorded layout of processes only",
}
"""What each kind of gradient reduction promises to who replays a run."""

PRECISIONS = {"fp32": "fp32", "bf16": "bf16 compute, fp32 master weights, optimizer and reduction"}


def hub_licences(expressions: list[str]) -> list[str]:
    """Names of licences for the front matter of a card, sorted."""
    found = set()
    for spdx in (spdx for expression in expressions for spdx in licence_ids(expression)):
        name = spdx.lower().removesuffix("-only").removesuffix("-or-later")
        found.add(name if name in HUB_LICENCES else "other")
    return sorted(found) or ["other"]


def model_card(facts: BundleFacts, verdict: dict[str, Any]) -> str:
    """Return `model/README.md`."""
    components = facts.components
    name = f"{components['name']}-{components['version']}"
    licences = hub_licences([licence_of(components, "weights")])
    data = ModelCardData(
        language=list(components["languages"]),
        license=licences[0] if len(licences) == 1 else "other",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["openwright", "fully-open"],
        datasets=[f"{name}-dataset"],
        model_name=name,
        eval_results=_eval_results(facts),
    )
    values = {
        **document_values(facts),
        "verdict": verdict,
        "assertion": assertion(components),
        "has_chat_template": (facts.model / "chat_template.jinja").is_file(),
    }
    body = render("model_card.md.j2", values)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
    return str(card.content)


def _eval_results(facts: BundleFacts) -> list[EvalResult]:
    """Rows of the evaluation table that are about the released model, for the card's `model-index`."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["task"],
            dataset_name=f"{task_name(row['task'])} (held-out projects)",
            metric_type=row["metric"],
            metric_value=round(parse_hex_float(row["value"]), 6),
        )
        for row in facts.results
        if row["model"] == facts.released_stage
    ]


def data_card(facts: BundleFacts) -> str:
    """Return `dataset/README.md`."""
    components = facts.components
    data = DatasetCardData(
        language=list(components["languages"]),
        license=hub_licences(facts.kept_licences),
        task_categories=["text-generation"],
        pretty_name=f"{components['name']} {components['version']} training data",
        tags=["openwright"],
        configs=_dataset_configs(facts),
    )
    values = {
        "components": components,
        "sources": [source_row(source) for source in facts.sources],
        "shipping": components["shipping"],
        "num_forgotten": len(facts.forgotten),
        "corpus": facts.corpus,
        "chat_findings": chat_findings(facts.corpus),
        "content_digest": facts.dataset_manifest["corpus"]["content_digest"],
        "data_information": licence_of(components, "data_information"),
        "configs": _dataset_configs(facts),
        "splits": token_splits(facts),
    }
    body = render("data_card.md.j2", values)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}").content)


def _dataset_configs(facts: BundleFacts) -> list[dict[str, Json]]:
    """Configs of `datasets.load_dataset`, for the files that the bundle has: of one without rows it loads nothing."""
    configs: list[dict[str, Json]] = []
    for folder in TEXT_FOLDERS:
        name = "default" if folder == "text" else folder
        splits = [split for split in ("train", "heldout") if _has_rows(facts.dataset / folder, split)]
        files = [{"split": split, "path": f"{folder}/{split}-*.parquet"} for split in splits]
        if files:
            default = {"default": True} if name == "default" else {}
            configs.append({"config_name": name, **default, "data_files": files})
    return configs


def _has_rows(folder: Path, split: str) -> bool:
    return any(pq.read_metadata(path).num_rows for path in folder.glob(f"{split}-*.parquet"))


def token_splits(facts: BundleFacts) -> list[dict[str, Json]]:
    """Token splits with their totals."""
    return [
        {
            "name": name,
            "layout": split["layout"],
            "num_tokens": sum(source["num_tokens"] for source in split["sources"]),
            "num_documents": sum(source["num_documents"] for source in split["sources"]),
            "digest": split["digest"],
        }
        for name, split in sorted(facts.token_table["splits"].items())
    ]


def source_row(source: SourceFacts) -> dict[str, Any]:
    """What tables say of a source."""
    return {
        "name": source.name,
        "split": source.split or str(source.lock.get("split", "")),
        "data_class": class_of(source.lock),
        "location": location_of(source.lock),
        "pin": pin_of(source.lock),
        "version": str(source.lock.get("version", "")),
        "num_kept": source.num_kept,
        "num_dropped": source.num_dropped,
        "kept_bytes": source.kept_bytes,
        "kept_tokens": source.kept_tokens,
        "licences": sorted(source.licences.items()),
        "dropped_licences": sorted(source.dropped_licences.items()),
        "drops": sorted(source.drops.items()),
    }


def stage_row(facts: BundleFacts, stage: str) -> dict[str, Any]:
    """What documents say of a training stage, all of it from `run.json` and the ledger."""
    run, ledger = facts.run(stage), facts.ledgers[stage]
    order = ledger.start["order"]
    heldout = [record for record in ledger.evaluations if record["split"]]
    kept = facts.kept_checkpoints(stage)
    return {
        "stage": stage,
        "model_type": run["model_type"],
        "num_parameters": run["num_parameters"],
        "num_steps": run["num_steps"],
        "num_trained_tokens": ledger.num_trained_tokens,
        "tokens_read": sum(ledger.tokens_by_source.values()),
        "batches": _batches(order),
        "seed": order["seed"],
        "order_file": order.get("file"),
        "num_logical_replicas": ledger.start["num_logical_replicas"],
        "reduction": ledger.start["reduction"],
        "promise": PROMISES[ledger.start["reduction"]],
        "precision": PRECISIONS[facts.recipe(stage)["precision"]],
        "tolerance": _tolerance(facts, stage),
        "skipped": ledger.skipped,
        "branch": ledger.branch,
        "peak_learning_rate": max(ledger.learning_rates, default=0.0),
        "first_loss": ledger.losses[0][1] if ledger.losses else None,
        "last_loss": ledger.losses[-1][1] if ledger.losses else None,
        "heldout": [heldout[0], heldout[-1]] if heldout else [],
        "num_checkpoints_made": len(ledger.checkpoints),
        "num_checkpoints": len(kept),
        "num_full_checkpoints": sum(kind == "full" for _, kind in kept),
        "weights_digest": run["final"]["weights_digest"],
        "ledger_head": run["ledger"]["head"],
        "code": facts.stage_manifest(stage)["code"],
    }


def _tolerance(facts: BundleFacts, stage: str) -> str:
    """What was measured of the noise between platforms, or nothing."""
    path = facts.model / "training" / stage / TOLERANCE_NAME
    return summary_of(read_tolerance(path)) if path.is_file() else ""


def _batches(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Sequences per step for each window length of a run, in the order in which its phases use them."""
    found: dict[int, set[int]] = {}
    for phase in order["phases"]:
        found.setdefault(phase.get("window_tokens", order["window_tokens"]), set()).add(phase["sequences_per_step"])
    return [{"window_tokens": length, "sequences": sorted(counts)} for length, counts in found.items()]


def document_values(facts: BundleFacts) -> dict[str, Any]:
    """Values that the model card and the release page share."""
    released = facts.released_model
    return {
        "components": facts.components,
        "dev": facts.dev,
        "content_digest": facts.content_digest,
        "dataset_digest": facts.dataset_manifest["content_digest"],
        "num_parameters": released.num_parameters,
        "model_type": released.model_type,
        "is_small": is_small(released.num_parameters),
        "stages": [stage_row(facts, stage) for stage in facts.training_stages],
        "average": facts.average,
        "lineage": facts.stages,
        "sources": [source_row(source) for source in facts.sources],
        "corpus": facts.corpus,
        "results": facts.results,
        "baselines": facts.baselines["rows"],
        "released_stage": facts.released_stage,
        "harness": facts.record.get("harness", {}),
        "weights_licence": licence_of(facts.components, "weights"),
    }
