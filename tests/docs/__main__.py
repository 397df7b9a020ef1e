"""Write the documents that are made from the code."""

from __future__ import annotations

from tests.docs.generated import PAGES, ROOT

for name, page in PAGES.items():
    (ROOT / name).write_text(page(), encoding="utf-8")
