"""Run a stage once: find it by fingerprint, or work in a directory that survives crashes and seal it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance.artifacts import Artifact, find_artifact, finish, work_dir
from provenance.canonical import Json
from provenance.console import fact, heading
from provenance.digests import Parent
from provenance.fingerprint import CodeIdentity, stage_fingerprint


@dataclass(frozen=True)
class StageContext:
    """What every stage of one release shares.

    Attributes:
        name: the release, such as `quickstart`.
        store: directory of its artifacts, `artifacts/<release>`.
        code: the source tree that runs.
        dev: whether a dirty tree is allowed; what it makes is never released.
        launcher: file that says how a cluster's job starts the processes of a training stage; None on one machine.
        fresh: begin a training run beside an unfinished one that was begun with something else.
        seed: the seed of a sweep that this is; None outside sweeps. Other seeds may be in training in the same store.
    """

    name: str
    store: Path
    code: CodeIdentity
    dev: bool = False
    launcher: Path | None = None
    fresh: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class StageSpec:
    """What a stage depends on besides its recipe and parents.

    Attributes:
        kind: the stage's kind and directory name.
        packages: packages whose sources it may import.
        libraries: distributions whose version may change its results.
        observations: relative paths in its artifact that are observations, not results.
    """

    kind: str
    packages: tuple[str, ...]
    libraries: tuple[str, ...]
    observations: tuple[str, ...] = ("journal.jsonl", "environment.json")


def run_stage(
    context: StageContext,
    spec: StageSpec,
    recipe: Json,
    parents: Sequence[Parent],
    body: Callable[[Path], None],
) -> Artifact:
    """Return the artifact of a stage, made by `body` unless an equal one is there already.

    Args:
        body: called with the work directory; it must leave every file of the artifact there, and must be able to
            go on from what an interrupted call left behind (or start over).
    """
    fingerprint = stage_fingerprint(spec.kind, recipe, parents, spec.packages, spec.libraries)
    cached = find_artifact(context.store, spec.kind, fingerprint)
    if cached is not None and cached.dev == context.dev:
        fact(f"{spec.kind}: already done, content {cached.content_digest[:12]}")
        return cached
    heading(spec.kind)
    work = work_dir(context.store, spec.kind, fingerprint)
    body(work)
    return finish(
        work,
        kind=spec.kind,
        name=context.name,
        fingerprint=fingerprint,
        parents=parents,
        recipe=recipe,
        code=context.code,
        observations=spec.observations,
        dev=context.dev,
    )
