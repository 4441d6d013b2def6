"""The commands `openwright data ...`. Everything heavy is imported inside the commands, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

AsJson = Annotated[bool, Option("--json", help="Print one JSON document on standard output.")]
InCorpus = Annotated[
    Path, Option("--in", metavar="CORPUS|BUNDLE", help="Directory of a corpus artifact or of a bundle.")
]


@data_app.command("licences")
def data_licences(
    place: InCorpus,
    attribution: Annotated[
        Path | None, Option("--attribution", metavar="FILE", help="Also write the credits of the kept documents here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show under which licences documents were kept and what those ask.

    Only the rows of documents/ are read, no text.
    """
    from openwright import data_commands

    data_commands.show_licences(place, attribution, as_json)
