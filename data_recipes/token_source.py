"""Sources of type `tokens`: token shards made for other programs, read where they lie as the texts of their documents.

The tokenizer turns ids back into text. Ids that it does not have are an error (another tokenizer, or another type of
ids); a document whose ids are not the bytes of a text, or stand for text that the vocabulary lacks, is dropped by the
rule `undecodable`. Of a source in place (`in_place: true`) every document with a token is yielded, with its place:
`data_recipes/place_step.py` takes the files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_recipes.bpe import num_ids, unknown_token_id
from data_recipes.derived_files import LineCopies, derived_file
from data_recipes.document import ExtractedDocument, TokenPlace
from data_recipes.local_files import DatasetFile, pinned_file, pinned_path
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from data_recipes.text import OVERSIZED, UNDECODABLE, make_document, normalise
from data_recipes.token_files import Span, Stretch, megatron_spans, olmo_spans
from data_recipes.token_settings import TokenShard, TokensSource
from data_recipes.tokenizer_file import check_decoder
from provenance.canonical import Json
from provenance.errors import DataError

PART_TOKENS = 2**26
"""A part ends with the first document that ends so many tokens behind its beginning."""

IN_PLACE = "in-place"
"""Kind of a document whose tokens are trained on where they stand."""

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class _Decoder:
    """Turns ids into text.

    Attributes:
        unknown_id: the id that stands for text that cannot be had again; None where there is none.
        max_bytes: the longest text.
    """

    tokenizer: Tokenizer
    unknown_id: int | None
    max_bytes: int

    def text(self, ids: npt.NDArray[Any]) -> tuple[str, str]:
        """The text of some ids, as far as they are one, and the rule that they break; empty where they break none."""
        if len(ids) > self.max_bytes:  # a token is a byte at least
            return "", OVERSIZED
        values = ids.tolist()
        text = self.tokenizer.decode(values, skip_special_tokens=False)
        if len(text.encode("utf-8")) > self.max_bytes:
            return "", OVERSIZED
        is_text = _REPLACEMENT not in text or self.tokenizer.encode(text, add_special_tokens=False).ids == values
        return text, "" if is_text and self.unknown_id not in values else UNDECODABLE


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
        user = f"source {self._source.name!r}"
        pinned_file(self._tokenizer_path, self._source.tokenizer.sha256, user, "a tokenizer.json")
        parts = [part for number, shard in enumerate(self._source.shards) for part in self._parts_of(number, shard)]
        if not self._source.in_place:
            return [part for part, _ in parts]
        ordinals = list(accumulate((num_documents for _, num_documents in parts), initial=0))
        return [
            replace(part, pin={**part.pin, "ordinal": ordinal, "num_documents": ordinals[-1]})
            for (part, _), ordinal in zip(parts, ordinals, strict=False)
        ]

    @property
    def _tokenizer_path(self) -> Path:
        """Where the tokenizer lies: that of a source in place is the corpus's own."""
        if self._source.in_place and self._context.tokenizer_file is not None:
            return self._context.tokenizer_file
        return self._context.data_dir / self._source.tokenizer.path

    def _checked(self, file: DatasetFile) -> Path:
        return pinned_path(file, self._context.data_dir, f"source {self._source.name!r}", "a file")

    def _parts_of(self, number: int, shard: TokenShard) -> Iterator[tuple[SourcePart, int]]:
        """The parts of a shard, each with its number of documents that have a token."""
        for file in (shard.tokens, shard.index):
            if file is not None:
                self._checked(file)
        first = begin = num_documents = 0
        last: Span | None = None
        with LineCopies(self._context.cache_dir) as copies:
            tokens, spans = self.spans(number, copies.write)
            for last in spans:
                num_documents += last.end > last.first
                if last.end - begin >= PART_TOKENS or last.end == len(tokens):
                    stretch = Stretch(first, last.number + 1, begin, last.end)
                    yield self._part(number, shard, stretch, copies.keep(), tokens.itemsize), num_documents
                    first, begin, num_documents = last.number + 1, last.end, 0
            if last is not None and first <= last.number:  # empty documents behind the last token
                stretch = Stretch(first, last.number + 1, begin, begin)
                yield self._part(number, shard, stretch, copies.keep(), tokens.itemsize), 0

    def _part(self, number: int, shard: TokenShard, stretch: Stretch, index: str | None, item_bytes: int) -> SourcePart:
        """A part; `index` is the digest of its lines of the index, where it cannot be read from its middle."""
        digests = [file.sha256 for file in (shard.tokens, shard.index, self._source.tokenizer) if file is not None]
        pin = {"shard": number, "files": digests, **vars(stretch), "index": index}
        size_bytes = (stretch.end_token - stretch.first_token) * item_bytes
        return SourcePart(f"{shard.tokens.path}@{stretch.first}", size_bytes, pin)

    def spans(self, number: int, copy: Callable[[str], None] | None = None) -> tuple[npt.NDArray[Any], Iterator[Span]]:
        """The tokens of a shard, mapped, and its documents in order; raises as `parts`.

        Args:
            copy: told the lines of a csv index, those of each document before it is yielded.
        """
        tokens, index = self._files(number)
        if self._source.format == "megatron":
            assert index is not None
            return megatron_spans(tokens, index)
        return olmo_spans(tokens, index, self._source.dtype or "", self._source.eos_id, copy=copy)

    def _files(self, number: int) -> tuple[Path, Path | None]:
        shard, data_dir = self._source.shards[number], self._context.data_dir
        return data_dir / shard.tokens.path, None if shard.index is None else data_dir / shard.index.path

    def _spans_of_part(self, pin: Json) -> tuple[npt.NDArray[Any], Iterator[Span]]:
        """The tokens of a shard and the documents of one part of it, read from where they stand."""
        source, (tokens, index) = self._source, self._files(pin["shard"])
        stretch = Stretch(pin["first"], pin["end"], pin["first_token"], pin["end_token"])
        if source.format == "megatron":
            assert index is not None
            return megatron_spans(tokens, index, stretch)
        if pin["index"] is not None:
            index = derived_file(self._context.cache_dir, pin["index"], f"source {source.name!r}")
        return olmo_spans(tokens, index, source.dtype or "", source.eos_id, stretch=stretch)

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield the documents of one part.

        Raises:
            DataError: for ids that the tokenizer does not have, and as `parts`.
        """
        source, pin = self._source, part.pin
        tokens, spans = self._spans_of_part(pin)
        tokenizer = self._tokenizer()
        decoder = _Decoder(tokenizer, unknown_token_id(tokenizer), self._context.limits.max_document_bytes)
        known = _known_ids(tokenizer)
        num_tokens = num_without_eos = num_yielded = 0
        for span in spans:
            report.num_files += 1
            ids = np.asarray(tokens[span.first : span.end])
            num_tokens += len(ids)
            is_ended = bool(len(ids)) and ids[-1] == source.eos_id
            num_without_eos += bool(len(ids)) and not is_ended
            if len(ids) == 0 or (is_ended and len(ids) == 1 and not source.in_place):
                report.skipped["document without tokens"] += 1
                continue
            self._check_ids(pin["shard"], span, ids[:-1] if is_ended else ids, known)
            place = None
            if source.in_place:
                ordinal = pin["ordinal"] + num_yielded
                place = TokenPlace(ordinal, pin["num_documents"], span.number, span.first, span.end)
            yield self._document(pin["shard"], span, ids, is_ended, decoder, place)
            num_yielded += 1
        self._check_number(pin, report.num_files)
        report.facts = {"shard": pin["shard"], "num_tokens": num_tokens, "num_documents": report.num_files}
        if source.in_place:
            report.facts["num_without_eos"] = num_without_eos

    def _check_number(self, pin: Json, num_documents: int) -> None:
        """Refuse a part of which another process found other documents."""
        if num_documents != pin["end"] - pin["first"]:
            raise DataError(
                f"source {self._source.name!r}: {num_documents} documents from {pin['first']} on",
                expected=f"{pin['end'] - pin['first']}, as when the file was checked, and that nobody changes it",
                where=str(self._path(pin["shard"])),
                next_command="put the pinned file there and run the same command again",
            )

    def _tokenizer(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(self._tokenizer_path))
        except Exception as error:  # the library raises nothing narrower
            told = f"source {self._source.name!r}: the tokenizer cannot be read ({type(error).__name__})"
            raise DataError(told, expected="a tokenizer.json", where=str(self._tokenizer_path)) from None
        check_decoder(json.loads(tokenizer.to_str()), self._tokenizer_path)
        return tokenizer

    def _path(self, shard: int) -> Path:
        return self._context.data_dir / self._source.shards[shard].tokens.path

    def _check_ids(self, shard: int, span: Span, ids: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> None:
        """Refuse ids that the tokenizer does not have: it would leave them out without a word."""
        wide = ids.astype(np.int64)
        is_inside = (wide >= 0) & (wide < len(known))
        unknown = wide[~(is_inside & known[np.where(is_inside, wide, 0)])]
        if len(unknown):
            sign = "the negative id" if unknown[0] < 0 else "the id"
            raise DataError(
                f"source {self._source.name!r}: document {span.number} has {sign} {unknown[0]}",
                expected=f"ids of the tokenizer, below {len(known)}",
                where=str(self._path(shard)),
                next_command="name the tokenizer and the dtype that the shards were made with",
            )

    def _document(
        self,
        shard: int,
        span: Span,
        ids: npt.NDArray[Any],
        is_ended: bool,
        decoder: _Decoder,
        token_place: TokenPlace | None,
    ) -> ExtractedDocument:
        """Make a document of its ids, of which the last is no text where it is ended.

        Raises:
            DataError: for one in place that is too long to be read, since it cannot be dropped.
        """
        source, tokens = self._source, self._source.shards[shard].tokens
        of_text = ids[:-1] if is_ended else ids
        text, broken = decoder.text(of_text)
        if token_place is not None and broken == OVERSIZED:
            raise DataError(
                f"document {span.number} of source {source.name!r}, {len(ids):,} tokens, is too long to be read",
                expected=f"at most {self._context.limits.max_document_bytes:,} bytes: it cannot be dropped",
                where=str(self._path(shard)),
                next_command="raise limits.max_document_bytes",
            )
        name = f":{span.name}" if span.name.isprintable() and 0 < len(span.name) <= 200 else ""
        path = f"{tokens.path}#{span.number}{name}"
        if token_place is None:
            kept, kind, raw = "" if broken else normalise(text), "tokens", of_text
        else:  # it is kept whatever its text is, and says best what it holds
            kept, kind, raw = normalise(text), IN_PLACE, ids
        document = make_document(source.name, tokens.sha256, path, kind, kept, raw.tobytes(), self._licence)
        return ExtractedDocument(replace(document, token_place=token_place), broken)

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of all files, with what each shard holds."""
        source = self._source
        keys = ("num_documents", "num_tokens", *(("num_without_eos",) if source.in_place else ()))
        totals = {key: sum(report.facts[key] for report in reports) for key in keys}
        paths = [*(self._context.data_dir / file.path for file in source.files[:-1]), self._tokenizer_path]
        entries = [
            {"path": file.path, "sha256": file.sha256, "size_bytes": path.stat().st_size}
            for file, path in zip(source.files, paths, strict=True)
        ]
        return {
            "name": source.name,
            "type": source.type,
            "format": source.format,
            "files": entries,
            "size_bytes": sum(entry["size_bytes"] for entry in entries),
            "tokenizer_sha256": source.tokenizer.sha256,
            "eos_id": source.eos_id,
            **({"in_place": True} if source.in_place else {}),
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
