"""Exact de-duplication by the digest of the normalised text."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Candidate:
    """What de-duplication needs to know about a document that passed all rules before it."""

    document_id: str
    text_sha256: str
    source: str
    licence: str
    is_heldout: bool


@dataclass(frozen=True)
class Cluster:
    """Documents with one text.

    Attributes:
        kept: id of the one that stays.
        dropped: ids of the others, sorted.
        sources: names of the sources of all of them, sorted, each once.
        licences: SPDX expressions of all of them, sorted, each once.
    """

    kept: str
    dropped: tuple[str, ...]
    sources: tuple[str, ...]
    licences: tuple[str, ...]


def cluster_exact(candidates: Iterable[Candidate]) -> list[Cluster]:
    """Group documents by text, in the order of the kept ids.

    A held-out document is kept before any other, so that no held-out text is trained on; else the smallest id is.
    """
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.text_sha256].append(candidate)
    return sorted((_cluster(group) for group in groups.values()), key=lambda cluster: cluster.kept)


def _cluster(group: list[Candidate]) -> Cluster:
    kept, *dropped = sorted(group, key=lambda candidate: (not candidate.is_heldout, candidate.document_id))
    return Cluster(
        kept=kept.document_id,
        dropped=tuple(sorted(candidate.document_id for candidate in dropped)),
        sources=tuple(sorted({candidate.source for candidate in group})),
        licences=tuple(sorted({candidate.licence for candidate in group})),
    )
