"""How a fake stage becomes an artifact of a store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provenance.artifacts import Artifact, finish, work_dir
from provenance.canonical import canonical_json
from provenance.digests import Parent, tagged_digest
from provenance.ledger import ChainWriter
from provenance.stage import StageContext

OBSERVATIONS = ("journal.jsonl", "environment.json", "accelerate.yaml")


def start_stage(context: StageContext, kind: str) -> Path:
    """The directory in which a stage is made."""
    return work_dir(context.store, kind, tagged_digest("fake/1", kind))


def finish_stage(
    context: StageContext, work: Path, kind: str, parents: Sequence[Parent], recipe: Any, **observed: Any
) -> Artifact:
    """Seal a stage; `observed` goes into the first record of its journal."""
    (work / "environment.json").write_bytes(canonical_json(_environment()))
    journal = ChainWriter(work / "journal.jsonl")
    journal.append({"kind": "start", "time_utc": "2026-11-24T00:00:00Z", **observed})
    journal.close()
    return finish(
        work,
        kind=kind,
        name=context.name,
        fingerprint=tagged_digest("fake/1", kind),
        parents=parents,
        recipe=recipe,
        code=context.code,
        observations=OBSERVATIONS,
        dev=context.dev,
    )


def _environment() -> dict[str, Any]:
    platform = {"machine": "x86_64", "system": "Linux", "cpu_model": "A <plain> processor", "devices": []}
    distributions = {"torch": {"version": "2.13.0", "record_sha256": "0" * 64}}
    values = {"python": "3.11.7", "kernel": "6.1", "num_cores": 2, "memory_bytes": 2**33}
    return {"format": "openwright-environment/1", "platform": platform, "distributions": distributions, **values}
