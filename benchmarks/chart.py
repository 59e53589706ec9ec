"""Pictures of figures, as SVG: bars, of one colour or of parts, in groups of one scale each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.report import ECHO, LIMIT, NAMES, OURS, PARTS, Results, median

WIDTH, LABELS, BARS = 860, 190, 520
ROW, BAR, GAP, HEAD = 22, 15, 14, 30
COLOURS = ("#2b6cb0", "#dd6b20", "#718096", "#b7a4d6")
PALE = "#a0aec0"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: how long each of its parts is, and what to write behind it."""

    label: str
    parts: Sequence[float]
    text: str
    is_ours: bool = True


def bars(title: str, groups: Mapping[str, Sequence[Bar]], legend: Sequence[str] = ()) -> str:
    """An SVG; the longest bar of each group is as long as there is room."""
    return _page([_panel(title, groups, legend)])


def bench_chart(results: Results) -> str:
    """What `make bench` found: items a second, and the CPU of an item."""
    rates: dict[str, list[Bar]] = {}
    spent: dict[str, list[Bar]] = {}
    for way, name in results.peak:
        rate = median(results.items_per_s(way, name))
        if (way, name) != ("batch", ECHO):  # beside which nothing else would be seen
            rates.setdefault(NAMES[way], []).append(Bar(name, [rate], f"{rate:,.0f}", is_ours=name == OURS))
        known = results.peak[way, name][0].cpu_us
        parts = [median(results.cpu_us(way, name, part)) if part in known else 0 for part in PARTS]
        spent.setdefault(NAMES[way], []).append(Bar(name, parts, f"{sum(parts):,.0f} µs"))
    limit = median(one.items_per_s for one in results.function)
    rates[NAMES["batch"]].append(Bar(LIMIT, [limit], f"{limit:,.0f}", is_ours=False))
    return _page(
        [_panel("items a second at the peak", rates), _panel("CPU of an item at the peak", spent, legend=PARTS)]
    )


def _page(panels: Sequence[tuple[Sequence[str], int]]) -> str:
    drawn, top = [], 0
    for elements, height in panels:
        drawn.append(f'<g transform="translate(0 {top})">{"".join(elements)}</g>')
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="12" fill="#1a202c">'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _panel(title: str, groups: Mapping[str, Sequence[Bar]], legend: Sequence[str] = ()) -> tuple[Sequence[str], int]:
    """Its elements, and its height."""
    found = [_text(10, 20, title, size=15, weight="bold")]
    left: float = LABELS
    for name, colour in zip(legend, COLOURS, strict=False):
        found += [_rect(left, 28, 11, colour, height=11), _text(left + 16, 38, name)]
        left += 28 + 8 * len(name)
    top = HEAD + (22 if legend else 6)
    for group, rows in groups.items():
        found.append(_text(10, top + 12, group, weight="bold"))
        top += ROW
        scale = BARS / max(sum(row.parts) for row in rows)
        for row in rows:
            found.append(_text(LABELS - 8, top + 12, row.label, anchor="end"))
            left = LABELS
            for part, colour in zip(row.parts, COLOURS, strict=False):
                found.append(_rect(left, top, part * scale, colour if row.is_ours else PALE))
                left += part * scale
            found.append(_text(left + 6, top + 12, row.text))
            top += ROW
        top += GAP
    return found, top


def _rect(left: float, top: float, width: float, colour: str, height: int = BAR) -> str:
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(left: float, top: float, text: str, *, size: int = 12, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
