"""The commands `openwright inspect ...`. Heavy imports are inside the commands, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from openwright.located import CACHE, LOOKUP_CACHE, BundleArgument
from openwright.options import AsJson, Cache, DatasetName

inspect_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

InBundle = Annotated[Path, Option("--in", metavar="BUNDLE", help="Directory of a bundle, or hf:ORG/NAME[@REVISION].")]


@inspect_app.command("step")
def inspect_step(
    step: Annotated[int, Argument(metavar="N", min=1, help="Step, counted from 1.")],
    bundle: InBundle,
    stage: Annotated[Literal["pretrain", "sft"], Option("--stage", help="Training stage.")] = "pretrain",
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Show what a step read: sources, documents, text."""
    from openwright import inspect_commands

    inspect_commands.inspect_step(step, BundleArgument(bundle, dataset, cache), stage, as_json)


@inspect_app.command("document")
def inspect_document(
    document_id: Annotated[str, Argument(metavar="ID", help="Document id, or the beginning of it.")],
    bundle: InBundle,
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Show a document's licence and the steps that read it."""
    from openwright import inspect_commands

    inspect_commands.inspect_document(document_id, BundleArgument(bundle, dataset, cache), as_json)


@inspect_app.command("text")
def inspect_text(
    passage: Annotated[str, Argument(metavar="TEXT", help="Passage, compared byte by byte in the form of the tokens.")],
    bundle: InBundle,
    limit: Annotated[int, Option("--limit", min=1, help="Most places to name.")] = 10,
    index: Annotated[Path, Option("--index", metavar="DIR", help="Where the index is kept.")] = LOOKUP_CACHE,
    dataset: DatasetName = "",
    cache: Cache = CACHE,
    as_json: AsJson = False,
) -> None:
    """Find a passage in the pretraining text, and its steps.

    The first search in a bundle makes an index, which is kept.
    """
    from openwright import inspect_commands

    inspect_commands.inspect_text(passage, BundleArgument(bundle, dataset, cache), limit, index, as_json)
