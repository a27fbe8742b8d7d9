# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what, on every route of Orthanc: pure decisions on a request's head.

Orthanc has checked the password before. People may do what Orthanc lets them, but for the plugin's own
numbers; workers have a short list; monitors have a shorter one; pages of other sites change nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import ApiError, SettingsError

_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3}", re.ASCII)
_ROOT = r"/(?:api/)?pathology"
_ID = r"[^/]+"
_ORTHANC_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"


class Role(Enum):
    """What a user is to the plugin."""

    PERSON = "person"
    WORKER = "worker"
    MONITOR = "monitor"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Policy:
    """What a site decided, as far as roles need it.

    Attributes
    ----------
    protected_metadata, protected_attachments
        Numbers of metadata and attachments that only the plugin writes.
    metadata_names, attachment_names
        Names that the site gave to numbers (`UserMetadata`, `UserContentType`).
    allowed_origins
        Origins besides the server's own, such as ``https://viewer.example``.
    authentication_enabled
        True where Orthanc checks passwords itself.
    """

    protected_metadata: Collection[int]
    protected_attachments: Collection[int]
    metadata_names: Mapping[str, int]
    attachment_names: Mapping[str, int]
    allowed_origins: Collection[str] = ()
    authentication_enabled: bool = True


def refuse_unsafe_users(configuration: Mapping[str, Any]) -> None:
    """Refuse a list of users that does not protect: Orthanc itself takes an empty password.

    ``${ORTHANC_PASSWORD}`` becomes an empty string where the variable is not set.

    Raises
    ------
    SettingsError
        Where a password is empty, or a name is, or a name holds a colon (Basic authentication cuts there).
    """
    users = configuration.get("RegisteredUsers", {})
    if not isinstance(users, Mapping):
        return
    for name, password in users.items():
        if not name or ":" in name:
            raise SettingsError(
                f"RegisteredUsers: {name!r} is no user's name; it must hold a letter and no colon."
            )
        if not password:
            raise SettingsError(
                f"RegisteredUsers: {name} has an empty password. Give it one, or set the environment "
                "variable that the configuration takes it from."
            )


def user_name(
    headers: Mapping[str, str], trusted_header: str | None = None, *, authentication_enabled: bool = True
) -> str:
    """Return the name in a request's headers; ``""`` where there is none that anybody has checked.

    The password beside it is dropped here. It is Orthanc that compared it.

    Parameters
    ----------
    headers
        Header names in lower case.
    trusted_header
        Header in which a proxy on this machine names the user, in lower case; see `is_forged`.
    authentication_enabled
        True where Orthanc checks passwords itself; else the Authorization header proves nothing.
    """
    named = headers.get(trusted_header, "").strip() if trusted_header is not None else ""
    if named or not authentication_enabled:
        return named
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    name, colon, _ = decoded.partition(":")
    return name if colon else ""


def is_forged(headers: Mapping[str, str], trusted_header: str | None, peer: str) -> bool:
    """Tell whether a request from another machine names its user in the proxy's header."""
    return trusted_header is not None and trusted_header in headers and not is_loopback(peer)


def is_loopback(peer: str) -> bool:
    """Tell whether a peer's address is this machine's own."""
    return _LOOPBACK.fullmatch(peer) is not None


def role_of(user: str, workers: Collection[str], monitors: Collection[str]) -> Role:
    """Return a user's role: everybody with a name that the configuration does not list is a person."""
    if not user:
        return Role.NOBODY
    if user in workers:
        return Role.WORKER
    if user in monitors:
        return Role.MONITOR
    return Role.PERSON


def _rule(method: str, path: str) -> tuple[str, re.Pattern[str]]:
    return method, re.compile(path + "/?", re.ASCII)


_WATCHED = (
    _rule("GET", f"{_ROOT}/health"),
    _rule("GET", f"{_ROOT}/metrics"),
)
_WORKERS_ONLY = (
    _rule("POST", f"{_ROOT}/claim"),
    _rule("POST", f"{_ROOT}/update-status/{_ID}"),
    _rule("POST", f"{_ROOT}/complete-request/{_ID}"),
    _rule("PUT", f"{_ROOT}/requests/{_ID}/artifacts/{_ID}"),
)
_WORKERS_TOO = (
    _rule("GET", "/system"),
    _rule("GET", f"{_ROOT}/pending-requests"),
    _rule("GET", f"{_ROOT}/requests"),
    _rule("GET", f"{_ROOT}/requests/{_ID}"),
    _rule("GET", f"{_ROOT}/requests/{_ID}/artifacts/{_ID}"),
    _rule("GET", f"{_ROOT}/(?:models|workers|openapi\\.json)"),
)
_WORKERS = (*_WORKERS_ONLY, *_WORKERS_TOO, *_WATCHED)
_UNDER_LEASE = (
    _rule("POST", f"{_ROOT}/instances/({_ORTHANC_ID})/ranges"),
    _rule("GET", f"{_ROOT}/instances/({_ORTHANC_ID})/frames"),
    _rule("GET", f"/series/({_ORTHANC_ID})(?:/instances)?"),
    _rule("GET", f"/instances/({_ORTHANC_ID})(?:/(?:simplified-tags|tags|header))?"),
    _rule("GET", f"/instances/({_ORTHANC_ID})/attachments/dicom/(?:info|size|md5)"),
)
"""What reading a slide needs: the plugin's ranges, and the tags by which a file in SVS_STORAGE_DIR is
matched. No DICOMweb: its searches list every patient."""

_PIXELS_UNDER_LEASE = (
    _rule("GET", f"/instances/({_ORTHANC_ID})/attachments/dicom/data"),
    _rule("GET", f"/instances/({_ORTHANC_ID})/file"),
)
"""Orthanc's own file, where the plugin's ranges are not wanted: of VOLUME images only, as with the ranges."""

_OWN_NUMBERS = re.compile(
    r"/(?:patients|studies|series|instances)/[^/]+/(?P<kind>metadata|attachments)/(?P<name>[^/]+)(?:/.*)?",
    re.ASCII,
)


def check(
    role: Role,
    method: str,
    uri: str,
    headers: Mapping[str, str],
    policy: Policy,
    holds_lease_on: Callable[[str], bool],
    is_volume: Callable[[str], bool],
) -> ApiError | None:
    """Return why a request is refused, or None where it may go on.

    Parameters
    ----------
    role
        Role of the user that Orthanc accepted.
    method, uri
        The method that counts (a GET with ``?_method=delete`` is a DELETE) and the path without its query.
    headers
        Header names in lower case.
    policy
        What the site decided.
    holds_lease_on
        Tells whether the user holds a lease on the series with this Orthanc id, or on the series of the
        instance with this Orthanc id.
    is_volume
        Tells whether the instance with this Orthanc id is a VOLUME image.
    """
    path = re.sub(r"/{2,}", "/", uri)
    if method != "GET":
        refusal = _check_write(method, path, headers, policy)
        if refusal is not None:
            return refusal
    if role is Role.NOBODY:
        return _check_nobody(path, policy)
    if role is Role.WORKER:
        return _check_worker(method, path, holds_lease_on, is_volume)
    if role is Role.MONITOR:
        return (
            None if _first(_WATCHED, method, path) else _forbidden("Monitors read health and metrics only.")
        )
    return _check_person(method, path)


def _check_write(method: str, path: str, headers: Mapping[str, str], policy: Policy) -> ApiError | None:
    if _is_of_another_site(method, headers, policy.allowed_origins):
        return ApiError(
            403,
            "forbidden_origin",
            "Pages of another site may not change anything here; Pathology.AllowedOrigins names exceptions.",
        )
    if _writes_own_number(path, policy):
        return _forbidden("Only the plugin writes its own metadata and attachments; use /pathology's routes.")
    return None


def _check_person(method: str, path: str) -> ApiError | None:
    if _first(_WORKERS_ONLY, method, path):
        return _forbidden("Only users named in Pathology.Workers may claim, report and complete.")
    return None


def _forbidden(sentence: str) -> ApiError:
    return ApiError(403, "forbidden_role", sentence)


def _first(rules: Collection[tuple[str, re.Pattern[str]]], method: str, path: str) -> re.Match[str] | None:
    matches = (pattern.fullmatch(path) for allowed, pattern in rules if allowed == method)
    return next((match for match in matches if match is not None), None)


def _check_nobody(path: str, policy: Policy) -> ApiError | None:
    """Let a request without a name reach Orthanc's own routes if Orthanc itself accepted its token."""
    if policy.authentication_enabled and re.match(f"{_ROOT}(?:/|$)", path) is None:
        return None
    return _forbidden("The request names no user; sign in with a name and a password.")


def _check_worker(
    method: str, path: str, holds_lease_on: Callable[[str], bool], is_volume: Callable[[str], bool]
) -> ApiError | None:
    if _first(_WORKERS, method, path):
        return None
    pixels = _first(_PIXELS_UNDER_LEASE, method, path)
    leased = pixels or _first(_UNDER_LEASE, method, path)
    if leased is None:
        return _forbidden("A worker may not use this route; submit and ingest act as a person.")
    if not holds_lease_on(leased[1]):
        return _forbidden("A worker reads only slides whose request it has claimed; claim it first.")
    if pixels is not None and not is_volume(pixels[1]):
        return _forbidden("A worker reads VOLUME images only: labels carry names of patients.")
    return None


def _is_of_another_site(method: str, headers: Mapping[str, str], allowed: Collection[str]) -> bool:
    """Tell whether a browser sends the request for a page of another origin.

    Browsers put an Origin on everything that changes state, except where Orthanc's ``?_method=delete`` lets
    a plain link or picture do it. Those are told by Sec-Fetch-Site, by Referer, and (over plain http, from
    pages that hide both) by being a browser's PUT or DELETE that names no page at all.
    """
    host = headers.get("host", "")
    page = headers.get("origin", headers.get("referer"))
    if page is not None:
        return not _is_own(page, host) and _origin(page) not in allowed
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return True
    return method in {"PUT", "DELETE"} and _is_browser(headers)


def _is_browser(headers: Mapping[str, str]) -> bool:
    # PowerShell calls itself Mozilla as well, but states no language.
    return headers.get("user-agent", "").startswith("Mozilla/") and "accept-language" in headers


def _origin(page: str) -> str:
    scheme, netloc = _scheme_and_host(page)
    return f"{scheme}://{netloc}" if netloc else page


def _scheme_and_host(page: str) -> tuple[str, str]:
    try:
        parts = urlsplit(page)
    except ValueError:  # such as an IPv6 address without its bracket
        return "", ""
    return parts.scheme, parts.netloc


def _is_own(origin: str, host: str) -> bool:
    # Not the scheme: behind a proxy that speaks TLS, Orthanc itself is asked by plain http.
    return host != "" and _scheme_and_host(origin)[1].lower() == host.lower()


def _writes_own_number(path: str, policy: Policy) -> bool:
    for text in {path, unquote(path)}:
        match = _OWN_NUMBERS.fullmatch(text)
        if match is not None and _is_own_number(match["kind"], match["name"], policy):
            return True
    return False


def _is_own_number(kind: str, name: str, policy: Policy) -> bool:
    names, protected = (
        (policy.metadata_names, policy.protected_metadata)
        if kind == "metadata"
        else (policy.attachment_names, policy.protected_attachments)
    )
    return _number(name, names) in protected


def _number(name: str, names: Mapping[str, int]) -> int:
    """Return the number that Orthanc takes a name for; 0 where it takes it for none (``05000`` is 5000)."""
    if name in names:
        return names[name]
    try:
        return int(name)
    except ValueError:
        return 0
