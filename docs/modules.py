"""Draw the rooms of the package and their imports: ``python docs/modules.py`` writes ``docs/modules.svg``."""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "cloudsen12_cube"
WIDTH, GUTTER, GAP, CHANNEL = 900, 60, 12, 38
"""Width of the picture, of the strip at its right for long arrows, between boxes, and between rows; pixels."""


@dataclass(frozen=True)
class Box:
    """One room at its place in the picture."""

    name: str
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Horizontal centre."""
        return self.x + self.width / 2


def rooms() -> dict[str, list[Path]]:
    """Room -> its modules; a module of the package itself is a room of one module."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not room.startswith("__"):
            found[room].append(path)
    return found


def imports(room: str) -> set[str]:
    """Other rooms from which a room imports, inside functions, too."""
    nodes = [node for path in rooms()[room] for node in ast.walk(ast.parse(path.read_text()))]
    names = {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name)
        for alias in node.names
    }
    return ({name.split(".")[1] for name in names} & set(rooms())) - {room}


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by layer: a room is in the first layer after all the rooms that it imports from."""
    found: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(graph):
        layer = sorted(room for room in graph if room not in placed and graph[room] <= placed)
        if not layer:
            raise ValueError(f"rooms import each other: {sorted(set(graph) - placed)}")
        found.append(layer)
        placed |= set(layer)
    return found


def arrows(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """List the imports (room, imported room) without those that follow from others."""

    def reachable(room: str) -> set[str]:
        return graph[room].union(*(reachable(target) for target in graph[room]))

    return [
        (room, target)
        for room in sorted(graph)
        for target in sorted(graph[room])
        if not any(target in reachable(other) for other in graph[room] - {target})
    ]


def picture() -> str:
    """Give the picture as SVG."""
    graph = {room: imports(room) for room in rooms()}
    rows, boxes, y = layers(graph), {}, 8.0
    for row in rows:
        width = min((WIDTH - GUTTER - GAP * (len(row) - 1)) / len(row), 560)
        left = 1 + (WIDTH - GUTTER - width * len(row) - GAP * (len(row) - 1)) / 2
        height = max(_height(room, width) for room in row)
        for column, room in enumerate(row):
            boxes[room] = Box(room, left + column * (width + GAP), y, width, height)
        y += height + CHANNEL
    parts = [_box(box) for box in boxes.values()]
    level = {room: number for number, row in enumerate(rows) for room in row}
    long = [target for room, target in arrows(graph) if level[room] - level[target] > 1]
    lanes = sorted(set(long), key=lambda target: (-level[target], target))
    for room, target in arrows(graph):
        lane = lanes.index(target) if level[room] - level[target] > 1 else None
        parts.append(_arrow(boxes[room], boxes[target], lane))
    return _document(parts, y - CHANNEL + 8)


def _text(room: str, width: float) -> tuple[list[str], list[str]]:
    """Lines of a room's docstring, and lines of its modules."""
    paths = rooms()[room]
    first = next((path for path in paths if path.stem == "__init__"), paths[0])
    sentence = (ast.get_docstring(ast.parse(first.read_text())) or "").split(". ")[0].replace("`", "").rstrip(".") + "."
    names = " ".join(path.stem for path in paths if path.stem != "__init__" and len(paths) > 1)
    return textwrap.wrap(sentence, int(width / 6.2)), textwrap.wrap(names, int(width / 7.4), break_on_hyphens=False)


def _height(room: str, width: float) -> float:
    sentence, names = _text(room, width)
    return 30 + 14 * len(sentence) + 15 * len(names) + (6 if names else 0)


def _box(box: Box) -> str:
    sentence, names = _text(box.name, box.width)
    place = f'x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5"'
    lines = [f'<rect class="room" {place}/>', _line("name", box, 18, box.name)]
    lines += [_line("idea", box, 34 + 14 * row, text) for row, text in enumerate(sentence)]
    below = 40 + 14 * len(sentence)
    lines += [_line("module", box, below + 15 * row, text) for row, text in enumerate(names)]
    return "".join(lines)


def _line(kind: str, box: Box, below: float, text: str) -> str:
    return f'<text class="{kind}" x="{box.x + 10:g}" y="{box.y + below:g}">{escape(text)}</text>'


def _arrow(start: Box, end: Box, lane: int | None) -> str:
    """Draw an import upwards; one that skips a row runs in the lane of its target, at the right."""
    top, bottom = start.y, end.y + end.height
    if lane is None:
        bend = (top - bottom) / 2
        return (
            f'<path class="arrow" d="M{start.middle:g} {top:g}C{start.middle:g} {top - bend:g} '
            f'{end.middle:g} {bottom + bend:g} {end.middle:g} {bottom + 2:g}"/>'
        )
    x, shift = WIDTH - GUTTER + 10 + 10 * lane, 5 * lane
    route = f"M{start.middle + 24 + 10 * lane:g} {top:g}v{-8 - shift:g}H{x:g}V{bottom + 13 + shift:g}"
    route += f"H{end.middle + 24:g}V{bottom + 2:g}"
    return f'<path class="arrow" d="{route}"/>'


def _document(parts: list[str], height: float) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>Rooms and their imports</title>',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="ground" width="{WIDTH}" height="{height:g}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


_STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#1d1d1f}"
    ".ground{fill:#fff}.room{fill:#f4f4f2;stroke:#c9c9c6}"
    ".name{font-size:14px;font-weight:600}.idea{font-size:11.5px;fill:#6a6a6a}"
    ".module{font:11.5px ui-monospace,Menlo,monospace}"
    ".arrow{stroke:#d55e00;stroke-width:1.4;fill:none;marker-end:url(#head)}.head{fill:#d55e00}"
)

if __name__ == "__main__":
    Path(__file__).with_name("modules.svg").write_text(picture())
