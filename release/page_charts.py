"""Charts of the release page as inline SVG: no script, no network, the same bytes for the same numbers.

Colours come from the page's style sheet by class, so that light, dark and print work; no fact is told by colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MAX_POINTS = 480
_WIDTH, _LEFT, _RIGHT = 760, 52, 16


@dataclass(frozen=True)
class Axis:
    """A linear axis from values to places on the canvas, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Place of a value on the canvas."""
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, at_most: int) -> list[float]:
        """Round values within the axis."""
        span = self.high - self.low or 1.0
        raw = span / at_most
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 10) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def thin_out(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points so that at most `MAX_POINTS` remain."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups]


def loss_chart(
    title: str,
    losses: Sequence[tuple[int, float]],
    heldout: Sequence[tuple[int, float]],
    checkpoints: Sequence[tuple[int, str]],
) -> str:
    """Training loss as a thin line, held-out loss as diamonds, checkpoints as dots below the axis.

    Args:
        losses: step and training loss in nats per token.
        heldout: step and held-out loss in nats per token.
        checkpoints: step and kind (`weights` as an open dot, `full` as a filled one).
    """
    height, top, bottom = 300, 18, 58
    values = [y for _, y in losses] + [y for _, y in heldout]
    if not values:
        return ""
    last_step = max([x for x, _ in losses] + [x for x, _ in heldout] + [x for x, _ in checkpoints])
    margin = 0.06 * (max(values) - min(values) or 1.0)
    x_axis = Axis(0, max(last_step, 1), _LEFT, _WIDTH - _RIGHT)
    y_axis = Axis(min(values) - margin, max(values) + margin, height - bottom, top)
    parts = [_grid(x_axis, y_axis, height, bottom)]
    line = " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in thin_out(losses))
    parts.append(f'<polyline class="line" points="{line}"/>')
    marks = [(x_axis.place(x), y_axis.place(y)) for x, y in heldout]
    if len(marks) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
        parts.append(f'<polyline class="heldout-line" points="{path}"/>')
    parts += [f'<path class="heldout" d="M{x:.1f} {y - 4.5:.1f}l4.5 4.5-4.5 4.5-4.5-4.5z"/>' for x, y in marks]
    row = height - bottom + 32
    parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{row + 4}" text-anchor="end">saved</text>')
    for step, kind in checkpoints:
        style = "dot full" if kind == "full" else "dot"
        note = f"checkpoint at step {step} ({'with optimizer' if kind == 'full' else 'weights'})"
        parts.append(
            f'<circle class="{style}" cx="{x_axis.place(step):.1f}" cy="{row}" r="3.4"><title>{note}</title></circle>'
        )
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{height - 4}" text-anchor="end">step</text>')
    first, last = losses[0] if losses else heldout[0], losses[-1] if losses else heldout[-1]
    told = f"{title}: training loss {first[1]:.3f} (step {first[0]}) to {last[1]:.3f} (step {last[0]}), nats per token"
    if heldout:
        told += f"; held-out loss from {heldout[0][1]:.3f} to {heldout[-1][1]:.3f}"
    return _svg(told, height, parts)


def _grid(x_axis: Axis, y_axis: Axis, height: int, bottom: int) -> str:
    parts = []
    for tick in y_axis.ticks(5):
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{x_axis.start}" x2="{x_axis.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_axis.ticks(7):
        x = x_axis.place(tick)
        label = f"{tick:,.0f}" if tick == int(tick) else ""
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle">{label}</text>')
    base = height - bottom
    parts.append(f'<line class="axis" x1="{x_axis.start}" x2="{x_axis.end}" y1="{base}" y2="{base}"/>')
    return "".join(parts)


@dataclass(frozen=True)
class Bar:
    """One horizontal bar; `low` and `high` draw an interval, `second` a lighter bar below it."""

    label: str
    value: float
    text: str
    emphasis: bool = False
    low: float | None = None
    high: float | None = None
    second: float | None = None
    second_text: str = ""


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero with their values written out."""
    if not bars:
        return ""
    paired = any(bar.second is not None for bar in bars)
    pitch, top, left = (40 if paired else 30), 6, 168
    height = top + pitch * len(bars) + 4
    widest = max(max(bar.value, bar.high or 0.0, bar.second or 0.0) for bar in bars)
    axis = Axis(0.0, widest or 1.0, left, _WIDTH - 150)
    parts = []
    for number, bar in enumerate(bars):
        y = top + number * pitch
        style = "bar strong" if bar.emphasis else "bar"
        parts.append(
            f'<text class="label" x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(_cut(bar.label))}</text>'
        )
        parts.append(
            f'<rect class="{style}" x="{left}" y="{y + 3}" width="{axis.place(bar.value) - left:.1f}" height="16"/>'
        )
        end = axis.place(max(bar.value, bar.high or 0.0))
        if bar.low is not None and bar.high is not None:
            low, high = axis.place(bar.low), axis.place(bar.high)
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {y + 11}H{high:.1f}M{low:.1f} {y + 7}v8M{high:.1f} {y + 7}v8"/>'
            )
        parts.append(f'<text class="value" x="{end + 8:.1f}" y="{y + 15}">{escape(bar.text)}</text>')
        if bar.second is not None:
            width = axis.place(bar.second) - left
            parts.append(f'<rect class="bar second" x="{left}" y="{y + 21}" width="{width:.1f}" height="9"/>')
            x = left + width + 8
            parts.append(f'<text class="value small" x="{x:.1f}" y="{y + 29}">{escape(bar.second_text)}</text>')
    told = f"{title}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    return _svg(told, height, parts)


def _cut(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _svg(told: str, height: int, parts: Sequence[str]) -> str:
    body = "".join(parts)
    text = escape(told)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text}"><title>{text}</title>{body}</svg>'
