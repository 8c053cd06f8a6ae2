"""Draw the parts of src/sandglass and their imports: `python tools/draw_architecture.py` writes docs/architecture.svg.

A box is a part, an entry at the top of the package. An arrow leads from a part to a part that it imports; an import
that a chain of other arrows implies is left out. Each part lies one row above the highest part that it imports.
"""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/sandglass"
PICTURE = ROOT / "docs/architecture.svg"
SEAMS = {"backends", "tasks", "models", "datasets"}  # drawn in another colour: one file is one member
ROW, COLUMN, BOX_WIDTH, BOX_HEIGHT, MARGIN = 62, 150, 116, 32, 20  # pixels
BOX_COLOUR, SEAM_COLOUR, INK = "#e3ebf6", "#fbe8c8", "#26364d"

Bend = tuple[str, str, int]  # the place in one row that an arrow passes: its ends and the row
Place = str | Bend
Point = tuple[float, float]


def parts() -> list[str]:
    """Names of the entries of the package that hold code, without files such as __main__.py."""
    entries = (path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
    return sorted(entry.stem for entry in entries if not entry.stem.startswith("_"))


def imported_parts(path: Path) -> set[str]:
    """The parts that a module imports, also inside functions and for type checking."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {module.split(".")[1] for module in modules if module.startswith("sandglass.")}


def imports() -> nx.DiGraph:
    """The parts, with an edge to each part that they import and that no chain of other edges leads to."""
    graph = nx.DiGraph()
    for part in parts():
        graph.add_node(part)
        files = (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
        for file in sorted(files):
            graph.add_edges_from((part, other) for other in imported_parts(file) & set(parts()) - {part})
    return nx.transitive_reduction(graph)


def rows(graph: nx.DiGraph) -> dict[str, int]:
    """The row of each part, 0 at the bottom."""
    generations = nx.topological_generations(graph.reverse())
    return {part: row for row, generation in enumerate(generations) for part in generation}


def steps(graph: nx.DiGraph, row: dict[str, int]) -> dict[tuple[str, str], list[Place]]:
    """For each edge the places that it leads through, one in each row from its upper to its lower end."""
    return {
        (upper, lower): [upper, *((upper, lower, level) for level in range(row[upper] - 1, row[lower], -1)), lower]
        for upper, lower in sorted(graph.edges)
    }


def positions(row: dict[str, int], ways: list[list[Place]]) -> dict[Place, Point]:
    """The middle of each place in units of rows and columns; each row is ordered by the places above it."""
    level = dict[Place, int](row) | {place: place[2] for way in ways for place in way if not isinstance(place, str)}
    above: dict[Place, list[Place]] = {place: [] for place in level}
    for way in ways:
        for upper, lower in pairwise(way):
            above[lower].append(upper)
    position: dict[Place, Point] = {}
    for height in range(max(level.values()), -1, -1):
        places = [place for place in level if level[place] == height]
        columns = {place: [position[upper][0] for upper in above[place]] for place in places}
        means = {place: sum(values) / len(values) if values else 0.0 for place, values in columns.items()}
        for i, place in enumerate(sorted(places, key=lambda place: (means[place], str(place)))):
            position[place] = (i - (len(places) - 1) / 2, height)
    return position


def picture() -> str:
    """The SVG file."""
    graph = imports()
    row = rows(graph)
    ways = steps(graph, row)
    position = positions(row, list(ways.values()))
    left, top = min(x for x, _ in position.values()), max(row.values())
    width = (max(x for x, _ in position.values()) - left) * COLUMN + BOX_WIDTH + 2 * MARGIN
    height = top * ROW + BOX_HEIGHT + 2 * MARGIN

    def pixel(place: Place) -> Point:
        x, level = position[place]
        return (x - left) * COLUMN + MARGIN + BOX_WIDTH / 2, (top - level) * ROW + MARGIN + BOX_HEIGHT / 2

    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
        *(_arrow([pixel(place) for place in way]) for way in ways.values()),
        *(_box(part, pixel(part)) for part in sorted(row)),
        "</svg>\n",
    ])  # fmt: skip


def _box(part: str, middle: Point) -> str:
    x, y = middle
    colour = SEAM_COLOUR if part in SEAMS else BOX_COLOUR
    return (
        f'<rect x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="5" fill="{colour}" stroke="{INK}"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" font-size="15" fill="{INK}">{part}</text>'
    )


def _arrow(points: list[Point]) -> str:
    (x, y), *bends, (end_x, end_y) = points
    corners = [(x, y + BOX_HEIGHT / 2), *bends, (end_x, end_y - BOX_HEIGHT / 2)]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in corners)
    return f'<polyline points="{line}" fill="none" stroke="{INK}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
