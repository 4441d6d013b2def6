"""Which reader reads which type of source."""

from collections.abc import Callable
from typing import Any

from data_recipes.debian_source import DebianReader
from data_recipes.hub_source import HubReader
from data_recipes.local_datasets import DatasetReader
from data_recipes.pypi_reader import PypiReader
from data_recipes.reading import ReadingContext, SourceReader
from data_recipes.settings import CorpusConfig, Source
from data_recipes.token_source import TokensReader
from data_recipes.warc_source import WarcReader

READERS: dict[str, Callable[[Any, ReadingContext], SourceReader]] = {
    "dataset": DatasetReader,
    "debian": DebianReader,
    "hub": HubReader,
    "pypi": PypiReader,
    "tokens": TokensReader,
    "warc": WarcReader,
}
"""A reader's class by the `type` of the source."""


def open_source(source: Source, context: ReadingContext) -> SourceReader:
    """Return the reader of a source."""
    return READERS[source.type](source, context)


def reading_context(config: CorpusConfig) -> ReadingContext:
    """Return what readers may know of a recipe."""
    execution = config.execution
    return ReadingContext(
        limits=config.limits,
        cache_dir=execution.cache_dir.expanduser(),
        data_dir=execution.data_dir.expanduser(),
        tokenizer_file=execution.tokenizer_file and execution.tokenizer_file.expanduser(),
        index_url=execution.index_url,
        debian_archive=execution.debian_archive,
        keep_fetched=execution.keep_fetched,
    )
