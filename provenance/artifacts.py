"""Artifacts: directories whose `manifest.json` is written last (`artifact/1`).

A stage works in `<store>/<stage>/.work-<fingerprint>/`, which survives crashes so that long stages can go on, and
`finish` turns it into `<store>/<stage>/<short fingerprint>/` by an atomic rename. No manifest, no artifact.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.digests import FileEntry, Parent, content_digest, hash_files
from provenance.durability import sync_path
from provenance.errors import ArtifactError
from provenance.fingerprint import CodeIdentity

ARTIFACT_FORMAT = "openwright-artifact/1"
MANIFEST_NAME = "manifest.json"
SHORT_LENGTH = 12


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk.

    Attributes:
        path: its directory.
        kind: the stage that made it, such as `corpus` or `pretrain`.
        name: the release it belongs to.
        results: files that a faultless replay reproduces.
        observations: files that record what was observed (journal, environment).
        dev: whether a dirty tree made it; such an artifact is never released.
    """

    path: Path
    kind: str
    name: str
    fingerprint: str
    content_digest: str
    parents: tuple[Parent, ...]
    results: tuple[FileEntry, ...]
    observations: tuple[FileEntry, ...]
    recipe: Json
    code: Json
    dev: bool

    def as_parent(self, role: str) -> Parent:
        """Return this artifact as a parent of the next stage."""
        return Parent(role, f"{self.name}/{self.kind}", self.content_digest)


def work_dir(store: Path, stage: str, fingerprint: str) -> Path:
    """Directory in which a stage writes before it is finished; made if absent, kept across crashes."""
    path = store / stage / f".work-{fingerprint[:SHORT_LENGTH]}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def finish(
    work: Path,
    *,
    kind: str,
    name: str,
    fingerprint: str,
    parents: Sequence[Parent],
    recipe: Json,
    code: CodeIdentity,
    observations: Sequence[str] = (),
    dev: bool = False,
) -> Artifact:
    """Seal a work directory: sync its files, write the manifest last, rename it into place.

    Args:
        work: directory made by `work_dir`.
        observations: relative paths of files or directories that are observations; all else are results.
    """
    files = sorted(path for path in work.rglob("*") if path.is_file() and path != work / MANIFEST_NAME)
    for path in files:
        sync_path(path)
    entries = hash_files(work, files)
    observed = [e for e in entries if any(e.path == o or e.path.startswith(f"{o}/") for o in observations)]
    results = [entry for entry in entries if entry not in observed]
    manifest = {
        "format": ARTIFACT_FORMAT,
        "kind": kind,
        "name": name,
        "fingerprint": fingerprint,
        "content_digest": content_digest(kind, results, parents),
        "parents": [parent.as_json() for parent in sorted(parents)],
        "results": [entry.as_json() for entry in results],
        "observations": [entry.as_json() for entry in observed],
        "recipe": recipe,
        "code": code.as_json(),
        "dev": dev,
    }
    write_json(work / MANIFEST_NAME, manifest)
    sync_path(work / MANIFEST_NAME)
    target = work.parent / fingerprint[:SHORT_LENGTH]
    if target.exists():
        shutil.rmtree(target)
    os.replace(work, target)
    sync_path(target.parent)
    (target.parent / "latest").write_text(target.name + "\n")
    return load_artifact(target, check_files=False)


def load_artifact(path: Path, *, check_files: bool = True) -> Artifact:
    """Read an artifact's manifest and check that its files are the ones listed.

    Raises:
        ArtifactError: for a missing manifest, a file that is missing, changed or not listed.
    """
    if not (path / MANIFEST_NAME).is_file():
        raise ArtifactError("no manifest.json", expected="a finished artifact", where=str(path))
    values = read_json(path / MANIFEST_NAME)
    if values.get("format") != ARTIFACT_FORMAT:
        raise ArtifactError(
            f"format {values.get('format')!r}", expected=ARTIFACT_FORMAT, where=str(path / MANIFEST_NAME)
        )
    artifact = Artifact(
        path=path,
        kind=values["kind"],
        name=values["name"],
        fingerprint=values["fingerprint"],
        content_digest=values["content_digest"],
        parents=tuple(Parent(**parent) for parent in values["parents"]),
        results=tuple(FileEntry(**entry) for entry in values["results"]),
        observations=tuple(FileEntry(**entry) for entry in values["observations"]),
        recipe=values["recipe"],
        code=values["code"],
        dev=values["dev"],
    )
    if check_files:
        _check_files(artifact)
    return artifact


def _check_files(artifact: Artifact) -> None:
    listed = {entry.path: entry for entry in (*artifact.results, *artifact.observations)}
    on_disk = [path for path in artifact.path.rglob("*") if path.is_file()]
    found = hash_files(artifact.path, [path for path in on_disk if path != artifact.path / MANIFEST_NAME])
    for entry in found:
        if listed.pop(entry.path, None) != entry:
            raise ArtifactError(
                "the file is not the one that the manifest lists",
                where=str(artifact.path / entry.path),
                next_command=f"remove {artifact.path} and run the stage again",
            )
    if listed:
        raise ArtifactError("a listed file is missing", where=str(artifact.path / next(iter(listed))))
    if content_digest(artifact.kind, artifact.results, artifact.parents) != artifact.content_digest:
        raise ArtifactError("the content digest does not match the files", where=str(artifact.path))


def find_artifact(store: Path, stage: str, fingerprint: str) -> Artifact | None:
    """Return the cached artifact with this fingerprint, or None where there is none.

    Raises:
        ArtifactError: when it exists and its files changed: never used silently, never overwritten silently.
    """
    path = store / stage / fingerprint[:SHORT_LENGTH]
    if not (path / MANIFEST_NAME).is_file():
        return None
    artifact = load_artifact(path)
    return artifact if artifact.fingerprint == fingerprint else None


def latest_artifact(store: Path, stage: str) -> Artifact:
    """Return the artifact that the `latest` pointer of a stage names."""
    pointer = store / stage / "latest"
    if not pointer.is_file():
        raise ArtifactError(
            f"no finished {stage} artifact",
            where=str(store / stage),
            next_command="openwright run CONFIG_DIR",
        )
    return load_artifact(store / stage / pointer.read_text().strip())
