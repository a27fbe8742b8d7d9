# SPDX-License-Identifier: AGPL-3.0-or-later
"""One setting's value, checked: each function takes its key, for the sentence, and what the site wrote.

All raise `SettingsError`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import SettingsError
from .slides.arrival import ArrivalRule
from .webhook_client import Endpoint

Reader = Callable[[str, Any], Any]


@dataclass(frozen=True)
class PermittedModel:
    """A model that the site allows; `version` and `sha256` restrict it further where they are given."""

    name: str
    version: str | None = None
    sha256: str | None = None
    is_default: bool = False
    enabled: bool = True


def checked(where: str, section: Mapping[str, Any], keys: Mapping[str, tuple[str, Reader]]) -> dict[str, Any]:
    """Return the values of a section by the names of what they are for; an unknown key is an error."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        if key not in keys:
            raise SettingsError(f"{where}.{key} is no setting; the settings are {', '.join(sorted(keys))}.")
        name, check = keys[key]
        values[name] = check(f"{where}.{key}", value)
    return values


def truth(key: str, value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise SettingsError(f"{key} must be true or false, not {value!r}.")
    return value


def text(key: str, value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{key} must be a non-empty string, not {value!r}.")
    return value


def names(key: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts."""
    if not isinstance(value, list):
        raise SettingsError(f'{key} must be a list of strings such as ["lab"], not {value!r}.')
    return tuple(text(f"{key}[{position}]", item) for position, item in enumerate(value))


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_DEFAULT_PORTS = frozenset({("http", ":80"), ("https", ":443")})


def origins(key: str, value: Any) -> tuple[str, ...]:
    """Return origins, each as a browser writes it: any other way of writing one would never be met."""
    found = names(key, value)
    for position, origin in enumerate(found):
        parts = _ORIGIN.fullmatch(origin)
        if parts is None or parts.groups() in _DEFAULT_PORTS:
            raise SettingsError(
                f"{key}[{position}] must be an origin as browsers send it, such as "
                "https://viewer.example.org: scheme and host in lower case, a port only where it is not the "
                f"usual one, nothing after it; not {origin!r}."
            )
    return found


_HEADERS_OF_CLIENTS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "origin",
        "proxy-authorization",
        "referer",
        "user-agent",
    }
)


def user_header(key: str, value: Any) -> str:
    """Return the name of a header that a proxy adds, in lower case."""
    name = text(key, value).lower()
    if name in _HEADERS_OF_CLIENTS or re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]+", name) is None:
        raise SettingsError(
            f"{key} must be the name of a header that the proxy adds, such as X-Remote-User, not {value!r}."
        )
    return name


def whole(low: int, high: int) -> Callable[[str, Any], int]:
    """Return what checks for a whole number within limits."""

    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SettingsError(f"{key} must be a whole number from {low} to {high}, not {value!r}.")
        return value

    return check


def seconds(low: float, high: float) -> Callable[[str, Any], float]:
    """Return what checks for seconds within limits."""

    def check(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise SettingsError(f"{key} must be a number of seconds from {low:g} to {high:g}, not {value!r}.")
        return float(value)

    return check


def _sha256(key: str, value: Any) -> str:
    digits = text(key, value).lower()
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise SettingsError(f"{key} must be a SHA-256 as 64 hexadecimal digits, not {value!r}.")
    return digits


_MODEL_KEYS: Mapping[str, tuple[str, Reader]] = {
    "Name": ("name", text),
    "Version": ("version", text),
    "Sha256": ("sha256", _sha256),
    "Default": ("is_default", truth),
    "Enabled": ("enabled", truth),
}


def _model(key: str, value: Any) -> PermittedModel:
    if not isinstance(value, dict) or "Name" not in value:
        raise SettingsError(f'{key} must be an object with at least "Name", not {value!r}.')
    return PermittedModel(**checked(key, value, _MODEL_KEYS))


def models(key: str, value: Any) -> tuple[PermittedModel, ...]:
    """Return the permitted models, at most one of them the default."""
    if not isinstance(value, list):
        raise SettingsError(f"{key} must be a list of models, not {value!r}.")
    found = tuple(_model(f"{key}[{position}]", item) for position, item in enumerate(value))
    if sum(model.is_default for model in found) > 1:
        raise SettingsError(f"{key} may name only one model as Default.")
    return found


def _patterns(key: str, value: Any) -> tuple[str, ...]:
    return names(key, value) if isinstance(value, list) else (text(key, value),)


def _match(key: str, value: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, dict) or not value:
        raise SettingsError(
            f'{key} must be an object such as {{"BodyPartExamined": "MOUTH"}}, not {value!r}.'
        )
    for name in value:
        if re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", name) is None:
            raise SettingsError(f"{key}: {name!r} is no keyword of a DICOM tag, nor Stain, nor RemoteAET.")
    return tuple((name, _patterns(f"{key}.{name}", given)) for name, given in value.items())


_RULE_KEYS: Mapping[str, tuple[str, Reader]] = {
    "Name": ("name", text),
    "Match": ("match", _match),
    "Model": ("model", text),
    "Version": ("model_version", text),
    "Priority": ("priority", whole(-100, 100)),
}


def _rule(key: str, value: Any) -> ArrivalRule:
    if not isinstance(value, dict) or not {"Match", "Model"} <= value.keys():
        raise SettingsError(f'{key} must be an object with at least "Match" and "Model", not {value!r}.')
    members = checked(key, value, _RULE_KEYS)
    return ArrivalRule(**{"name": members["model"], **members})


def rules(key: str, value: Any) -> tuple[ArrivalRule, ...]:
    """Return the rules on arrival."""
    if not isinstance(value, list):
        raise SettingsError(f"{key} must be a list of rules, not {value!r}.")
    return tuple(_rule(f"{key}[{position}]", item) for position, item in enumerate(value))


def _address(key: str, value: Any) -> str:
    """Return the webhook's address; it may hold a secret itself and is not quoted."""
    address = text(key, value) if isinstance(value, str) else ""
    try:
        parts = urlsplit(address)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, a host with an empty label
        fits = False
    if not fits or parts.username is not None or parts.fragment or re.fullmatch(r"[!-~]+", address) is None:
        raise SettingsError(
            f"{key} must be an address such as https://lis.example.org/pathology: http or https, a host, no "
            "user name in it."
        )
    return address


def _signing_key(key: str, value: Any) -> bytes:
    """Return the secret's bytes; it is never quoted."""
    encoded = value.removeprefix("whsec_") if isinstance(value, str) else ""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except ValueError:
        decoded = b""
    if not 24 <= len(decoded) <= 64:
        raise SettingsError(
            f"{key} must be 24 to 64 random bytes in Base64; make one with: openssl rand -base64 32"
        )
    return decoded


_WEBHOOK_KEYS: Mapping[str, tuple[str, Reader]] = {
    "Url": ("url", _address),
    "Secret": ("key", _signing_key),
}


def webhook(key: str, value: Any) -> Endpoint:
    """Return whom to tell."""
    if not isinstance(value, dict) or not _WEBHOOK_KEYS.keys() <= value.keys():
        raise SettingsError(f'{key} must be an object with "Url" and "Secret".')
    return Endpoint(**checked(key, value, _WEBHOOK_KEYS))
