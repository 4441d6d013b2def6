"""What a bundle leaves out of a corpus because it was asked to: texts of forgotten documents, and their tokens.

Rows, ids and places stay, so that the order of a run that read them can still be recomputed. A token file that holds
forgotten documents is not shipped; a copy with their tokens blanked lies below `redacted/`, and `tombstones.json` says
where it is blank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from shlex import quote

import numpy as np

from data_recipes.tombstones import (
    TOMBSTONES_NAME,
    Tombstone,
    held_documents,
    read_tombstones,
    token_ranges,
    write_tombstones,
)
from data_recipes.windows import REDACTED_FOLDER, TOKEN_DTYPES
from provenance.canonical import Json, read_json
from provenance.errors import ReleaseError


@dataclass(frozen=True)
class Redaction:
    """What tombstones mean for one corpus.

    Attributes:
        documents: ids of kept documents to forget.
        ranges: by path of a token file, stretches `(begin, end)` of tokens to blank, in order.
        token: the id that is written there: the padding token.
    """

    documents: frozenset[str]
    ranges: Mapping[str, tuple[tuple[int, int], ...]]
    token: int

    def blanked(self, shipped: Sequence[str]) -> Json:
        """What `tombstones.json` of a bundle says of the files that would have been shipped."""
        files = [
            {"path": path, "ranges": [list(stretch) for stretch in self.ranges[path]]}
            for path in sorted(self.ranges)
            if path in shipped
        ]
        return {"token": self.token, "files": files}


def refuse_quoted(corpus: Path, tombstones: Sequence[Tombstone], evaluation: Json, config_dir: Path) -> None:
    """Refuse to take a held-out document down as long as an evaluation may quote it.

    Args:
        evaluation: recipe of the evaluation that the release holds.
        config_dir: the release's, for the message.

    Raises:
        ReleaseError: with what has to be added to `eval.yaml`.
    """
    held = held_documents(corpus, tombstones)
    named = {document.document_id for document in held if (document.decision, document.split) == ("kept", "heldout")}
    quoted = sorted(named - set(evaluation.get("forget", ())))
    if quoted:
        forget = sorted(named | set(evaluation.get("forget", ())))
        raise ReleaseError(
            f"document {quoted[0][:12]} is held out, and the evaluation of this release may quote it",
            expected="an evaluation that was made without the held-out documents that are taken down",
            where=TOMBSTONES_NAME,
            next_command=f"write `forget: [{', '.join(forget)}]` into {config_dir / 'eval.yaml'}, then openwright run "
            f"{quote(str(config_dir))}: corpus and models stay, the evaluation and the bundle are made again",
        )


def refuse_same_version(releases: Path, folder: str, tombstones: Sequence[Tombstone]) -> None:
    """Refuse a bundle with the name and version of another one that takes other documents down.

    Both would have one content digest: it speaks of what was made, and not of what is shipped.

    Args:
        releases: directory of the release artifacts that were built before.
        folder: `<name>-<version>`.

    Raises:
        ReleaseError: naming the bundle that is there.
    """
    named = {tombstone.document_id for tombstone in tombstones}
    for bundle in sorted(releases.glob(f"*/{escape(folder)}")):
        before = {tombstone.document_id for tombstone in read_tombstones(bundle / "dataset" / TOMBSTONES_NAME)}
        if before != named:
            raise ReleaseError(
                f"{folder} was built before, and takes {len(before)} documents down instead of {len(named)}",
                expected="a version of its own for each bundle that differs in what it takes down",
                where=str(bundle),
                next_command="give release.yaml a new version; or remove that artifact, if nobody has it",
            )


def plan_redaction(corpus: Path, tombstones: Sequence[Tombstone]) -> Redaction:
    """Find what has to be left out."""
    held = [document for document in held_documents(corpus, tombstones) if document.decision == "kept"]
    ranges: dict[str, set[tuple[int, int]]] = {}
    for parts in token_ranges(corpus, held).values():
        for part in parts:
            ranges.setdefault(part.path, set()).add((part.begin, part.end))
    token = read_json(corpus / "tokens" / "tokens.json")["pad_id"]
    ids = frozenset(document.document_id for document in held)
    return Redaction(ids, {path: tuple(sorted(found)) for path, found in ranges.items()}, int(token))


def write_redacted(
    corpus: Path, target: Path, redaction: Redaction, shipped: Sequence[str], tombstones: Sequence[Tombstone]
) -> None:
    """Write the blanked copies and `tombstones.json` of a dataset directory.

    Args:
        shipped: token files that would be copied if nothing had been forgotten.
    """
    dtypes = {
        shard["files"]["tokens"]["path"]: TOKEN_DTYPES[split["dtype"]]
        for split in read_json(corpus / "tokens" / "tokens.json")["splits"].values()
        for source in split["sources"]
        for shard in source["shards"]
    }
    blanked = redaction.blanked(shipped)
    for file in blanked["files"]:
        tokens = np.fromfile(corpus / file["path"], dtypes[file["path"]])
        for begin, end in file["ranges"]:
            tokens[begin:end] = redaction.token
        path = target / REDACTED_FOLDER / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tokens.tobytes())
    write_tombstones(target / TOMBSTONES_NAME, tombstones, blanked)
