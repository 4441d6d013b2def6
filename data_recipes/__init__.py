"""Layer 2: sources, licences, filters, tokenizing, token shards, documents, order.

Public names are imported when first used, so that reading windows of tokens does not load what builds a corpus.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_recipes.corpus import build_corpus
    from data_recipes.order import Order
    from data_recipes.settings import CorpusConfig
    from data_recipes.windows import TokenWindows

__all__ = ["CorpusConfig", "Order", "TokenWindows", "build_corpus"]

_HOMES = {
    "CorpusConfig": "data_recipes.settings",
    "Order": "data_recipes.order",
    "TokenWindows": "data_recipes.windows",
    "build_corpus": "data_recipes.corpus",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
