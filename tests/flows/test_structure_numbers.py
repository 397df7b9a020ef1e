"""What removing whole parts reaches on the reference model, every number through POST /v1/jobs (`make numbers`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.service.launch import Launch
from tests.results.harness import Finished, Numbers, reference_spec
from tests.results.structure import METHODS, read

MEASURED = (
    "angular, 3 of 8 blocks",
    "angular, 3 of 8 blocks, replaced, PERP",
    "magnitude_sp, 25 % of the neurons",
    "flap, 25 % of the neurons",
    "structured_obs, 25 % of the neurons",
)


@pytest.mark.numbers
@pytest.mark.reference
@pytest.mark.timeout(3600)
def test_a_smaller_model_is_as_good_and_as_fast_as_is_known(launch: Launch, reference_dir: Path) -> None:
    deployment = launch(ESPALIER_LOCAL_ROOTS=str(reference_dir), ESPALIER_THREADS="1")
    numbers: dict[str, Numbers] = {}
    for name in MEASURED:
        job = deployment.submit(reference_dir / "ref-llama", reference_spec(reference_dir, **METHODS[name]))
        document = deployment.succeed(job, timeout=1800)
        numbers[name] = read(Finished(document, deployment.get(f"/v1/jobs/{job}/report"), []))
    keeps_the_bars(numbers)


def keeps_the_bars(numbers: dict[str, Numbers]) -> None:
    """Half of the loss comes back, fewer blocks decode faster, and a better criterion of neurons is better."""
    plain, replaced, magnitude, flap, obs = (numbers[name] for name in MEASURED)
    assert plain["bytes_share"] <= 0.735, "27 % of the bytes are gone"
    lost = plain["perplexity"] - plain["dense"]
    assert plain["perplexity"] - replaced["perplexity"] >= lost / 2
    assert replaced["decode_speed"] >= 1.3
    assert obs["perplexity"] < flap["perplexity"] < magnitude["perplexity"]
