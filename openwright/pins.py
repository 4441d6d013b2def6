"""`openwright data pin`: the entry of a source for corpus.yaml, with the digests that nobody should type by hand."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from data_recipes.debian_copyright import read_description
from data_recipes.reading import is_wanted
from openwright.hub import PREFIX, look_up, parse_name
from provenance.digests import sha256_file
from provenance.errors import ConfigError, DataError

_FORMATS = {
    ".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".md": "text",
}  # fmt: skip
_EXPECTED = f"{PREFIX}ORG/NAME[@REVISION], a .dsc or .warc[.gz] file, data ({', '.join(_FORMATS)}; .gz, .zst too)"
_STATE = "licence: {spdx: ID, evidence: WHERE IT SAYS SO}"
_CHOOSE_LICENCE = f"add the licence: licence_column: COLUMN, or {_STATE}"
_CHOOSE_PAGES = f"pages that name no licence are dropped; if one holds for all: {_STATE}"
_CHOOSE_CARD = f"add the licence: licence_column: COLUMN, card_licence: true (weak evidence), or {_STATE}"


def pin(things: Sequence[str], globs: Sequence[str], data_dir: Path) -> str:
    """Return the YAML of a source, with comments on what is left for a person to say.

    Args:
        things: a data set of the Hub, the description of a Debian source package, or local data files or web archives.
        globs: of a data set of the Hub, which files to read; none takes all of the commonest format.
        data_dir: directory that the paths of local files are written relative to.

    Raises:
        ConfigError: for anything else, several formats at once, and files outside `data_dir`.
        BundleError: as `openwright.hub.look_up`.
        DataError: for a description that cannot be read.
    """
    if len(things) == 1 and things[0].startswith(PREFIX):
        return _of_hub(things[0], globs)
    if globs:
        raise ConfigError("--files", expected=f"a data set of the Hub, {PREFIX}ORG/NAME", where="command line")
    paths = [Path(thing) for thing in things]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", expected=_EXPECTED, where="command line")
    if len(paths) == 1 and paths[0].suffix == ".dsc":
        return _of_description(paths[0])
    return _of_files(paths, data_dir)


def _of_files(paths: Sequence[Path], data_dir: Path) -> str:
    root = data_dir.resolve()
    outside = [path for path in paths if not path.resolve().is_relative_to(root)]
    if outside:
        told = f"{outside[0]} lies outside {data_dir}"
        raise ConfigError(told, expected="files below --data-dir", where="command line")
    names = [path.resolve().relative_to(root).as_posix() for path in paths]
    files = [{"path": name, "sha256": sha256_file(path)} for name, path in zip(names, paths, strict=True)]
    if all(name.lower().removesuffix(".gz").endswith(".warc") for name in names):
        archives = {"type": "warc", "name": _name_of(names[0]), "files": files, **_common()}
        return _yaml(archives, [_CHOOSE_PAGES, "say where a stranger gets the files: obtained_from: PLACE"])
    entry = {"type": "dataset", "name": _name_of(names[0]), "format": _format_of(names), "files": files, **_common()}
    return _yaml(entry, [_CHOOSE_LICENCE, "say where a stranger gets the files: obtained_from: PLACE"])


def _of_hub(text: str, globs: Sequence[str]) -> str:
    repository = look_up(parse_name(text), "dataset")
    if globs:
        paths = [path for path in repository.files if is_wanted(path, globs, ())]
    else:
        globs, paths = _commonest(list(repository.files))
    if not paths:
        raise ConfigError(f"none of {len(repository.files)} files is wanted", expected="globs of paths", where=text)
    size_bytes = sum(repository.files[path].size_bytes for path in paths)
    entry = {
        "type": "hub",
        "name": repository.repo_id.split("/")[1],
        "repo_id": repository.repo_id,
        "revision": repository.commit,
        "format": _format_of(paths),
        "files": list(globs),
        **_common(),
    }
    return _yaml(entry, [f"{len(paths):,} files, {size_bytes:,} bytes", _CHOOSE_CARD])


def _commonest(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Globs and paths of the suffix that most data files have."""
    suffixes = [suffix for path in paths if (suffix := _suffix_of(path)) and PurePosixPath(path).name != "README.md"]
    if not suffixes:
        return [], []
    suffix = max(sorted(set(suffixes)), key=suffixes.count)
    return [f"*{suffix}"], [path for path in paths if path.endswith(suffix)]


def _of_description(path: Path) -> str:
    try:
        fields = read_description(path.read_bytes())
        package, version = fields["Source"], fields["Version"]
    except (ValueError, TypeError, KeyError) as error:
        told = f"it cannot be read ({type(error).__name__})"
        raise DataError(told, expected="the description of a source package", where=str(path)) from None
    first = package[:4] if package.startswith("lib") else package[:1]
    entry = {
        "type": "debian",
        "package": package,
        "version": version,
        "directory": f"pool/main/{first}/{package}",
        "dsc": {"filename": path.name, "sha256": sha256_file(path), "size_bytes": path.stat().st_size},
        **_common(),
    }
    return _yaml(entry, ["check the directory: `apt-get source --print-uris` gives it"])


def _common() -> dict[str, str]:
    return {"split": "train", "as_of": datetime.now(UTC).date().isoformat()}


def _suffix_of(path: str) -> str:
    """The suffixes of a data file that say how it is read; empty for any other file."""
    found = re.fullmatch(r".*?((?:\.[a-z]+)(?:\.gz|\.zst)?)", PurePosixPath(path).name, re.I)
    suffix = found[1] if found else ""
    return suffix if suffix.lower().removesuffix(".gz").removesuffix(".zst") in _FORMATS else ""


def _format_of(paths: Sequence[str]) -> str:
    formats = {_FORMATS.get(_suffix_of(path).lower().removesuffix(".gz").removesuffix(".zst"), "") for path in paths}
    if len(formats) != 1 or "" in formats:
        found = f"files of the formats {', '.join(sorted(name or 'unknown' for name in formats))}"
        raise ConfigError(found, expected=f"one format per source: {', '.join(_FORMATS)}", where="command line")
    return formats.pop()


def _name_of(path: str) -> str:
    return PurePosixPath(path).name.split(".")[0]


def _yaml(entry: dict[str, Any], notes: Sequence[str]) -> str:
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=110)
    return "".join(f"# {note}\n" for note in notes) + text
