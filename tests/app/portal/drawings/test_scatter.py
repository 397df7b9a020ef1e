"""The Pareto plot, curves and the lineage tree: marks where their numbers are, and names that stay names."""

from __future__ import annotations

import pytest

from app.portal.drawings.curves import DASHES, Curve, curves
from app.portal.drawings.lineage import GAP_X, GAP_Y, HEIGHT, WIDTH, Node, lineage
from app.portal.drawings.scales import percent
from app.portal.drawings.scatter import Mark, scatter
from app.portal.drawings.svg import shortened
from tests.app.portal.drawings.marks import HOSTILE, find, points, read, texts, titles

MARKS = [
    Mark("dense", 0.0, 30.0, front=True),
    Mark("wanda 50", 0.5, 33.0, front=True, href="/portal/jobs/job_1"),
    Mark("magnitude 50", 0.5, 40.0, front=False, href="/portal/jobs/job_2"),
    Mark("wanda 70", 0.7, 45.0, front=True, href="/portal/jobs/job_3"),
]


def _scatter(points: list[Mark]) -> str | None:
    return scatter(
        "pareto", points, x_title="sparsity", x_write=percent, y_title="perplexity", title="Sparsity against perplexity"
    )


def test_marks_lie_where_their_numbers_are() -> None:
    root = read(_scatter(MARKS))
    centres = {
        link.get("href"): (float(circle.get("cx", "")), float(circle.get("cy", "")))
        for link in find(root, "a")
        for circle in find(link, "circle", "mark")
    }
    first, second, third = (centres[f"/portal/jobs/job_{index}"] for index in (1, 2, 3))
    assert first[0] == second[0] < third[0]
    assert first[1] > second[1] > third[1], "what loses less stands lower"


def test_the_front_is_a_line_through_what_nothing_beats() -> None:
    root = read(_scatter(MARKS))
    (line,) = find(root, "polyline", "front-line")
    assert [x for x, _ in points(line)] == sorted(x for x, _ in points(line))
    assert len(points(line)) == 3
    assert len(find(root, "circle", "front")) == 2


def test_the_dense_model_is_marked_and_leads_nowhere() -> None:
    root = read(_scatter(MARKS))
    assert len(find(root, "polygon", "dense")) == 1
    assert len(find(root, "a")) == 3
    assert "dense 30.0" in texts(root)


def test_every_mark_tells_its_numbers() -> None:
    root = read(_scatter(MARKS))
    assert "magnitude 50: 50 %, perplexity 40.0, beaten" in titles(root)
    assert root.get("role") == "group", "a picture would hide the links in it"
    assert {link.get("aria-label") for link in find(root, "a")} <= set(titles(root))


def test_perplexities_far_apart_take_a_logarithmic_axis() -> None:
    root = read(_scatter([*MARKS, Mark("collapsed", 0.9, 9000.0, front=False, href="/x")]))
    assert "perplexity, logarithmic" in texts(root)


@pytest.mark.parametrize("points", [MARKS[:1], MARKS[1:2], [MARKS[1], MARKS[1]]])
def test_one_result_can_be_drawn(points: list[Mark]) -> None:
    read(_scatter(points))


def test_nothing_is_drawn_of_nothing() -> None:
    assert _scatter([]) is None
    assert curves("c", [Curve("a", [])], title="Loss", x_title="step", y_title="loss") is None


def test_labels_stay_labels() -> None:
    root = read(_scatter([Mark(HOSTILE, 0.5, 30.0, front=True, href='/portal/jobs/"><script>')]))
    assert any(HOSTILE in title for title in titles(root))


def test_curves_are_told_apart_without_colour() -> None:
    root = read(
        curves(
            "loss",
            [Curve("a", [(0, 3.0), (10, 2.0)]), Curve("b", []), Curve(HOSTILE, [(0, 4.0), (10, 1.0)])],
            title="Loss",
            x_title="step",
            y_title="loss",
        )
    )
    lines = find(root, "polyline")
    assert [line.get("stroke-dasharray") for line in lines] == [None, DASHES[2]]
    for line in lines:
        (x_1, y_1), (x_2, y_2) = points(line)
        assert x_1 < x_2
        assert y_1 < y_2, "it falls"
    assert shortened(HOSTILE, 80) in texts(root)
    assert "a ends at 2" in (root.findtext("desc") or "")


def test_a_curve_of_one_point_is_a_dot() -> None:
    root = read(curves("loss", [Curve("a", [(5, 3.0)])], title="Loss", x_title="step", y_title="loss"))
    assert len(find(root, "circle")) == 1


def test_a_tree_grows_to_the_right_and_its_leaves_share_no_row() -> None:
    root = read(
        lineage(
            "tree",
            Node(
                "model",
                children=[
                    Node("job a", "done", "/a", children=[Node("job b", href="/b", here=True)]),
                    Node(HOSTILE, href="/c"),
                ],
            ),
            title="Lineage",
        )
    )
    boxes = [(float(item.get("x", "")), float(item.get("y", ""))) for item in find(root, "rect")]
    assert [x for x, _ in boxes] == [1, 1 + WIDTH + GAP_X, 1 + 2 * (WIDTH + GAP_X), 1 + WIDTH + GAP_X]
    assert [y for _, y in boxes] == [1, 1, 1, 1 + HEIGHT + GAP_Y]
    assert len(find(root, "path", "edge")) == 3
    assert [link.get("aria-current") for link in find(root, "a")] == [None, "page", None]
    assert root.get("height") == "94"


def test_long_names_are_cut_in_the_middle() -> None:
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("abc", 3) == "abc"
