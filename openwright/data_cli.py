"""The commands `openwright data ...`. Everything heavy is imported inside the commands, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from openwright.options import ARTIFACTS, AsJson, Dev, Store

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

InCorpus = Annotated[
    Path, Option("--in", metavar="CORPUS|BUNDLE", help="Directory of a corpus artifact or of a bundle.")
]


@data_app.command("build")
def data_build(
    place: Annotated[Path, typer.Argument(metavar="CONFIG_DIR|CORPUS_YAML", help="Recipe of the corpus.")],
    overrides: Annotated[
        list[str] | None, Option("--set", metavar="corpus.KEY=VALUE", help="Override a value; repeatable.")
    ] = None,
    store: Store = ARTIFACTS,
    dev: Dev = False,
    as_json: AsJson = False,
) -> None:
    """Build a corpus by itself.

    The recipes for the Hub and for Debian packages in configs/ are built like this, and any other.
    """
    from openwright import data_commands

    data_commands.build(place, overrides or [], store, dev, as_json)


@data_app.command("pin")
def data_pin(
    things: Annotated[
        list[str], typer.Argument(metavar="hf:ORG/NAME[@REVISION]|PACKAGE.dsc|FILE...", help="What to pin.")
    ],
    globs: Annotated[
        list[str] | None, Option("--files", metavar="GLOB", help="For hf: which files to read; repeatable.")
    ] = None,
    data_dir: Annotated[
        Path, Option("--data-dir", metavar="DIR", help="Directory that local paths are relative to.")
    ] = Path(),
) -> None:
    """Print a source's entry for corpus.yaml with its pins.

    Pins are digests of files, or the commit of a repository. What is left for a person to say, such as the licence,
    stands in comments.
    """
    from openwright.pins import pin

    print(pin(things, globs or [], data_dir), end="")


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

    with data_commands.readable_tables(place):
        data_commands.show_licences(place, attribution, as_json)


@data_app.command("stats")
def data_stats(
    place: InCorpus,
    plot: Annotated[Path | None, Option("--plot", metavar="FILE.svg", help="Also draw it, as SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show sources, licences, languages, splits and dropping rules.

    Only the rows of documents/ are read, no text.
    """
    from openwright import data_commands
    from openwright import data_stats as stats

    with data_commands.readable_tables(place):
        stats.show_stats(place, plot, as_json)


@data_app.command("recount")
def data_recount(
    place: InCorpus,
    overrides: Annotated[
        list[str] | None,
        Option("--set", metavar="quality.RULE=VALUE", help="Threshold to try, null for none; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count what other quality thresholds would keep.

    Only the rows of documents/ are read, no text.
    """
    from openwright import data_commands, recounting

    with data_commands.readable_tables(place):
        recounting.show_recount(place, overrides or (), as_json)


@data_app.command("export")
def data_export(
    place: InCorpus,
    target: Annotated[Path, Option("--to", metavar="DIR", help="New directory.")],
    form: Annotated[Literal["megatron", "dolma"], Option("--format", help="Form to write.")] = "megatron",
    split: Annotated[str, Option("--split", help="Split of documents.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Write a split for another program.

    megatron: a .bin and an .idx file per source, tokens of the documents in our order. dolma: gzipped JSON lines per
    source and shard, texts with their licence and what was decided of them.
    """
    from openwright import data_commands

    with data_commands.readable_tables(place):
        data_commands.export_split(place, target, form, split, as_json)


@data_app.command("order")
def data_order(
    place: InCorpus,
    instances: Annotated[Path, typer.Argument(metavar="FILE", help="Global indices of OLMo-core.")],
    source: Annotated[str, Option("--source", metavar="NAME", help="Source in place that holds its files.")],
    window_tokens: Annotated[int, Option("--window-tokens", metavar="N", min=1, help="Its sequence length.")],
    target: Annotated[Path, Option("--to", metavar="FILE", help="New file.")],
    split: Annotated[str, Option("--split", help="Split that the source is in.")] = "train",
    file_chunk_tokens: Annotated[
        int | None, Option("--file-chunk-tokens", metavar="N", help="Its max_target_sequence_length, where it is set.")
    ] = None,
    leave_out: Annotated[
        bool, Option("--leave-out", help="Leave out instances at the end of a file that have no window.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the order file of a run from the order in which OLMo-core read the same files of tokens.

    Prints the lines for data.order of pretrain.yaml.
    """
    from openwright import data_commands

    data_commands.make_order(
        place, source, instances, target, as_json,
        split=split, window_tokens=window_tokens, file_chunk_tokens=file_chunk_tokens, leave_out=leave_out,
    )  # fmt: skip


@data_app.command("forget")
def data_forget(
    documents: Annotated[
        list[str],
        Option("--documents", metavar="ID,...", help="Document ids, or their beginnings; repeatable."),
    ],
    reason: Annotated[str, Option("--reason", help="Why, in words that may be published.")],
    places: Annotated[
        list[Path],
        Option("--in", metavar="RUN|BUNDLE|DIR", help="Runs to look through: a bundle, a run, artifacts; repeatable."),
    ],
    config_dir: Annotated[
        Path, Option("--to", metavar="CONFIG_DIR", help="Config directory whose tombstones.json is added to.")
    ],
    receipt: Annotated[
        Path | None, Option("--receipt", metavar="FILE", help="Where the receipt goes; a new file in . if left out.")
    ] = None,
    with_duplicates: Annotated[
        bool, Option("--with-duplicates", help="Also what was dropped as a duplicate of them.")
    ] = False,
    date: Annotated[str | None, Option("--date", help="ISO date of the request; today if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take documents down: tombstones, and a receipt of who read them.

    The next release build of CONFIG_DIR leaves their texts and tokens out; give it a new version.
    """
    from openwright import data_commands

    prefixes = [prefix.strip() for text in documents for prefix in text.split(",") if prefix.strip()]
    data_commands.forget_documents(prefixes, reason, places, config_dir, receipt, with_duplicates, date, as_json)
