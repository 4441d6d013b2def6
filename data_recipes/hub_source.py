"""Sources of type `hub`: data sets on the Hugging Face Hub at one commit; every row is a document.

A file is fetched when its part is read, compared with the digest that the commit holds, and read as a local file
is (`row_parts`). Where `execution.keep_fetched` is false it is removed when its rows have been read, so that a set
needs no more disk than one file per process.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from huggingface_hub import DatasetCard

from data_recipes.document import UNRESOLVED, ExtractedDocument, LicenceFinding
from data_recipes.hub_fetch import HubFile, HubRepository, fetch_file, list_files
from data_recipes.hub_settings import HubSource
from data_recipes.licence_fields import licence_text, spdx_of_field
from data_recipes.licences import unresolved
from data_recipes.reading import PartReport, ReadingContext, SourcePart, is_wanted
from data_recipes.row_documents import stated_licence
from data_recipes.row_parts import files_entry, read_part, whole_file
from provenance.canonical import Json
from provenance.errors import ConfigError, SourceError

CARD = "README.md"
_MAX_CARD_BYTES = 4 * 2**20


class HubReader:
    """Reads a data set of the Hub, a part for each file; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: HubSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context
        if source.revision is None:
            raise ConfigError(
                f"source {source.name!r} names no commit of {source.repo_id}",
                expected="revision: 40 hexadecimal digits",
                where="sources of corpus.yaml",
                next_command=f"openwright data pin hf:{source.repo_id}, and a look at that commit before it is used",
            )
        self._repository = HubRepository(source.repo_id, source.revision)

    def parts(self) -> Sequence[SourcePart]:
        """List the files of the commit and read its card.

        Raises:
            SourceError: as `list_files` and `fetch_file`; where no file has the wanted paths, or the card says no
                licence and the recipe asks for it.
        """
        source = self._source
        listed = list_files(self._repository)
        wanted = [listed[path] for path in sorted(listed) if is_wanted(path, source.files, source.skip)]
        if not wanted:
            raise SourceError(
                f"none of {len(listed)} files is wanted",
                expected=f"files like {', '.join(source.files)}",
                where=str(self._repository),
                next_command="look at the files of that commit on its page, and correct `files` in the recipe",
            )
        card = self._card(listed)
        return [SourcePart(file.path, file.size_bytes, {**file.as_json(), "card": card}) for file in wanted]

    def _card(self, listed: dict[str, HubFile]) -> Json:
        """What the card says of the licence: the words and the sha256 of the card; null where it is not asked."""
        if not self._source.card_licence:
            return None
        where = f"{self._repository}: {CARD}"
        if CARD not in listed or listed[CARD].size_bytes > _MAX_CARD_BYTES:
            raise SourceError("there is no card of the data set", expected="a card with a licence", where=where)
        path, sha256 = fetch_file(self._repository, listed[CARD], self._context.cache_dir)
        declared = _licence_of_card(path, where)
        if declared is None:
            raise SourceError("the card names no licence", expected="`license` in its metadata", where=where)
        return {"declared": declared, "sha256": sha256}

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Fetch a file and yield its rows; raises as `fetch_file` and `read_part`."""
        source, context, pin = self._source, self._context, part.pin
        file = HubFile(pin["path"], pin["size_bytes"], pin["sha256"], pin["blob_id"])
        path, sha256 = fetch_file(self._repository, file, context.cache_dir)
        whole = SourcePart(part.name, part.size_bytes, whole_file(source, file.path, path, sha256))
        yield from read_part(source, whole, path, context.limits.max_document_bytes, self._of_all(pin["card"]), report)
        report.facts = {**report.facts, "blob_id": file.blob_id, "card": pin["card"]}
        if not context.keep_fetched:
            path.unlink()

    def _of_all(self, card: Json) -> LicenceFinding | None:
        """The licence of rows that state none of their own."""
        source = self._source
        if card is None:
            return stated_licence(source)
        spdx = spdx_of_field(card["declared"], source.licence_names)
        if spdx == UNRESOLVED:
            reason = f"{CARD}: the licence {card['declared']!r} is no SPDX expression and no known name"
            return unresolved(reason, source.as_of, declared=card["declared"])
        return LicenceFinding(spdx, card["declared"], "hf-card", f"{CARD}:license", card["sha256"], source.as_of)

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of the commit and of each file that was read."""
        source = self._source
        facts = [report.facts for report in reports]
        entry = files_entry(source, facts)
        for file, fact in zip(entry["files"], facts, strict=True):
            file["blob_id"] = fact["blob_id"]
        card = facts[0]["card"]
        return {
            **entry,
            "type": source.type,
            "repo_id": source.repo_id,
            "revision": source.revision,
            "licence": {
                "column": source.licence_column,
                "card": card,
                "stated": None if source.licence is None else source.licence.model_dump(),
                "evidence_date": source.as_of,
            },
        }


def _licence_of_card(path: Path, where: str) -> str | None:
    """The field `license` in the metadata of a card; several hold together."""
    try:
        card = DatasetCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"the card's metadata cannot be read ({type(error).__name__})", where=where) from None
    said = getattr(card.data, "license", None)
    is_text = isinstance(said, str) or (isinstance(said, list) and all(isinstance(item, str) for item in said))
    # Anything else is not written out: a few lines of YAML can stand for more text than there is memory.
    return licence_text(said) if is_text or said is None else f"a {type(said).__name__}"
