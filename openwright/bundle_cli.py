"""The commands for whoever has a bundle: verify, reproduce, compare, attest. Heavy imports are inside the commands."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from openwright.located import CACHE, BundleArgument
from openwright.options import AsJson, Cache, DatasetName, PrivateKeyFile

Yes = Annotated[bool, Option("--yes", help="Run the bundle's code without asking.")]
Bundle = Annotated[
    Path, Argument(metavar="BUNDLE", help="Directory of a bundle (model/ and dataset/), or hf:ORG/NAME[@REVISION].")
]


def verify(
    bundle: Bundle,
    expect: Annotated[
        str | None, Option("--expect", metavar="DIGEST", help="Manifest digest that you had from a place you trust.")
    ] = None,
    key: Annotated[
        Path | None, Option("--key", metavar="PUB.pem", help="Public key of the publisher, from a place you trust.")
    ] = None,
    attesters: Annotated[
        list[Path] | None, Option("--attester", metavar="PUB.pem", help="Public key of an attester; repeatable.")
    ] = None,
    tokens: Annotated[
        Literal["sample", "all", "none"], Option("--tokens", help="How many token digests to recompute.")
    ] = "sample",
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: bytes, signatures, records, openness.

    From a directory this needs no network; of hf:ORG/NAME every listed file is fetched first.
    """
    from openwright import commands

    commands.verify_bundle(BundleArgument(bundle, dataset, cache), expect, key, attesters or (), tokens, as_json)


def reproduce(
    bundle: Bundle,
    step: Annotated[
        str | None, Option("--step", metavar="A:B", help="Replay steps A to B, from the last full checkpoint before A.")
    ] = None,
    segments: Annotated[
        int | None, Option("--segments", min=1, help="How many random segments to replay; 1 if left out.")
    ] = None,
    seed: Annotated[int | None, Option("--seed", help="Seed of the choice of segments; fresh if left out.")] = None,
    stage: Annotated[
        Literal["pretrain", "sft"] | None, Option("--stage", help="Training stage; any if left out.")
    ] = None,
    processes: Annotated[int | None, Option("--processes", min=1, help="Processes to train with.")] = None,
    full: Annotated[
        bool, Option("--full", help="Make everything again, from the sources to the bundle, and compare.")
    ] = False,
    isolated: Annotated[
        bool, Option("--isolated", help="In a fresh virtual environment from the bundle's lock files.")
    ] = False,
    work: Annotated[
        Path | None,
        Option("--work", metavar="DIR", help="Keep rebuild and environment here, and go on with it."),
    ] = None,
    data: Annotated[
        Path | None, Option("--data", metavar="DIR", help="Where the files of local data sets lie, for --full.")
    ] = None,
    index_url: Annotated[
        str | None, Option("--index-url", metavar="URL", help="Package index to fetch sources from, for --full.")
    ] = None,
    debian_archive: Annotated[
        str | None,
        Option(
            "--debian-archive", metavar="URL", help="Debian archive to fetch sources from (above pool/), for --full."
        ),
    ] = None,
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Replay steps, or make all again, and compare the bits.

    This runs the bundle's own code: it says which, and asks first.
    """
    from openwright import commands

    options = {"segments": segments, "seed": seed, "num_processes": processes, "stage": stage, "yes": yes}
    rebuild = {"full": full, "isolated": isolated, "work": work, "data": data}
    places = {"index_url": index_url, "debian_archive": debian_archive}
    commands.reproduce_bundle(BundleArgument(bundle, dataset, cache), step, as_json, **options, **rebuild, **places)


def compare(
    one: Annotated[Path, Argument(metavar="A", help="A run, finished or not; a bundle; hf:ORG/NAME.")],
    other: Annotated[Path, Argument(metavar="B", help="Another one.")],
    stage: Annotated[Literal["pretrain", "sft"], Option("--stage", help="Training stage of bundles.")] = "pretrain",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Lay two runs side by side: recipes, steps, losses, scores.

    A measurement and no verdict: the exit code is 0 whatever differs.
    """
    from openwright import inspect_commands

    sides = (BundleArgument(one, cache=cache), BundleArgument(other, cache=cache))
    inspect_commands.compare(*sides, stage, as_json)


def attest(
    bundle: Bundle,
    key: PrivateKeyFile,
    report: Annotated[
        Path, Option("--report", metavar="REPORT.json", help="What `openwright reproduce BUNDLE --json` printed.")
    ],
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Sign what a replay found, and add it to the bundle."""
    from openwright import commands

    commands.attest_replay(BundleArgument(bundle, dataset, cache), key, report, as_json)
