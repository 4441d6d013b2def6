"""What documented functions quote, once something was taken out of the text of their document or replaced in it.

Conversations are made from functions, which were read before the rules on text: what these took out must not come back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from data_recipes.document import DocumentedFunction
from data_recipes.personal_data import PLACEHOLDERS, Span, find_personal_data, redact
from data_recipes.rule_settings import Kind
from data_recipes.text_kernels import segment


def redact_functions(
    functions: Iterable[DocumentedFunction], text: str, spans: Sequence[Span], kinds: Sequence[Kind]
) -> tuple[DocumentedFunction, ...]:
    """Put placeholders for what was redacted in a text, and for what a function itself holds.

    Args:
        text: of the document before redaction; signatures are no part of it, and summaries have other line breaks.
        spans: personal data in the text.
        kinds: what is redacted.
    """
    known = {
        " ".join(text[span.start : span.end].split()): PLACEHOLDERS[span.kind] for span in spans if span.kind in kinds
    }
    longest_first = sorted(known.items(), key=lambda item: (-len(item[0]), item[0]))

    def redacted(quoted: str) -> str:
        for found, placeholder in longest_first:
            quoted = quoted.replace(found, placeholder)
        return redact(quoted, find_personal_data(quoted, segment(quoted)), kinds).text

    return tuple(
        replace(function, signature=redacted(function.signature), summary=redacted(function.summary))
        for function in functions
    )


def summaries_in(text: str, functions: Iterable[DocumentedFunction]) -> tuple[DocumentedFunction, ...]:
    """Return the functions whose summary still stands in a text of which something was taken out."""
    words = " ".join(text.split())
    return tuple(function for function in functions if function.summary in words)
