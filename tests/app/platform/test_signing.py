"""Standard Webhooks: the vector of the contract, two secrets at once, and what must not verify."""

from __future__ import annotations

import base64

import pytest

from app.platform import signing

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
BODY = b'{"type":"job.succeeded","timestamp":"2026-11-21T08:00:00Z","data":{"id":"job_01"}}'
NOW = 1795248000
SIGNATURE = "v1,80QdRAL3QoxjzIdSpgHMUomyKRQmVWlMGLlE4taPpt4="


def test_the_vector_of_the_contract() -> None:
    assert signing.sign(SECRET, "msg_01", NOW, BODY) == SIGNATURE


def test_each_secret_signs_and_either_verifies() -> None:
    new = signing.new_secret()
    headers = signing.headers([new, SECRET], "msg_01", NOW, BODY)
    assert headers["webhook-signature"].split(" ")[1] == SIGNATURE
    for secret in (new, SECRET):
        assert signing.verify([secret], headers, BODY, now=NOW + 299) == "msg_01"
    assert signing.verify([signing.new_secret(), SECRET], headers, BODY, now=NOW) == "msg_01"


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "msg_02"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "\u0661"},
        {"webhook-timestamp": "9" * 40},
        {"webhook-signature": ""},
        {"webhook-signature": SIGNATURE.replace("v1,", "v2,")},
        {"webhook-signature": SIGNATURE.removeprefix("v1,")},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,\u00e9"},
    ],
)
def test_a_message_that_is_not_the_one_that_was_signed_is_refused(changed: dict[str, str]) -> None:
    headers = signing.headers([SECRET], "msg_01", NOW, BODY) | changed
    with pytest.raises(signing.BadSignature):
        signing.verify([SECRET], headers, BODY, now=NOW)


def test_another_body_secret_or_time_is_refused() -> None:
    headers = signing.headers([SECRET], "msg_01", NOW, BODY)
    for secrets, body, now in (
        ([SECRET], BODY + b" ", NOW),
        ([signing.new_secret()], BODY, NOW),
        ([], BODY, NOW),
        ([SECRET], BODY, NOW + 301),
        ([SECRET], BODY, NOW - 301),
    ):
        with pytest.raises(signing.BadSignature):
            signing.verify(secrets, headers, body, now=now)


@pytest.mark.parametrize("length", [0, 23, 65])
def test_a_secret_has_a_length(length: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        signing.secret_key("whsec_" + base64.b64encode(b"x" * length).decode())
