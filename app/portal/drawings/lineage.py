"""A tree of models and jobs, each beside the one it was made from, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from app.portal.drawings.svg import drawing, number, shortened, tag, words

WIDTH, HEIGHT, GAP_X, GAP_Y = 200.0, 40.0, 44.0, 12.0
_LETTERS = 25


@dataclass(frozen=True)
class Node:
    """A node of the tree, with its descendants."""

    label: str
    note: str = ""
    href: str | None = None
    here: bool = False
    """The one whose page this is."""
    children: Sequence[Node] = field(default=())


@dataclass(frozen=True)
class _Placed:
    node: Node
    depth: int
    row: float
    parent: _Placed | None

    @property
    def x(self) -> float:
        return 1 + self.depth * (WIDTH + GAP_X)

    @property
    def y(self) -> float:
        return 1 + self.row * (HEIGHT + GAP_Y)


def lineage(name: str, root: Node, *, title: str) -> Markup:
    """Draw a tree."""
    items: list[_Placed] = []
    rows = _place(root, None, 0.0, items)
    depth = max(item.depth for item in items)
    return drawing(
        name,
        *(_edge(item, item.parent) for item in items if item.parent),
        *(_node(item) for item in items),
        width=2 + (depth + 1) * WIDTH + depth * GAP_X,
        height=2 + rows * (HEIGHT + GAP_Y) - GAP_Y,
        title=title,
        description="; ".join(
            f"{item.node.label} from {item.parent.node.label}" if item.parent else item.node.label for item in items
        ),
        links=True,
    )


def _place(node: Node, parent: _Placed | None, row: float, items: list[_Placed]) -> float:
    """Put a node and all below it into rows from `row` on; return the first row behind them."""
    item = _Placed(node, parent.depth + 1 if parent else 0, row, parent)
    items.append(item)
    for child in node.children:
        row = _place(child, item, row, items)
    return row if node.children else row + 1


def _edge(item: _Placed, parent: _Placed) -> Markup:
    x1, y1, x2, y2 = parent.x + WIDTH, parent.y + HEIGHT / 2, item.x, item.y + HEIGHT / 2
    middle = (x1 + x2) / 2
    start, bend_1, bend_2, end = (
        f"{number(x)} {number(y)}" for x, y in ((x1, y1), (middle, y1), (middle, y2), (x2, y2))
    )
    return tag("path", d=f"M{start} C{bend_1} {bend_2} {end}", class_="edge", fill="none")


def _node(item: _Placed) -> Markup:
    node = item.node
    box = tag("rect", x=item.x, y=item.y, width=WIDTH, height=HEIGHT, rx=4, class_="node here" if node.here else "node")
    lines = [words(shortened(node.label, _LETTERS), x=item.x + 10, y=item.y + (17 if node.note else 25))]
    if node.note:
        lines.append(words(shortened(node.note, _LETTERS + 4), x=item.x + 10, y=item.y + 32, class_="faint"))
    text = f"{node.label}, {node.note}" if node.note else node.label
    inside = (tag("title", text), box, *lines)
    if node.href is None:
        return tag("g", *inside)
    return tag("a", *inside, href=node.href, aria_label=text, aria_current="page" if node.here else None)
