"""The few words of markup that every drawing is made of: all text is escaped, and nothing carries a style."""

from __future__ import annotations

from markupsafe import Markup, escape

Value = str | float | None


def tag(name: str, *children: str, **attributes: Value) -> Markup:
    """Return one element; `class_` is class and `stroke_width` is stroke-width, and None leaves an attribute out."""
    spelt = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    inside = "".join(f' {key}="{escape(_text(value))}"' for key, value in spelt)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup(inside), joined(*children))  # noqa: S704 - escaped


def joined(*children: str) -> Markup:
    """Concatenate pieces; text that is not markup is escaped."""
    return Markup("").join(children)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """Return a coordinate with two digits at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def drawing(
    name: str,
    *children: str,
    width: float,
    height: float,
    title: str,
    description: str,
    links: bool = False,
    broad: bool = False,
) -> Markup:
    """Return a whole drawing, its name unique in its page; links make it a group, `broad` as wide as its page."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *children,
        id=name,
        class_="drawing broad" if broad else "drawing",
        role="group" if links else "img",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
    )


def words(text: str, *, x: float, y: float, anchor: str = "start", class_: str = "label") -> Markup:
    """Return a line of text; `anchor` is start, middle or end."""
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def shortened(text: str, length: int) -> str:
    """Return the text, cut in the middle where it is too long for its place."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
