"""Reading drawings back: they must be well-formed XML and carry nothing that the policy of pages forbids."""

from __future__ import annotations

from xml.etree import ElementTree

HOSTILE = "</svg><script>alert(1)</script>\"' onload=alert(1) &amp; <img src=x onerror=alert(1)>"
"""A name that must stay a name."""


def read(markup: str | None) -> ElementTree.Element:
    """Parse a drawing, and refuse what could run or style anything."""
    assert markup is not None
    root = ElementTree.fromstring(markup)
    for item in root.iter():
        assert item.tag not in {"script", "style", "image", "use", "foreignObject"}
        assert not [name for name in item.attrib if name == "style" or name.startswith("on")]
    return root


def find(root: ElementTree.Element, tag: str, class_: str | None = None) -> list[ElementTree.Element]:
    """Elements of a kind, with one class among theirs if asked."""
    return [item for item in root.iter(tag) if class_ is None or class_ in item.get("class", "").split()]


def texts(root: ElementTree.Element, class_: str | None = None) -> list[str]:
    """What is written in a drawing."""
    return [item.text or "" for item in find(root, "text", class_)]


def titles(root: ElementTree.Element) -> list[str]:
    """What is told of marks on asking."""
    return [item.text or "" for item in find(root, "title")]


def points(item: ElementTree.Element) -> list[tuple[float, float]]:
    """The corners of a line."""
    pairs = (pair.split(",") for pair in item.get("points", "").split())
    return [(float(x), float(y)) for x, y in pairs]
