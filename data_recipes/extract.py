"""Extraction: from the files of a source archive to documents of prose. No code of the archive is ever executed."""

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from data_recipes.document import DocumentedFunction, ExtractedDocument, LicenceFinding
from data_recipes.reading import PartReport, ReadingLimits
from data_recipes.text import UNPARSABLE, decode, make_document, normalise

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


def extract_files(
    source: str,
    source_digest: str,
    files: Iterable[tuple[str, bytes]],
    resolve: Callable[[str, bytes], LicenceFinding],
    limits: ReadingLimits,
    report: PartReport,
) -> Iterator[ExtractedDocument]:
    """Yield documentation and docstring prose of the files of one archive.

    Args:
        source: name of the source.
        source_digest: digest that pins the archive.
        files: path inside the archive and content of every file.
        resolve: finds the licence of a file.
        report: counts the files and the reasons why some give no document.
    """
    for path, data in files:
        report.num_files += 1
        kind, reason = classify(path)
        if not kind:
            report.skipped[reason] += 1
            continue
        extracted = _extract_file(source, source_digest, path, data, kind, limits)
        if extracted is None:
            report.skipped["no docstrings"] += 1
            continue
        yield replace(extracted, document=replace(extracted.document, licence=resolve(path, data)))


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


_PENDING = LicenceFinding("NOASSERTION", "", "none", "", "", "")


def _extract_file(
    source: str, source_digest: str, path: str, data: bytes, kind: str, limits: ReadingLimits
) -> ExtractedDocument | None:
    """Return the document of one file; None for a module without docstrings."""
    functions: tuple[DocumentedFunction, ...] = ()
    text, broken = decode(data, limits.max_document_bytes)
    if kind == "docstrings":
        text, module = "", None if broken else parse_module(data)
        if module is not None:
            sections, functions = docstrings_of(module, module_name(path))
            if not sections:
                return None
            text = "\n\n".join(f"{name}\n\n{docstring}" for name, docstring in sections)
        elif not broken:
            broken = UNPARSABLE
        path += DOCSTRINGS_SUFFIX
    document = make_document(source, source_digest, path, kind, normalise(text), data, _PENDING)
    return ExtractedDocument(document, broken, functions)


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
