"""The heat map: one cell per block and kind of matrix, with its number, its colour and its name."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.portal.drawings.heat import CELL_HEIGHT, CELL_WIDTH, MEASURES, cells, errors_range, heat_map, short_kinds
from app.portal.drawings.scales import CIVIDIS
from app.portal.drawings.tables import matrix_table
from tests.app.portal.drawings.marks import HOSTILE, find, read, texts, titles


@dataclass
class Row:
    name: str
    block: int
    sparsity_achieved: float = 0.5
    error_before: float | None = 0.25
    error_after: float | None = None
    shape: list[int] = field(default_factory=lambda: [8, 4])
    pattern: str = "2:4"
    sparsity_requested: float = 0.5
    seconds: float = 0.5


def llama(blocks: int = 2) -> list[Row]:
    return [
        Row(f"model.layers.{block}.{kind}", block, 0.4 + 0.1 * block)
        for block in range(blocks)
        for kind in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
    ]


def test_cells_stand_in_rows_of_blocks_and_columns_of_kinds() -> None:
    root = read(heat_map("map", llama(), "sparsity"))
    rects = [item for item in find(root, "rect") if item.get("width") == str(int(CELL_WIDTH - 1))]
    corners = [(float(item.get("x", "")), float(item.get("y", ""))) for item in rects]
    assert len(corners) == 6
    assert corners[1][0] - corners[0][0] == CELL_WIDTH
    assert corners[3][1] - corners[0][1] == CELL_HEIGHT
    assert corners[3][0] == corners[0][0]
    assert texts(root, "cell") == ["40", "40", "40", "50", "50", "50"]
    assert {item.get("fill") for item in rects[:3]} == {CIVIDIS[0]}
    assert {item.get("fill") for item in rects[3:]} == {CIVIDIS[-1]}
    assert "block 1, mlp.down_proj: 50" in titles(root)


def test_columns_have_short_names_and_rows_their_block() -> None:
    root = read(heat_map("map", llama(), "sparsity"))
    heads = [item.findtext("title") for item in find(root, "text") if item.findtext("title")]
    assert heads == ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"]
    assert texts(root, "label")[3:5] == ["0", "1"]


def test_names_that_end_alike_are_told_apart() -> None:
    assert short_kinds(["attn.c_proj", "mlp.c_proj", "mlp.c_fc"]) == {
        "attn.c_proj": "attn.c",
        "mlp.c_proj": "mlp.c",
        "mlp.c_fc": "c_fc",
    }


def test_experts_share_a_cell_that_tells_how_many_they_are() -> None:
    rows = [Row(f"model.layers.0.mlp.experts.{index}.w1", 0, 0.25 * (index + 1)) for index in range(3)]
    (cell,) = cells(rows, MEASURES["sparsity"])
    assert (cell.kind, cell.mean) == ("mlp.experts.*.w1", 0.5)
    root = read(heat_map("map", rows, "sparsity"))
    assert "block 0, mlp.experts.*.w1: 50 (mean of 3, 25 to 75)" in titles(root)


def test_a_measure_that_no_matrix_has_is_not_drawn() -> None:
    assert heat_map("map", llama(), "error_after") is None
    assert heat_map("map", [], "sparsity") is None
    assert errors_range([]) is None


def test_errors_before_and_after_share_their_colours() -> None:
    rows = [Row("layers.0.q", 0, error_before=0.4, error_after=0.1), Row("layers.1.q", 1, error_before=0.2)]
    shades = errors_range(rows)
    assert shades is not None
    assert (shades.low, shades.high) == (0.1, 0.4)
    root = read(heat_map("map", rows, "error_after", shades))
    assert texts(root, "cell") == ["0.10"]
    assert {"0.10", "0.40"} <= set(texts(root, "label"))


def test_the_map_tells_those_who_do_not_see_it() -> None:
    root = read(heat_map("map", llama(), "sparsity"))
    assert root.get("role") == "img"
    assert root.findtext("title") == "Sparsity, %"
    assert "2 blocks by 3 kinds" in (root.findtext("desc") or "")
    assert root.get("aria-labelledby") == root.find("title").get("id")  # type: ignore[union-attr]


def test_names_stay_names() -> None:
    rows = [Row(HOSTILE, 0)]
    root = read(heat_map("map", rows, "sparsity"))
    assert any("alert(1)" in title for title in titles(root))
    table = read(matrix_table(rows, caption=HOSTILE))
    assert table.findtext("caption") == HOSTILE


def test_the_table_holds_what_the_map_draws() -> None:
    table = read(matrix_table(llama(), caption="Matrices"))
    rows = [[item.text for item in row] for row in find(table, "tr")]
    assert rows[0][0] == "matrix"
    assert rows[1] == [
        "model.layers.0.self_attn.q_proj",
        "8 \N{MULTIPLICATION SIGN} 4",
        "2:4",
        "50 %",
        "40 %",
        "0.2500",
        "\N{EN DASH}",
        "0.50",
    ]
    assert len(rows) == 7
