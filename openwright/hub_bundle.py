"""A bundle on the Hub: two repositories, of which as many files are fetched as a command needs.

The root of the model repository is `model/`, that of the dataset repository `dataset/`. The model's manifest binds the
dataset's by sha256, so that it does not matter by which name or commit the dataset was found: another one is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from openwright.hub import HubName, Kind, Repository, RepositoryMissing, look_up, parse_name
from openwright.hub_files import WantedFile, fetch_files
from openwright.located import CACHE
from provenance.console import fact
from provenance.digests import sha256_file
from provenance.errors import BundleError
from release.layout import BUNDLE_FORMAT, DATASET_FORMAT, matching
from release.verify import MAX_JSON_BYTES, CheckResult, Mismatch, by_path, check_format, parse_json, show

NO_DATASET = "none"
MANIFEST = "manifest.json"
MAX_CARD_BYTES = 4 * 2**20
_FORMATS: dict[Kind, str] = {"model": BUNDLE_FORMAT, "dataset": DATASET_FORMAT}
_APART = ("manifest.json", "manifest.sig", "attestations/**")
_OF_THE_HUB = (".gitattributes",)
"""Files that a repository may hold beside the listed ones: git's own, which the Hub writes."""


@dataclass(frozen=True)
class Part:
    """One repository of a bundle, with the files that its manifest lists, by path."""

    repository: Repository
    manifest: dict[str, Any]
    listed: Mapping[str, dict[str, Any]]

    def wanted(self, patterns: Sequence[str]) -> list[WantedFile]:
        """Files that match any of some patterns of bundle paths, as far as the manifest lists them.

        Raises:
            BundleError: when the repository lacks one of them, or has another one in its place.
        """
        kind = self.repository.kind
        extras = matching(self.repository.files, _APART) if kind == "model" else []
        places = [f"{kind}/{path}" for path in sorted({*self.listed, *extras} - {MANIFEST})]
        return [self._wanted(place.removeprefix(f"{kind}/"), place) for place in matching(places, patterns)]

    def _wanted(self, path: str, place: str) -> WantedFile:
        entry, remote, where = self.listed.get(path), self.repository.files.get(path), f"{self.repository}: {path}"
        if remote is None:
            raise BundleError("the manifest lists it, and the repository does not hold it", where=where)
        if entry is None:
            return WantedFile(self.repository, path, place, remote.size_bytes, None)
        if remote.size_bytes != entry["size_bytes"]:
            expected = f"{entry['size_bytes']:,} bytes, as the manifest lists"
            raise BundleError(f"{remote.size_bytes:,} bytes", expected=expected, where=where)
        if remote.sha256 not in (None, entry["sha256"]):
            expected = f"sha256 {entry['sha256']}, as the manifest lists"
            raise BundleError(f"sha256 {show(remote.sha256)}", expected=expected, where=where)
        return WantedFile(self.repository, path, place, remote.size_bytes, entry["sha256"])

    def unlisted(self) -> list[str]:
        """Files of the repository that no manifest lists."""
        files = set(self.repository.files) - set(self.listed)
        known = (*_APART, *_OF_THE_HUB) if self.repository.kind == "model" else (MANIFEST, *_OF_THE_HUB)
        return sorted(files - set(matching(files, known)))


class HubBundle:
    """A bundle on the Hub and the directory in which what was fetched of it lies.

    Args:
        name: the model repository.
        dataset: name of the dataset repository, `none`, or empty for the one that the model's card names.
        cache: directory of all bundles that were fetched.

    Attributes:
        path: the bundle's directory, which holds `model/` and `dataset/` as far as they were fetched.

    Raises:
        BundleError: when it is no bundle, or cannot be fetched.
        ConfigError: for a name of a dataset that is none.
    """

    def __init__(self, name: HubName, dataset: str, cache: Path) -> None:
        self._options = f" --dataset {dataset}" if dataset else ""
        self._options += f" --cache {cache}" if cache != CACHE else ""
        self._has_dataset = dataset != NO_DATASET
        self._dataset_name = parse_name(dataset, "--dataset") if dataset not in ("", NO_DATASET) else None
        repository = _found(name, "model")
        folder = f"{name.repo_id.replace('/', '--')}@{repository.commit}"
        self.path = cache.expanduser().absolute() / folder
        self.model = self._open(repository)

    @property
    def name(self) -> str:
        """The model repository at its commit."""
        return str(self.model.repository)

    @property
    def argument(self) -> str:
        """How a command line names this bundle at this commit."""
        return self.name + self._options

    @cached_property
    def dataset(self) -> Part | None:
        """The dataset repository; None without one."""
        if not self._has_dataset:
            return None
        name = self._dataset_name or self._name_on_card()
        try:
            repository = _found(name, "dataset")
        except RepositoryMissing:
            if self._dataset_name:
                raise
            fact(f"the dataset {name}, which the model's card names, is not there; another is given by --dataset")
            return None
        return self._open(repository, self.model.manifest["dataset"]["manifest_sha256"])

    def fetch(self, *patterns: str, is_lone_allowed: bool = False) -> None:
        """Fetch the files that match patterns of bundle paths (`release.layout`), unless they are here already.

        Args:
            is_lone_allowed: whether the command can do without a dataset.

        Raises:
            BundleError: when a file cannot be fetched or is not the listed one, or for want of a dataset.
        """
        parts = [self.model]
        if any(pattern.startswith("dataset/") for pattern in patterns):
            if self.dataset is not None:
                parts.append(self.dataset)
            elif not is_lone_allowed:
                raise BundleError(
                    "the dataset is not here",
                    expected="the dataset repository of this model",
                    where=str(self.model.repository),
                    next_command="the same command with --dataset hf:ORG/NAME",
                )
        fetch_files([file for part in parts for file in part.wanted(patterns)], self.path)

    def checks(self) -> list[CheckResult]:
        """The repositories hold nothing but listed files: a library that loads the model may take others up too."""
        parts = [self.model, self.dataset] if self.dataset is not None else [self.model]
        told = " and ".join(str(part.repository) for part in parts)
        for part in parts:
            if found := part.unlisted():
                more = f" (and {len(found) - 1} more files)" if found[1:] else ""
                detail = f"{show(found[0])} is in the repository and no manifest lists it{more}"
                return [CheckResult("bytes", "repository", "FAIL", detail, str(part.repository))]
        return [CheckResult("bytes", "repository", "PASS", f"the listed files and no others in {told}", "")]

    def _open(self, repository: Repository, expected: str | None = None) -> Part:
        """Fetch a repository's manifest and read it."""
        where, kind = f"{repository}: {MANIFEST}", repository.kind
        remote = repository.files.get(MANIFEST)
        wanted = f"a {kind} repository of a bundle, with a {MANIFEST}"
        if remote is None or remote.size_bytes > MAX_JSON_BYTES:
            raise BundleError("not a bundle", expected=wanted, where=where)
        place = f"{kind}/{MANIFEST}"
        fetch_files(
            [WantedFile(repository, MANIFEST, place, remote.size_bytes, remote.sha256)], self.path, silently=True
        )
        digest = sha256_file(self.path / place)
        if expected not in (None, digest):
            (self.path / place).unlink()
            raise BundleError(
                f"not the dataset of this model: its manifest has sha256 {digest}",
                expected=f"{expected}, as the model's manifest says",
                where=where,
                next_command="the same command with --dataset hf:ORG/NAME@REVISION of the right one",
            )
        try:
            manifest = parse_json((self.path / place).read_bytes(), where)
            check_format(manifest, _FORMATS[kind], where)
            return Part(repository, manifest, by_path(manifest["files"], where))
        except Mismatch as error:
            raise BundleError(f"not a bundle: {error.detail}", expected=wanted, where=error.where or where) from None

    def _name_on_card(self) -> HubName:
        """The dataset that the model's card names first; one without an organisation is of the model's own."""
        cards = self.model.wanted(["model/README.md"])
        where = f"{self.model.repository}: README.md"
        if not cards or cards[0].size_bytes > MAX_CARD_BYTES:
            raise _unnamed("there is no model card that could name the dataset", where)
        fetch_files(cards, self.path, silently=True)
        try:
            named = ModelCard.load(self.path / "model" / "README.md").data.datasets
        except Exception as error:  # YAML of a stranger, read by a library
            raise _unnamed(f"the model card cannot be read ({type(error).__name__})", where) from error
        first = named[0] if isinstance(named, list) and named else named
        if not isinstance(first, str):
            raise _unnamed("the model card names no dataset", where)
        owner = self.model.repository.repo_id.split("/")[0]
        return parse_name(f"hf:{first}" if "/" in first else f"hf:{owner}/{first}", where)


def _found(name: HubName, kind: Kind) -> Repository:
    repository = look_up(name, kind)
    fact(f"{name}: {kind} repository at {name.revision or 'its default branch'}, commit {repository.commit}")
    return repository


def _unnamed(told: str, where: str) -> BundleError:
    following = "the same command with --dataset hf:ORG/NAME, or --dataset none"
    return BundleError(told, expected="`datasets:` at its top", where=where, next_command=following)
