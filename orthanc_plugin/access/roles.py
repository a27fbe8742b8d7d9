# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what, on every route of Orthanc: pure decisions on a request's head.

Orthanc has checked the password before. People may do what Orthanc lets them, except write the plugin's own
numbers; workers have a short list; monitors have a shorter one; pages of other sites change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from orthanc_plugin.errors import ApiError
from orthanc_plugin.http import single_slashes

from .origins import is_of_another_site

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
    path = single_slashes(uri)
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
    if is_of_another_site(method, headers, policy.allowed_origins):
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
    for allowed, pattern in rules:
        match = pattern.fullmatch(path) if allowed == method else None
        if match is not None:
            return match
    return None


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


def _writes_own_number(path: str, policy: Policy) -> bool:
    for text in (path, unquote(path)) if "%" in path else (path,):
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
