"""How numbers and names are written in generated documents; the same value always gives the same text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from provenance.canonical import parse_hex_float

SMALL_MODEL_PARAMETERS = 100_000_000
"""Below this a released model is called demonstration size."""

METRICS = {
    "bits_per_byte": "bits per byte",
    "acc": "accuracy",
    "acc_norm": "accuracy, length-normalised",
}


def count(value: int) -> str:
    """An integer with thousands separators."""
    return f"{value:,}"


def number(value: float | str | None, digits: int = 3) -> str:
    """A float, or its hexadecimal form, with a fixed number of decimals; a dash for None."""
    if value is None:
        return "\u2013"
    return f"{parse_hex_float(value) if isinstance(value, str) else value:.{digits}f}"


def scientific(value: float) -> str:
    """A float in the shortest form that tells it apart at four digits."""
    return f"{value:.4g}"


def size(num_bytes: int) -> str:
    """A size in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def percent(part: float, whole: float) -> str:
    """A share in percent with one decimal."""
    return f"{100 * part / whole:.1f}%" if whole else "\u2013"


def short(digest: str) -> str:
    """The first twelve characters of a digest."""
    return digest[:12]


def task_name(task: str) -> str:
    """A task's name for people."""
    return task.removeprefix("openwright_").replace("_", " ")


def metric_name(metric: str) -> str:
    """A metric's name for people."""
    return METRICS.get(metric, metric)


def cell(text: object) -> str:
    """Text for a Markdown table: one line, no column breaks, no markup of its own."""
    plain = " ".join(str(text).split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def is_small(num_parameters: int) -> bool:
    """Whether a model is of demonstration size."""
    return num_parameters < SMALL_MODEL_PARAMETERS


FILTERS = {
    "count": count,
    "number": number,
    "scientific": scientific,
    "size": size,
    "short": short,
    "task_name": task_name,
    "metric_name": metric_name,
    "cell": cell,
}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of `release/templates/`; HTML is escaped, a name that is missing is an error."""
    loader = FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8")
    environment = Environment(
        loader=loader,
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template).render(**values)
