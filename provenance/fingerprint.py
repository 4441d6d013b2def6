"""What a stage depends on: code, libraries, recipe and parents, in one fingerprint (`fingerprint/1`)."""

import importlib.metadata
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import provenance
from provenance.canonical import Json, read_json
from provenance.digests import FileEntry, Parent, hash_files, tagged_digest
from provenance.errors import CodeError

PACKAGES = ("provenance", "data_recipes", "train", "eval", "release", "openwright")
"""All packages, lowest layer first."""

CODE_RECORD = "CODE.json"
"""File at the root of a released source tree that names its commit and lists its files."""

_SOURCE_SUFFIXES = (".py", ".yaml", ".json", ".jinja", ".txt", ".html", ".css", ".j2")


@dataclass(frozen=True)
class CodeIdentity:
    """The source tree that runs.

    Attributes:
        commit: the 40-hex git commit, or the one named by a released tree's CODE.json.
        dirty: whether files of the packages differ from that commit.
        packages_digest: digest over the sources of all packages.
    """

    commit: str
    dirty: bool
    packages_digest: str

    def as_json(self) -> dict[str, Json]:
        """Return the form that manifests hold."""
        return {"commit": self.commit, "dirty": self.dirty, "packages_digest": self.packages_digest}


def project_root() -> Path:
    """Directory that holds the packages now running (a clone, or `code/` of a bundle)."""
    assert provenance.__file__ is not None
    return Path(provenance.__file__).resolve().parent.parent


def package_files(packages: Iterable[str], root: Path | None = None) -> list[Path]:
    """All source files of the named packages, sorted; caches and compiled files are not sources."""
    base = root or project_root()
    return sorted(
        path
        for package in packages
        for path in (base / package).rglob("*")
        if path.is_file() and path.suffix in _SOURCE_SUFFIXES and "__pycache__" not in path.parts
    )


def sources_digest(packages: Iterable[str], root: Path | None = None) -> str:
    """Digest `sources/1` over the source files of the named packages."""
    base = root or project_root()
    entries = hash_files(base, package_files(packages, base))
    return tagged_digest("sources/1", [entry.as_json() for entry in entries])


def code_identity(root: Path | None = None) -> CodeIdentity:
    """Find out which commit runs and whether its package files were changed.

    Raises:
        CodeError: when the tree is neither a git checkout nor a released source tree.
    """
    base = root or project_root()
    digest = sources_digest(PACKAGES, base)
    record = base / CODE_RECORD
    if record.is_file():
        values = read_json(record)
        listed = sorted(FileEntry(**entry) for entry in values["files"])
        found = {entry.path: entry for entry in hash_files(base, package_files(PACKAGES, base))}
        dirty = any(found.pop(e.path, None) != e for e in listed if e.path.split("/")[0] in PACKAGES)
        return CodeIdentity(str(values["commit"]), dirty or bool(found), digest)
    commit = _git(base, "rev-parse", "HEAD").strip()
    status = _git(base, "status", "--porcelain", "--untracked-files=all", "--", *PACKAGES)
    return CodeIdentity(commit, bool(status.strip()), digest)


def require_clean(code: CodeIdentity, *, dev: bool) -> None:
    """Refuse a dirty tree unless `dev`; what a dev run made is never released."""
    if code.dirty and not dev:
        raise CodeError(
            "the source tree has uncommitted changes in its packages",
            expected="a clean checkout, so that the release can name the code that ran",
            next_command="git commit, or add --dev for a run that can never be released",
        )


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise CodeError(
            "the packages lie in no git checkout and have no CODE.json",
            expected="a clone with at least one commit, or the code/ directory of a bundle",
            where=str(root),
            next_command="git clone the project again, or git init && git add -A && git commit",
        ) from None
    return done.stdout


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions by name; a missing one is an error, never a guess."""
    versions = {}
    for name in sorted(libraries):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise CodeError(f"library {name} is not installed", next_command="make setup") from None
    return versions


def stage_fingerprint(
    stage: str, recipe: Json, parents: Sequence[Parent], packages: Sequence[str], libraries: Sequence[str]
) -> str:
    """Fingerprint of a stage: equal fingerprints promise equal results.

    Args:
        stage: the stage's kind, such as `corpus`.
        recipe: what `recipe_of` returned.
        parents: the artifacts that the stage reads.
        packages: packages whose sources the stage may import.
        libraries: distributions whose version may change the stage's results.
    """
    lineage = [parent.as_json() for parent in sorted(parents)]
    return fingerprint_digest(stage, recipe, lineage, sources_digest(packages), library_versions(libraries))


def fingerprint_digest(stage: str, recipe: Json, parents: Json, sources: str, libraries: dict[str, str]) -> str:
    """Digest `fingerprint/1` of values that are known already, such as those that a bundle records."""
    value = {"stage": stage, "recipe": recipe, "parents": parents, "sources": sources, "libraries": libraries}
    return tagged_digest("fingerprint/1", value)
