"""What `reproduce --full` is going to do: the stages of a bundle, from its own code and configs, in a directory apart.

Nothing of the bundle runs here. What a bundle cannot be rebuilt from is found before any work begins.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_recipes.evaluation_sets import CARRIED_SETS
from data_recipes.order_file import ORDER_FILE
from data_recipes.settings import TAKEN_TOKENIZER
from data_recipes.tombstones import TOMBSTONES_NAME, read_tombstones
from provenance.canonical import read_json
from provenance.errors import BundleError
from release.code_copy import OVERRIDES_FILE, RELEASE_FILE
from release.layout import bundle_files
from release.readable import require_for_rebuild
from release.replay_layout import ran_on_cpus, recorded_layouts, reduction, require_fitting
from release.replay_segments import Segment, training_stages
from release.sources import evaluation_sets
from release.verify import CheckResult, is_harmless, show

CHECK = "rebuild"
RELEASE = "release"


@dataclass(frozen=True)
class RebuildOptions:
    """What the command line says of a rebuild.

    Attributes:
        num_processes: processes of the training stages; None for as many as fit.
        data_dir: where the files of local data sets lie; None where nobody says.
        index_url: package index to fetch from; None for the one that the bundle's config names.
        debian_archive: Debian archive to fetch from; None for the one that the bundle's config names.
    """

    num_processes: int | None = None
    data_dir: Path | None = None
    index_url: str | None = None
    debian_archive: str | None = None


@dataclass(frozen=True)
class RebuildPlan:
    """A rebuild, not begun.

    Attributes:
        work: directory that it writes in: `code/`, `sources/`, `orders/`, `artifacts/`.
        config_dir: the bundle's configs, below `work`.
        stages: stages in order; the bundle itself is the last.
        overrides: `--set` texts that lay out the work here and change no result.
        is_dev: whether the bundle says that it was built with `--dev`.
        obstacles: why it cannot be rebuilt from the bundle alone; nothing is run where there are any.
        num_taken_down: documents that its tombstones name.
    """

    bundle: Path
    work: Path
    config_dir: Path
    stages: tuple[str, ...]
    overrides: tuple[str, ...]
    is_dev: bool
    obstacles: tuple[CheckResult, ...]
    num_taken_down: int = 0

    @property
    def code(self) -> Path:
        """The copy of the bundle's source tree that runs."""
        return self.work / "code"

    def lines(self) -> list[str]:
        """What runs, for people."""
        lines = [f"rebuild of {', '.join(self.stages)} in {self.work}"]
        if self.num_taken_down:
            told = f"{self.num_taken_down} documents that were taken down are fetched and trained on once more"
            lines.append(f"{told}, where their sources still have them; the bundle made again leaves them out too")
        return lines

    def command(self, stage: str) -> list[str]:
        """Arguments of `python -m` for one stage; stages before it are found by their fingerprints."""
        arguments = ["openwright", "run", str(self.config_dir / f"{stage}.yaml"), "--json"]
        arguments += ["--artifacts", str(self.work / "artifacts"), *(["--dev"] if self.is_dev else [])]
        return arguments + [word for override in self.overrides for word in ("--set", override)]


def plan_rebuild(bundle: Path, work: Path, options: RebuildOptions) -> RebuildPlan:
    """Read what a rebuild needs and copy the bundle's source tree.

    Args:
        work: directory to write in; what an interrupted rebuild of the same bundle left there is gone on with.

    Raises:
        BundleError: when code, configs or manifest are missing, or records are none.
        ConfigError: for processes that cannot share the steps of a stage.
    """
    require_for_rebuild(bundle)
    require_fitting(bundle, training_stages(bundle), options.num_processes)
    manifest = read_json(bundle / "model" / "manifest.json")
    work = work.resolve()
    _copy_code(bundle, work / "code")
    config_dir = _config_dir(work / "code", bundle)
    tombstones = bundle / "dataset" / TOMBSTONES_NAME
    if tombstones.is_file():
        shutil.copyfile(tombstones, config_dir / TOMBSTONES_NAME)
    return RebuildPlan(
        bundle=bundle,
        work=work,
        config_dir=config_dir,
        stages=(*(str(entry["stage"]) for entry in manifest["stages"]), RELEASE),
        overrides=tuple(_overrides(bundle, work, options)),
        is_dev=bool(manifest["dev"]),
        obstacles=tuple(_obstacles(bundle, config_dir, options)),
        num_taken_down=len(read_tombstones(tombstones)),
    )


def _copy_code(bundle: Path, target: Path) -> None:
    """Copy `model/code`: what runs must not write into the bundle."""
    source = bundle / "model" / "code"
    shutil.rmtree(target, ignore_errors=True)
    for path in bundle_files(bundle, "model/code"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _config_dir(code: Path, bundle: Path) -> Path:
    found = sorted(path.parent for path in (code / "configs").glob(f"*/{RELEASE_FILE}"))
    if len(found) != 1:
        raise BundleError(
            f"{len(found)} config directories in model/code/configs",
            expected=f"one, with {RELEASE_FILE}",
            where=str(bundle),
        )
    return found[0]


def _overrides(bundle: Path, work: Path, options: RebuildOptions) -> Iterator[str]:
    places = {"cache_dir": str(work / "sources")}
    if options.data_dir is not None:
        places["data_dir"] = str(options.data_dir.resolve())
    if options.index_url is not None:
        places["index_url"] = options.index_url
    if options.debian_archive is not None:
        places["debian_archive"] = options.debian_archive
    if (taken := bundle / "dataset" / TAKEN_TOKENIZER).is_file():
        places["tokenizer_file"] = str(taken.resolve())
    if (carried := bundle / "dataset" / CARRIED_SETS).is_dir():
        places["evaluation_sets_dir"] = str(carried.resolve())
    for name, value in places.items():
        yield f"corpus.execution.{name}={json.dumps(value)}"
    for stage in training_stages(bundle):
        yield f"{stage}.execution.trackers=[]"
        yield f"{stage}.execution.on_loss_spike=record"
        if (orders := _place_order(bundle, stage, work / "orders" / stage)) is not None:
            yield f"{stage}.execution.data_dir={json.dumps(str(orders))}"
        yield from _layout_overrides(bundle, stage, options.num_processes)


def _place_order(bundle: Path, stage: str, target: Path) -> Path | None:
    """Copy the file that gives a stage's order to where the stage looks for it below a directory; None without one.

    Raises:
        BundleError: when the recipe names no harmless path.
    """
    folder = bundle / "model" / "training" / stage
    order = read_json(folder / "recipe.json")["data"].get("order")
    if order is None:
        return None
    path = order.get("path") if isinstance(order, dict) else None
    if not isinstance(path, str) or not is_harmless(path):
        told = f"data.order names the file {show(path)}"
        raise BundleError(told, expected="a relative path", where=str(folder / "recipe.json"))
    if (folder / ORDER_FILE).is_file():  # without it the stage says what is missing
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / ORDER_FILE, target / path)
    return target


def _layout_overrides(bundle: Path, stage: str, num_processes: int | None) -> Iterator[str]:
    """Any number of processes under `exact`; the recorded layout under `native`, unless a number was asked for."""
    settings = bundle / "model" / "code" / "train" / "settings.py"
    known = settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else ""
    # Older code knows no layouts within a window.
    if "device:" in known and ran_on_cpus(bundle, stage):
        yield f"{stage}.execution.device=cpu"
    sizes = {name: 1 for name in ("shard_size", "tensor_size", "context_size") if name == "shard_size" or name in known}
    if reduction(bundle, stage) == "native" and num_processes is None:
        steps = int(read_json(bundle / "model" / "training" / stage / "run.json")["num_steps"])
        recorded = recorded_layouts(bundle, Segment(stage, bundle, 1, steps))
        if len(recorded) == 1:
            (layout,) = recorded
            num_processes, sizes = layout.num_processes, {name: getattr(layout, name) for name in sizes}
    yield f"{stage}.execution.num_processes={json.dumps(num_processes)}"
    for name, size in sizes.items():
        yield f"{stage}.execution.{name}={size}"


def _obstacles(bundle: Path, config_dir: Path, options: RebuildOptions) -> Iterator[CheckResult]:
    for stage in training_stages(bundle):
        branch = read_json(bundle / "model" / "training" / stage / "recipe.json").get("branch")
        if branch:
            begins = f"begins at step {branch['step']} of another run (ledger {branch['ledger_head'][:12]})"
            detail = f"{begins}, which is not in this bundle: replay its steps instead"
            yield CheckResult(CHECK, stage, "UNVERIFIED", detail, "")
    sources = read_json(bundle / "dataset" / "sources.lock")["sources"]
    local = [source for source in sources if source["type"] in ("chat", "dataset", "tokens", "warc")]
    if options.data_dir is None:
        for source in local:
            told = f"the files of source {source['name']} cannot be fetched by a program"
            where = f"; obtained from: {source['obtain']}" if source.get("obtain") else ""
            yield CheckResult(CHECK, "corpus", "UNVERIFIED", f"{told}; put them somewhere and give --data{where}", "")
        for entry in evaluation_sets(bundle / "dataset"):
            if entry["shipping"] == "reference":
                told = f"the file {entry['path']} of the evaluation set {entry['name']} is not in this bundle"
                where = f"; obtained from: {entry['obtain']}" if entry["obtain"] else ""
                yield CheckResult(CHECK, "corpus", "UNVERIFIED", f"{told}; give --data, where it lies{where}", "")
    packages = [source["name"] for source in sources if source["type"] == "debian"]
    if packages and options.debian_archive is None and not _names_an_archive(config_dir):
        told = f"source {packages[0]} comes from a Debian archive, and the bundle's config names none"
        yield CheckResult(
            CHECK, "corpus", "UNVERIFIED", f"{told}; give --debian-archive URL, the address above pool/", ""
        )


def _names_an_archive(config_dir: Path) -> bool:
    """Whether the configs name a Debian archive; as text, since nothing of a stranger's YAML is parsed here."""
    paths = (config_dir / "corpus.yaml", config_dir / OVERRIDES_FILE)
    return any(b"debian_archive" in path.read_bytes() for path in paths if path.is_file())
