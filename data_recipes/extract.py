"""Extraction: from the files of a source archive to documents of prose. No code of the archive is ever executed."""

import ast
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_recipes.document import Document, LicenceFinding
from data_recipes.filters import Statistics, measure
from data_recipes.pypi import PypiSource, read_pypi_source
from provenance.canonical import Json
from provenance.digests import sha256_bytes

UNDECODABLE = "undecodable"
UNPARSABLE = "unparsable"
DOCSTRINGS_SUFFIX = "#docstrings"

_PROSE_SUFFIXES = {".rst", ".md", ".txt"}
_README = re.compile(r"(readme|changes|changelog|history|news|contributing|authors|faq|tutorial|install)\b", re.I)
_NOT_PROSE = re.compile(
    r"(licen[cs]e|copying|notice|copyright|requirements|constraints|entry_points|sources|top_level|dependency_links"
    r"|requires|spelling|wordlist|cmakelists|robots|manifest)",
    re.I,
)
_SKIPPED_DIRECTORIES = {
    "test", "tests", "testsuite", "unittests", "testdata", "test_data", "fixtures", "locale", "locales", "translations",
    "i18n", "licenses", "licences", "requirements", "generated", "_autosummary", "autosummary", "apidoc", "_templates",
    "_static", "node_modules", "site-packages", "__pycache__", "build",
}  # fmt: skip
_TEST_MODULE = re.compile(r"(test_.*|.*_tests?|tests?|conftest|setup)\.py")
_SOURCE_ROOTS = {"src", "lib", "python"}

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff\ufffe\uffff]")
_TRAILING_SPACE = re.compile(r"[^\S\n]+$", re.M)
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class DocumentedFunction:
    """A public function or method with the first paragraph of its docstring on one line."""

    qualified_name: str
    signature: str
    summary: str


@dataclass(frozen=True)
class ExtractedDocument:
    """A document, its statistics, and the rule it broke before any text could be judged (empty for none)."""

    document: Document
    statistics: Statistics
    broken: str = ""
    functions: tuple[DocumentedFunction, ...] = ()


@dataclass(frozen=True)
class Extraction:
    """All documents of a source and the files that gave none, counted by reason."""

    source: str
    documents: tuple[ExtractedDocument, ...]
    num_files: int
    skipped: dict[str, int]


@dataclass(frozen=True)
class ReadSource:
    """A source that was read: what it gave and its entry in `sources.lock`."""

    extraction: Extraction
    lock: dict[str, Json]


def read_pypi_documents(source: PypiSource, archive: Path, special_tokens: Sequence[str]) -> ReadSource:
    """Read a fetched source distribution and extract its documents; runs in a worker process."""
    contents = read_pypi_source(source, archive)
    files = ((member.path, member.data) for member in contents.members)
    extraction = extract_archive(
        contents.name, contents.source_digest, files, contents.resolver.resolve, special_tokens
    )
    return ReadSource(extraction, contents.lock)


def normalise(text: str) -> str:
    """Return a text in the form that is hashed and trained on.

    NFC, newlines as `\\n`, tabs expanded, no control characters or lone surrogates, no trailing white space, at most
    one blank line in a row, none at either end.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _CONTROL.sub("", text.replace("\f", "\n")).expandtabs(4)
    text = _TRAILING_SPACE.sub("", unicodedata.normalize("NFC", text))
    return _BLANK_LINES.sub("\n\n", text).strip("\n")


def extract_archive(
    source: str,
    source_digest: str,
    files: Iterable[tuple[str, bytes]],
    resolve: Callable[[str, bytes], LicenceFinding],
    special_tokens: Sequence[str],
) -> Extraction:
    """Extract documentation and docstring prose from the files of one archive.

    Args:
        source: name of the source.
        source_digest: digest that pins the archive.
        files: path inside the archive and content of every file.
        resolve: finds the licence of a file.
        special_tokens: see `data_recipes.filters.measure`.
    """
    documents = []
    skipped: Counter[str] = Counter()
    num_files = 0
    for path, data in files:
        num_files += 1
        kind, reason = classify(path)
        if not kind:
            skipped[reason] += 1
            continue
        extracted = _extract_file(source, source_digest, path, data, kind, special_tokens)
        if extracted is None:
            skipped["no docstrings"] += 1
            continue
        document = replace(extracted.document, licence=resolve(path, data))
        documents.append(replace(extracted, document=document))
    return Extraction(source, tuple(documents), num_files, dict(sorted(skipped.items())))


def classify(path: str) -> tuple[str, str]:
    """Return the kind of document a file gives (`prose` or `docstrings`), or an empty kind and why it gives none."""
    place = PurePosixPath(path)
    directories = [part.lower() for part in place.parts[:-1]]
    if _SKIPPED_DIRECTORIES.intersection(directories):
        return "", "tests, locales, licence texts and generated pages"
    suffix = place.suffix.lower()
    if suffix == ".py":
        if _TEST_MODULE.fullmatch(place.name) or any(part.startswith("test_") for part in directories):
            return "", "tests, locales, licence texts and generated pages"
        return "docstrings", ""
    if suffix not in _PROSE_SUFFIXES:
        return "", "neither documentation nor Python"
    if _NOT_PROSE.match(place.stem):
        return "", "tests, locales, licence texts and generated pages"
    in_documentation = any(part.startswith("doc") for part in directories)
    if in_documentation or suffix != ".txt" or _README.match(place.stem):
        return "prose", ""
    return "", "neither documentation nor Python"


def make_document(
    source: str, source_digest: str, path: str, kind: str, text: str, raw: bytes, licence: LicenceFinding
) -> Document:
    """Build a document from its normalised text and the bytes it was taken from."""
    text_sha256 = sha256_bytes(text.encode("utf-8"))
    return Document(source, source_digest, path, kind, text, sha256_bytes(raw), text_sha256, licence)


_PENDING = LicenceFinding("NOASSERTION", "", "none", "", "", "")


def _extract_file(
    source: str, source_digest: str, path: str, data: bytes, kind: str, special_tokens: Sequence[str]
) -> ExtractedDocument | None:
    """Return the document of one file; None for a module without docstrings."""
    text, broken = "", ""
    functions: tuple[DocumentedFunction, ...] = ()
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError:
        broken = UNDECODABLE
    else:
        if kind == "prose":
            text = normalise(decoded)
        elif (module := parse_module(data)) is None:
            broken = UNPARSABLE
        else:
            sections, functions = docstrings_of(module, module_name(path))
            if not sections:
                return None
            text = normalise("\n\n".join(f"{name}\n\n{docstring}" for name, docstring in sections))
    if kind == "docstrings":
        path += DOCSTRINGS_SUFFIX
    document = make_document(source, source_digest, path, kind, text, data, _PENDING)
    return ExtractedDocument(document, measure(text, special_tokens), broken, functions)


def parse_module(data: bytes) -> ast.Module | None:
    """Parse Python source without executing it; None where it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def module_name(path: str) -> str:
    """Return the dotted name of a module from its path in an archive, `src/pkg/mod.py` -> `pkg.mod`."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    if len(parts) > 1 and parts[0] in _SOURCE_ROOTS:
        parts = parts[1:]
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def docstrings_of(module: ast.Module, name: str) -> tuple[list[tuple[str, str]], tuple[DocumentedFunction, ...]]:
    """Collect the docstrings of a module, its classes, functions and methods, in source order.

    Args:
        module: the parsed module.
        name: its dotted name.

    Returns:
        Qualified names with dedented docstrings, and the public functions among them that have a summary.
    """
    sections: list[tuple[str, str]] = []
    functions: list[DocumentedFunction] = []
    pending: list[tuple[ast.AST, str]] = [(module, name)]
    while pending:
        node, qualified_name = pending.pop()
        assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        docstring = (ast.get_docstring(node) or "").strip()
        if docstring:
            sections.append((qualified_name, docstring))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(qualified_name):
                functions.append(DocumentedFunction(qualified_name, _signature(node), first_paragraph(docstring)))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            children = [
                (child, f"{qualified_name}.{child.name}")
                for child in node.body
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            pending.extend(reversed(children))
    return sections, tuple(functions)


def is_public(qualified_name: str) -> bool:
    """Whether no part of a dotted name is private."""
    return not any(part.startswith("_") for part in qualified_name.split("."))


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join(normalise(docstring).split("\n\n")[0].split())


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return `(arguments)` with the return annotation where there is one."""
    try:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return normalise(f"({ast.unparse(node.args)}){returns}")
    except (RecursionError, ValueError):
        return "(...)"
