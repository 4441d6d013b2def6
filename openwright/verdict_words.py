"""What the checks of `verify` come to, in sentences for people who read no digests; nothing that no check says."""

from collections.abc import Sequence
from typing import Any

from openwright.report import NOTE

_DATA = ("documents", "document rows", "texts")
_OPENNESS = ("openness verdict", "generated documents")
_WHOSE = ("identity", "signature")


def in_words(results: Sequence[Any]) -> list[str]:
    """Sentences on identity, files, records, data, documents and what stays open, with the checks that they stand for.

    Args:
        results: all check results of a `verify`.
    """
    judged = [result for result in results if result.check != NOTE]
    files = [r for r in judged if r.check == "bytes" and r.name not in _WHOSE]
    records = [r for r in judged if r.check == "records" and r.name not in (*_DATA, *_OPENNESS)]
    lines = ["in words:", f"  whose      {_identity(judged)}"]
    lines.append(
        "  files      "
        + _told(files, "every file is the one that the bundle lists; none was added, changed or taken away")
    )
    lines.append(
        "  training   "
        + _told(
            records, "which text each step read, in which order, and which weights came of it is on record, and agrees"
        )
    )
    lines.append(
        "  data       "
        + _told(
            [r for r in judged if r.name in _DATA],
            "each document is listed with its recorded licence and decision, and the texts here are those documents",
        )
    )
    lines.append(
        "  documents  "
        + _told(
            [r for r in judged if r.name in _OPENNESS], "cards, notices and openness verdict say what the records give"
        )
    )
    lines.append(
        "  not shown  that training gives these weights (openwright reproduce); that a licence was declared by"
    )
    lines.append("             someone entitled to; that the stored evaluation outputs are the model's")
    return lines


def _identity(judged: Sequence[Any]) -> str:
    verdicts = {result.name: result for result in judged if result.name in _WHOSE}
    identity, signature = verdicts.get("identity"), verdicts.get("signature")
    if signature is not None and signature.verdict == "FAIL":
        return "NOT what the holder of the key that you gave signed"
    if identity is None:
        return "nobody can say: there is no manifest here to compare"
    if identity.verdict == "FAIL":
        return "NOT the bundle that you were promised"
    if signature is not None and signature.verdict == "PASS":
        return "signed by the holder of the key that you gave"
    if identity.verdict == "PASS":
        return "the bundle whose digest you gave"
    return "nobody vouches for it: you gave neither its digest (--expect) nor its publisher's key (--key)"


def _told(results: Sequence[Any], holds: str) -> str:
    """What holds, or the first thing that does not; what was left open is never told as holding."""
    for verdict, word in (("FAIL", "WRONG"), ("UNVERIFIED", "not fully checked")):
        found = [result for result in results if result.verdict == verdict]
        if found:
            more = f" (and {len(found) - 1} more above)" if found[1:] else ""
            return f"{word}: {found[0].name}: {found[0].detail}{more}"
    return holds if results else "not checked"
