"""Signing in at an OpenID Connect provider: the authorization code flow with PKCE, its id token verified here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
import jwt
import structlog

from app.bodies.access import SCOPES
from app.db.queries.tenancy import projects
from app.db.session import Database
from app.errors import AppError
from app.platform.actor import Actor
from app.services.tenancy.encryption import DecryptionError, decrypt, encrypt
from app.settings import Settings

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that are taken. HMAC is not: its key could be made from what the provider publishes."""
ATTEMPT_SECONDS: Final = 600
"""How long somebody may take at the provider."""
LEEWAY_SECONDS: Final = 60
KNOWN_SECONDS: Final = 3600.0
"""How long what a provider tells of itself is believed."""
PATIENCE_SECONDS: Final = 5.0
"""How long one sign-in waits for another to read what the provider tells of itself."""
PAUSE_SECONDS: Final = 10.0
"""Between two looks for a key that was not there, or for a provider that did not answer."""
MAX_CALLS: Final = 8
"""At once: everybody may begin a sign-in, and a slow provider must not take all threads of the service."""
BASIC: Final = "client_secret_basic"
"""Client authentication at a provider that does not declare its methods."""
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_TIMEOUT: Final = httpx.Timeout(10.0)

log = structlog.get_logger(__name__)


class SignInFailed(AppError):
    """The sign-in did not come to its end: begin again."""

    code, status = "sign-in-failed", 401


class NoProject(AppError):
    """You are signed in but not assigned to a project; ask an operator."""

    code, status = "no-project", 403


class ProviderSilent(AppError):
    """The identity provider does not answer; try again in a moment, or sign in with an API key."""

    code, status = "provider-silent", 503


@dataclass(frozen=True)
class SignIn:
    """One sign-in on its way, known to the browser that began it alone."""

    state: str
    nonce: str
    verifier: str
    wanted: str
    """The page that the person came for."""
    until: float

    @classmethod
    def begin(cls, wanted: str) -> SignIn:
        """Return a fresh one."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, wanted, time.time() + ATTEMPT_SECONDS)

    def sealed(self, settings: Settings) -> str:
        """Return the value of its cookie."""
        return encrypt(settings, json.dumps(asdict(self)))

    @classmethod
    def opened(cls, settings: Settings, cookie: str, state: str) -> SignIn:
        """Return the attempt of a cookie that a provider's answer belongs to; raises SignInFailed."""
        try:
            attempt = cls(**json.loads(decrypt(settings, cookie)))
        except (DecryptionError, ValueError, TypeError):
            raise SignInFailed("This browser has not begun a sign-in, or has ended it: begin again.") from None
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise SignInFailed("The answer belongs to another sign-in: begin again.")
        if attempt.until < time.time():
            raise SignInFailed("The sign-in took too long: begin again.")
        return attempt


class Provider:
    """The provider that the settings name, as one process knows it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.grants = _scopes(settings.oidc_grants)
        self._lock, self._calls = threading.Lock(), threading.BoundedSemaphore(MAX_CALLS)
        self._metadata: dict[str, Any] = {}
        self._keys: list[jwt.PyJWK] = []
        self._read_at = self._failed_at = -KNOWN_SECONDS

    def address(self, attempt: SignIn, return_url: str) -> str:
        """Return where a browser goes to begin; raises ProviderSilent."""
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": return_url,
            "scope": self._settings.oidc_scope,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        endpoint = str(self._known()["authorization_endpoint"])
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"

    def claims(self, attempt: SignIn, code: str, return_url: str) -> dict[str, Any]:
        """Exchange a code for what the provider says of a person; raises SignInFailed or ProviderSilent."""
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": return_url,
            "code_verifier": attempt.verifier,
        }
        metadata = self._known()
        secret, login = self._settings.oidc_client_secret, None
        if secret and "client_secret_basic" in metadata.get("token_endpoint_auth_methods_supported", [BASIC]):
            login = (quote(self._settings.oidc_client_id, safe=""), quote(secret.get_secret_value(), safe=""))
        else:
            asked["client_id"] = self._settings.oidc_client_id
            asked |= {"client_secret": secret.get_secret_value()} if secret else {}
        answer = self._ask("POST", metadata["token_endpoint"], data=asked, auth=login)
        token = answer.get("id_token")
        if not isinstance(token, str):
            log.warning("the identity provider refused a code", error=str(answer.get("error"))[:100])
            raise SignInFailed
        try:
            return self._verified(token, attempt)
        except jwt.PyJWTError as error:
            log.warning("an id token cannot be taken", error=f"{type(error).__name__}: {error}"[:300])
            raise SignInFailed from None

    def _verified(self, token: str, attempt: SignIn) -> dict[str, Any]:
        own = self._settings.oidc_client_id
        claims: dict[str, Any] = jwt.decode(
            token,
            self._key(jwt.get_unverified_header(token).get("kid")).key,
            algorithms=list(ALGORITHMS),
            audience=own,
            issuer=self._settings.oidc_issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), attempt.nonce.encode()):
            raise jwt.InvalidTokenError("the nonce is another sign-in's")
        shared = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if shared else own) != own:
            raise jwt.InvalidTokenError("the token was made for another client")
        if not claims["sub"]:
            raise jwt.InvalidTokenError("the token names nobody")
        return claims

    def _key(self, kid: str | None) -> jwt.PyJWK:
        """Return the key that signed a token; an unknown key id reloads the key set, at a limited rate."""
        self._known()
        for _ in range(2):
            matches = [key for key in self._keys if kid is None or key.key_id == kid]
            if len(matches) == 1:
                return matches[0]
            if time.monotonic() - self._read_at < PAUSE_SECONDS:
                break
            self._read()
        raise jwt.InvalidKeyError("no key, or more than one, can have signed the token")

    def _known(self) -> dict[str, Any]:
        if time.monotonic() - self._read_at > KNOWN_SECONDS:
            self._read()
        return self._metadata

    def _read(self) -> None:
        """Read what the provider tells of itself, and its keys."""
        if time.monotonic() - self._failed_at < PAUSE_SECONDS or not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise ProviderSilent
        try:
            issuer = self._settings.oidc_issuer
            metadata = self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if metadata.get("issuer") != issuer or not all(isinstance(metadata.get(name), str) for name in _ENDPOINTS):
                log.error("this is not what ESPALIER_OIDC_ISSUER should tell of itself", issuer=metadata.get("issuer"))
                raise ProviderSilent
            keys = jwt.PyJWKSet.from_dict(self._ask("GET", metadata["jwks_uri"])).keys
            self._metadata, self._read_at = metadata, time.monotonic()
            self._keys = [key for key in keys if key.public_key_use != "enc"]
        except (ProviderSilent, jwt.PyJWTError):
            self._failed_at = time.monotonic()
            raise ProviderSilent from None
        finally:
            self._lock.release()

    def _ask(self, method: str, url: str, **sent: Any) -> dict[str, Any]:  # noqa: ANN401 - what httpx takes
        if not self._calls.acquire(blocking=False):
            raise ProviderSilent
        try:
            answer = httpx.request(method, url, timeout=_TIMEOUT, headers={"accept": "application/json"}, **sent)
            document = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            log.warning("the identity provider does not answer", url=url, error=type(error).__name__)
            raise ProviderSilent from None
        finally:
            self._calls.release()
        if not isinstance(document, dict) or answer.status_code >= 500:
            raise ProviderSilent
        return document


def actor(database: Database, settings: Settings, grants: frozenset[str], claims: dict[str, Any]) -> Actor:
    """Return who somebody is here; raises NoProject."""
    claim = claims.get(settings.oidc_project_claim) if settings.oidc_project_claim else None
    wanted = [item for item in (claim if isinstance(claim, list) else [claim]) if isinstance(item, str)]
    with database.reading() as session:
        for project_id in [*wanted[:100], settings.oidc_project]:
            project = projects.get(session, project_id) if project_id else None
            if project is not None:
                return Actor("user", name_of(settings, claims), project.id, grants, project.quotas)
    raise NoProject


def name_of(settings: Settings, claims: dict[str, Any]) -> str:
    """Return a person's name for the audit log: a claim that the operator trusts, else the subject claim."""
    name = claims.get(settings.oidc_name_claim)
    proven = settings.oidc_name_claim != "email" or claims.get("email_verified") is True
    fits = isinstance(name, str) and proven and name.isprintable() and 0 < len(name.strip()) <= 200
    return str(name if fits else claims["sub"])[:255]


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := scopes - set(SCOPES):
        raise ValueError(f"ESPALIER_OIDC_GRANTS names unknown scopes: {', '.join(sorted(unknown))}")
    return scopes
