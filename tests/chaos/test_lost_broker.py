"""The broker is a doorbell: what it forgets is not lost."""

from __future__ import annotations

import redis

from tests.fixtures.services import Services
from tests.flows.conftest import DEMO_MODEL, Launch


def test_ten_queued_jobs_survive_flushall(launch: Launch, services: Services) -> None:
    deployment = launch(ESPALIER_DATABASE_URL=services.postgres_database(), ESPALIER_BROKER_URL=services.redis_url())
    spec = {
        "prune": {"method": "magnitude", "sparsity": 0.5},
        "evaluate": {"perplexity": []},
        "calibration": {"samples": 1, "sequence_length": 16},
    }
    jobs = [deployment.submit(DEMO_MODEL, spec) for _ in range(10)]
    client = redis.Redis.from_url(services.redis_url())
    client.flushall()
    client.close()
    for job in jobs:
        deployment.succeed(job)
    assert len({tuple(deployment.safetensors(job).items()) for job in jobs}) == 1
