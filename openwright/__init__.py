"""Layer 5: command line, pipeline runner, and the public names for notebooks, imported when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwright.bundles import OpenBundle, open_bundle
    from openwright.pipeline import run_directory

__all__ = ["OpenBundle", "open_bundle", "run_directory"]

_HOMES = {
    "OpenBundle": "openwright.bundles",
    "open_bundle": "openwright.bundles",
    "run_directory": "openwright.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
