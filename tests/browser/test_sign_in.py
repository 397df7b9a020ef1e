"""Signing in, with a key and at an identity provider, as a browser does it; and the answers that forms give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from app.bodies.access import KeyRequest
from app.platform.actor import DEFAULT_PROJECT
from app.services.tenancy import keys
from tests.browser.accessibility import findings_of
from tests.browser.fixture_data import FixtureData
from tests.browser.site import serving
from tests.fixtures.servers.oidc import CLIENT, SECRET, OidcServer, oidc

if TYPE_CHECKING:
    from tests.browser.observer import Observing

__all__ = ["oidc"]  # a fixture


def test_a_stranger_signs_in_with_a_key_or_at_the_provider_and_out(
    tmp_path: Path, observing: Observing, oidc: OidcServer
) -> None:
    knobs = {
        "host": "0.0.0.0",
        "oidc_issuer": oidc.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SecretStr(SECRET),
        "oidc_project": DEFAULT_PROJECT,
        "oidc_title": "Acme",
    }
    with serving(tmp_path / "home", **knobs) as site, observing(site.url) as observer:
        request = KeyRequest(name="mine", scopes=["jobs:read"])
        row, key = keys.create(site.resources.database, site.resources.settings, request, DEFAULT_PROJECT)
        page = observer.page("/portal/jobs?state=failed")
        assert "/portal/sign-in?next=" in page.url
        assert findings_of(page) == []
        observer.expected = ("401",)
        page.fill("#key", "esp_nothing")
        page.click("text=Sign in with the key")
        assert page.inner_text("#key-wrong") == "This key is not known here, revoked or expired."
        assert findings_of(page) == []
        page.fill("#key", key)
        page.click("text=Sign in with the key")
        page.wait_for_url("**/portal/jobs?state=failed")
        assert row.id in page.inner_text(".who")
        page.click("text=Sign out")
        page.wait_for_url("**/portal/sign-in")
        page.click("text=Sign in with Acme")
        page.wait_for_url("**/portal/jobs")
        assert "ada" in page.inner_text(".who")
        assert {address.partition("?")[0] for address in observer.elsewhere} == {f"{oidc.url}/authorize"}
        observer.elsewhere.clear()  # the one place outside that a person goes to on purpose
        page.set_viewport_size({"width": 390, "height": 844})
        page.click("text=Sign out")
        page.wait_for_url("**/portal/sign-in")


def test_the_answers_of_forms_are_open_to_everybody_too(data: FixtureData, observing: Observing) -> None:
    url, violations_of = data.site.url, {}
    with observing(url, reduced_motion="reduce") as observer:
        observer.expected = ("422",)
        data.ready_for("jobs")
        page = observer.page("/portal/keys")
        page.click("summary:has-text('New key')")
        page.fill("#key-name", "mine")
        page.check("input[value='jobs:read']")
        page.click("text=Make the key")
        page.wait_for_selector("#new-key")
        violations_of["key"] = findings_of(page)
        page.goto(f"{url}/portal/webhooks/{data.ids['endpoint']}")
        page.click("text=Rotate the secret")
        page.wait_for_selector("#secret")
        violations_of["webhook"] = findings_of(page)
        page.goto(f"{url}/portal/hooks/sources/{data.ids['source']}")
        page.click("text=Rotate the secret")
        page.wait_for_selector("#secret")
        violations_of["hook"] = findings_of(page)
        page.goto(f"{url}/portal/hooks/rules/{data.ids['rule']}")
        page.fill("#spec", "{")
        page.click("text=Save")
        page.wait_for_selector("#spec-wrong")
        violations_of["rule"] = findings_of(page)
        page.goto(f"{url}/portal/jobs?state=cancelled")
        page.check(f"#pick-{data.ids['cancelled']}")
        page.click("text=Cancel picked")
        page.wait_for_url(re.compile("several-jobs/cancel"))
        violations_of["several"] = findings_of(page)
        page.goto(f"{url}/portal/new-job")
        page.fill("[name='/spec/prune/sparsity']", "2")
        page.click("button.primary:has-text('Queue the job')")
        page.wait_for_selector(".notice[data-tone=bad]:not(#notice)")
        violations_of["job"] = findings_of(page)
    assert {name: faults for name, faults in violations_of.items() if faults} == {}
