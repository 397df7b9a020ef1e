"""Events, log, metrics, layers, attempts and report of a job."""

from __future__ import annotations

from fastapi.testclient import TestClient

from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures.service import rows as make
from tests.fixtures.service.requests import submit


def test_events_go_on_after_a_seq_and_over_pages(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.tell(rows, job, 10)
    page = client.get(f"/v1/jobs/{job}/events?after=4&limit=5").json()
    assert [event["seq"] for event in page["items"]] == [5, 6, 7, 8, 9]
    rest = client.get(f"/v1/jobs/{job}/events?limit=5&cursor={page['next_cursor']}").json()
    assert [event["seq"] for event in rest["items"]] == [10, 11, 12]
    assert rest["next_cursor"] is None
    assert set(rest["items"][0]) == {"seq", "id", "type", "time", "job_id", "attempt", "phase", "data"}
    assert client.get(f"/v1/jobs/{job}/events?after={2**63}").status_code == 422


def test_the_log_keeps_its_order_over_pages(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.log(rows, job, *(f"line {number}" for number in range(50)))
    seen, cursor = [], ""
    while True:
        page = client.get(f"/v1/jobs/{job}/logs?limit=20{cursor}").json()
        seen += [line["text"] for line in page["items"]]
        if not page["next_cursor"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [f"line {number}" for number in range(50)]


def test_metrics_are_thinned_on_the_server_and_keep_their_ends(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.measure(rows, job, "loss", [float(step) for step in range(1001)])
    make.measure(rows, job, "rate", [0.1, 0.2])
    by_name = {
        series["name"]: series for series in client.get(f"/v1/jobs/{job}/metrics?max_points=100").json()["items"]
    }
    steps = [point["step"] for point in by_name["loss"]["points"]]
    assert 90 <= len(steps) <= 101
    assert (steps[0], steps[-1]) == (0, 1000)
    assert [point["value"] for point in by_name["rate"]["points"]] == [0.1, 0.2]
    one = client.get(f"/v1/jobs/{job}/metrics?name=rate").json()["items"]
    assert [series["name"] for series in one] == ["rate"]


def test_layers_are_listed_in_the_order_of_the_walk(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.prune(rows, job, "b.0.q", "a.0.k", "c.0.v")
    page = client.get(f"/v1/jobs/{job}/layers?limit=2").json()
    rest = client.get(f"/v1/jobs/{job}/layers?limit=2&cursor={page['next_cursor']}").json()
    assert [row["name"] for row in page["items"] + rest["items"]] == ["b.0.q", "a.0.k", "c.0.v"]
    assert set(rest["items"][0]) == {
        "name",
        "block",
        "shape",
        "pattern",
        "sparsity_requested",
        "sparsity_achieved",
        "error_before",
        "error_after",
        "seconds",
    }


def test_attempts_and_durations_tell_who_worked_and_how_long(client: TestClient, rows: Database) -> None:
    job = submit(client)
    make.start(rows, job)
    attempts = client.get(f"/v1/jobs/{job}/attempts").json()["items"]
    assert [(row["number"], row["outcome"], row["worker_id"]) for row in attempts] == [(1, None, "wrk_test")]
    durations = client.get(f"/v1/jobs/{job}").json()["durations"]
    assert durations["total"] >= durations["running"] > 0


def test_a_report_is_there_only_after_success(client: TestClient, rows: Database, resources: Resources) -> None:
    job = submit(client)
    answer = client.get(f"/v1/jobs/{job}/report")
    assert (answer.status_code, answer.json()["code"]) == (409, "not-finished")
    make.start(rows, job)
    make.publish(rows, resources.store, job, {"model.safetensors": b"x"})
    assert client.get(f"/v1/jobs/{job}/report").json() == make.REPORT
    result = client.get(f"/v1/jobs/{job}").json()["result"]
    assert result == {
        "dense_perplexity": {"python-docs": 20.0},
        "perplexity": {"python-docs": 22.0},
        "sparsity": 0.5,
        "bytes": 200,
    }
