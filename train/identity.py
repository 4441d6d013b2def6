"""What a run was begun with, so that nobody takes a new run for the continuation of an old one.

A run's directory is named by its fingerprint: a changed recipe, corpus or source file is another run, which would begin
anew beside the unfinished one. That is said, not done in silence.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.digests import Parent, hash_files
from provenance.errors import BundleError, ResumeMismatch
from provenance.fingerprint import library_versions, package_files, project_root
from train.checkpoint_records import newest_resumable, read_record
from train.records import differences

IDENTITY_NAME = "identity.json"
IDENTITY_FORMAT = "openwright-identity/1"
_MAX_LINES = 20


def run_identity(
    recipe: Json, parents: Sequence[Parent], packages: Sequence[str], libraries: Sequence[str], commit: str
) -> Json:
    """Everything that enters a run's fingerprint, item by item."""
    root = project_root()
    return {
        "format": IDENTITY_FORMAT,
        "commit": commit,
        "recipe": recipe,
        "parents": {parent.role: parent.content_digest for parent in sorted(parents)},
        "sources": {entry.path: entry.sha256 for entry in hash_files(root, package_files(packages, root))},
        "libraries": library_versions(libraries),
    }


def begin_or_go_on(work: Path, identity: Json, *, fresh: bool, in_sweep: bool = False) -> None:
    """Note what a run is begun with, unless an unfinished run of the same stage was begun with something else.

    Args:
        work: the run's directory.
        fresh: begin beside an unfinished run.
        in_sweep: runs with another seed, or from a base with another one, are other runs: they may be going on.

    Raises:
        ResumeMismatch: with a table of what differs.
    """
    if (work / IDENTITY_NAME).is_file():
        return
    for other in sorted(work.parent.glob(".work-*")):
        if other == work or fresh or not (other / IDENTITY_NAME).is_file():
            continue
        if in_sweep and _is_of_another_seed(other / IDENTITY_NAME, identity):
            continue
        newest = newest_resumable(other)
        if newest is not None:
            shutil.rmtree(work)
            raise _mismatch(other, read_record(newest).step, identity)
    written = work / f"{IDENTITY_NAME}.partial"
    write_json(written, identity)
    os.replace(written, work / IDENTITY_NAME)  # whole or not there, for tasks of a sweep that look at it meanwhile


def _is_of_another_seed(path: Path, identity: Json) -> bool:
    try:
        found = read_json(path)
    except BundleError:
        if path.exists():
            raise
        return True  # it has finished meanwhile and was given its name
    bases = (found["parents"].get("base"), identity["parents"].get("base"))
    return bool(found["recipe"]["seed"] != identity["recipe"]["seed"] or bases[0] != bases[1])


def _mismatch(other: Path, step: int, identity: Json) -> ResumeMismatch:
    found = read_json(other / IDENTITY_NAME)
    names = ("recipe", "parents", "sources", "libraries")
    table = differences({name: found[name] for name in names}, {name: identity[name] for name in names})
    lines = [f"  {line}" for line in table[:_MAX_LINES]]
    if len(table) > _MAX_LINES:
        lines.append(f"  and {len(table) - _MAX_LINES} more")
    return ResumeMismatch(
        f"an unfinished run, at step {step}, was begun with something else:\n" + "\n".join(lines),
        expected=f"what it was begun with, at commit {found['commit'][:12]}",
        where=str(other),
        next_command=(
            f"undo the change to go on with it; openwright branch {other} --at {step} --config CONFIG_DIR --to NEW_DIR "
            "to go on from its checkpoint with the change; or --fresh to begin anew beside it"
        ),
    )
