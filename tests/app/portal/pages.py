"""What a page holds, read as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser

OURS = {"/portal/static/vendor/htmx.min.js", "/portal/static/vendor/uPlot.iife.min.js", "/portal/static/portal.js"}


class Page(HTMLParser):
    """The elements of a page, and what of them could run something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._script = 0
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._script += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a script."""
        self._script -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        """Note text, and text that would run."""
        if self._script:
            self.inline += data
        self.text += data

    def all(self, name: str) -> list[dict[str, str]]:
        """Return the attributes of every element of a name."""
        return [attributes for tag, attributes in self.elements if tag == name]

    def faults(self) -> list[str]:
        """Return everything that could run a script, set a style, or leave the origin."""
        problems = [f"inline: {self.inline[:80]}"] if self.inline.strip() else []
        for tag, attributes in self.elements:
            if tag in {"iframe", "object", "embed", "base", "style", "template", "marquee", "video", "math"}:
                problems.append(f"<{tag}>")
            if tag == "script" and attributes.get("src", "").partition("?")[0] not in OURS:
                problems.append(f"script {attributes}")
            for name, value in attributes.items():
                if name.startswith(("on", "hx-on", "data-hx-on")) or name == "style":
                    problems.append(f"{tag} {name}={value}")
                if name in {"href", "src", "action", "formaction", "hx-get", "hx-post"} and not _stays(value):
                    problems.append(f"{tag} {name}={value}")
        return problems


def _stays(address: str) -> bool:
    return address.startswith(("/portal/", "/v1/", "#")) and not address.startswith("//")
