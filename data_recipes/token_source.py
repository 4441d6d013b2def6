"""Sources of type `tokens`: token shards made for other programs, read in place as the texts of their documents.

The tokenizer turns ids back into text. Ids that it does not have are an error (another tokenizer, or another type of
ids); a document whose ids are not the bytes of a text is dropped by the rule `undecodable`.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_recipes.bpe import num_ids
from data_recipes.document import ExtractedDocument
from data_recipes.local_files import DatasetFile, pinned_path
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from data_recipes.text import OVERSIZED, UNDECODABLE, make_document, normalise
from data_recipes.token_files import Span, megatron_spans, olmo_spans
from data_recipes.token_settings import TokenShard, TokensSource
from provenance.canonical import Json
from provenance.errors import DataError

PART_TOKENS = 2**26
"""A part ends with the first document that ends so many tokens behind its beginning."""

_REPLACEMENT = "\ufffd"


class TokensReader:
    """Reads token shards; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: TokensSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context
        self._licence = source.licence.finding(source.as_of)

    def parts(self) -> Sequence[SourcePart]:
        """Check every file against its pin and every index against its tokens.

        Raises:
            SourceError: for a missing file or one of another digest.
            DataError: for an index that is not whole or does not fit.
        """
        self._checked(self._source.tokenizer)
        return [part for number, shard in enumerate(self._source.shards) for part in self._parts_of(number, shard)]

    def _checked(self, file: DatasetFile) -> Path:
        return pinned_path(file, self._context.data_dir, f"source {self._source.name!r}", "a file")

    def _parts_of(self, number: int, shard: TokenShard) -> Iterator[SourcePart]:
        for file in (shard.tokens, shard.index):
            if file is not None:
                self._checked(file)
        tokens, spans = self._spans(shard)
        first = begin = 0
        last: Span | None = None
        for last in spans:
            if last.end - begin >= PART_TOKENS or last.end == len(tokens):
                yield self._part(number, shard, first, last, (last.end - begin) * tokens.itemsize)
                first, begin = last.number + 1, last.end
        if last is not None and first <= last.number:  # empty documents behind the last token
            yield self._part(number, shard, first, last, 0)

    def _part(self, number: int, shard: TokenShard, first: int, last: Span, size_bytes: int) -> SourcePart:
        digests = [file.sha256 for file in (shard.tokens, shard.index, self._source.tokenizer) if file is not None]
        pin = {"shard": number, "files": digests, "first": first, "end": last.number + 1}
        return SourcePart(f"{shard.tokens.path}@{first}", size_bytes, pin)

    def _spans(self, shard: TokenShard) -> tuple[npt.NDArray[Any], Iterator[Span]]:
        source, data_dir = self._source, self._context.data_dir
        tokens = data_dir / shard.tokens.path
        index = None if shard.index is None else data_dir / shard.index.path
        if source.format == "megatron":
            assert index is not None
            return megatron_spans(tokens, index)
        return olmo_spans(tokens, index, source.dtype or "", source.eos_id)

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the documents of one part.

        Raises:
            DataError: for ids that the tokenizer does not have, and as `parts`.
        """
        shard = self._source.shards[part.pin["shard"]]
        tokens, spans = self._spans(shard)
        tokenizer = self._tokenizer()
        known = _known_ids(tokenizer)
        num_tokens = 0
        for span in islice(spans, part.pin["first"], part.pin["end"]):
            report.num_files += 1
            ids = np.asarray(tokens[span.first : span.end])
            num_tokens += len(ids)
            if len(ids) and ids[-1] == self._source.eos_id:
                ids = ids[:-1]
            if len(ids) == 0:
                report.skipped["document without tokens"] += 1
            else:
                self._check_ids(shard, span, ids, known)
                yield self._document(shard, span, ids, tokenizer)
        report.facts = {"shard": part.pin["shard"], "num_tokens": num_tokens, "num_documents": report.num_files}

    def _tokenizer(self) -> Tokenizer:
        path = self._context.data_dir / self._source.tokenizer.path
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            told = f"source {self._source.name!r}: the tokenizer cannot be read ({type(error).__name__})"
            raise DataError(told, expected="a tokenizer.json", where=str(path)) from None

    def _check_ids(self, shard: TokenShard, span: Span, ids: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> None:
        """Refuse ids that the tokenizer does not have: it would leave them out without a word."""
        wide = ids.astype(np.int64)
        is_inside = (wide >= 0) & (wide < len(known))
        unknown = wide[~(is_inside & known[np.where(is_inside, wide, 0)])]
        if len(unknown):
            sign = "the negative id" if unknown[0] < 0 else "the id"
            raise DataError(
                f"source {self._source.name!r}: document {span.number} has {sign} {unknown[0]}",
                expected=f"ids of the tokenizer, below {len(known)}",
                where=str(self._context.data_dir / shard.tokens.path),
                next_command="name the tokenizer and the dtype that the shards were made with",
            )

    def _document(
        self, shard: TokenShard, span: Span, ids: npt.NDArray[Any], tokenizer: Tokenizer
    ) -> ExtractedDocument:
        source = self._source
        text, broken = self._text(ids, tokenizer)
        name = f":{span.name}" if span.name.isprintable() and 0 < len(span.name) <= 200 else ""
        place = f"{shard.tokens.path}#{span.number}{name}"
        document = make_document(
            source.name, shard.tokens.sha256, place, "tokens", normalise(text), ids.tobytes(), self._licence
        )
        return ExtractedDocument(document, broken)

    def _text(self, ids: npt.NDArray[Any], tokenizer: Tokenizer) -> tuple[str, str]:
        """The text of some ids and an empty rule; or an empty text and the rule that they break."""
        if len(ids) > self._context.limits.max_document_bytes:  # a token is a byte at least
            return "", OVERSIZED
        values = ids.tolist()
        text = tokenizer.decode(values, skip_special_tokens=False)
        if len(text.encode("utf-8")) > self._context.limits.max_document_bytes:
            return "", OVERSIZED
        if _REPLACEMENT in text and tokenizer.encode(text, add_special_tokens=False).ids != values:
            return "", UNDECODABLE
        return text, ""

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of all files, with what each shard holds."""
        source = self._source
        totals = {key: sum(report.facts[key] for report in reports) for key in ("num_documents", "num_tokens")}
        data_dir = self._context.data_dir
        entries = [
            {"path": file.path, "sha256": file.sha256, "size_bytes": (data_dir / file.path).stat().st_size}
            for file in source.files
        ]
        return {
            "name": source.name,
            "type": source.type,
            "format": source.format,
            "files": entries,
            "size_bytes": sum(entry["size_bytes"] for entry in entries),
            "tokenizer_sha256": source.tokenizer.sha256,
            "eos_id": source.eos_id,
            "split": source.split,
            **source.terms_entry(),
            "schema": {"tokens": [source.dtype or "as the index says"]},
            "statistics": totals,
            "licence": {**source.licence.model_dump(), "evidence_date": source.as_of},
        }


def _known_ids(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Whether a tokenizer has each id up to its largest one; there may be gaps."""
    known = np.zeros(num_ids(tokenizer), dtype=np.bool_)
    known[list(tokenizer.get_vocab().values())] = True
    return known
