# SPDX-License-Identifier: Apache-2.0
"""The doctor's look at the way to Orthanc: certificate, origin behind the proxy, versions."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from worker import __version__
from worker.api.transport import make_session, unreachable
from worker.settings import Settings

from .findings import Finding, Verdict

_TIMEOUT_S = (5.0, 15.0)
_EXPIRES_SOON_DAYS = 21.0
_OLD_TLS = frozenset({"SSLv3", "TLSv1", "TLSv1.1"})

SAFE_ORTHANC = (1, 12, 11)
"""CVE-2026-5437 to CVE-2026-5445 are in every version before (CERT/CC, April 2026)."""


def certificate(settings: Settings, now: dt.datetime) -> Finding:
    """Look at the certificate and protocol of an https address, through the proxy where one is set."""
    url = f"{settings.orthanc_url}/system"
    if urlsplit(url).scheme != "https":
        return Finding("certificate", Verdict.SKIPPED, "ORTHANC_URL is no https address.")
    try:
        with (
            make_session(settings.worker) as session,
            session.get(url, timeout=_TIMEOUT_S, stream=True) as answer,
        ):
            sock = getattr(answer.raw.connection, "sock", None)
            if not isinstance(sock, ssl.SSLSocket):
                return Finding("certificate", Verdict.SKIPPED, "The connection shows no certificate.")
            return judge_certificate(sock.getpeercert() or {}, sock.version() or "?", now)
    except requests.RequestException as error:
        return Finding("certificate", Verdict.FAILED, f"{unreachable(url, error)} (ORTHANC_URL)")


def judge_certificate(peer: Mapping[str, Any], protocol: str, now: dt.datetime) -> Finding:
    """Judge a certificate that is trusted by when it ends, and the protocol by its age."""
    if protocol in _OLD_TLS:
        return Finding(
            "certificate",
            Verdict.WARNING,
            f"The server speaks {protocol}, which is broken: allow TLSv1.2 and TLSv1.3 only (ssl_protocols).",
        )
    ends = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(peer["notAfter"]), dt.UTC)
    days = (ends - now).total_seconds() / 86400
    if days < _EXPIRES_SOON_DAYS:
        return Finding(
            "certificate",
            Verdict.WARNING,
            f"The server's certificate ends on {ends:%Y-%m-%d}, in {days:.0f} days: renew it, else every "
            "worker stops then.",
        )
    return Finding("certificate", Verdict.OK, f"{protocol}, certificate good until {ends:%Y-%m-%d}.")


def origin(settings: Settings) -> Finding:
    """Ask as a page of Orthanc's own address would: a proxy that changes Host makes that a foreign one."""
    if settings.person is None:
        return Finding("origin", Verdict.SKIPPED, "SUBMIT_USER is not set.")
    parts = urlsplit(settings.orthanc_url)
    own = f"{parts.scheme}://{parts.netloc}"
    try:
        with make_session(settings.person) as session:
            # A submission of nothing changes nothing: the plugin says what is missing in it.
            answer = session.post(
                f"{settings.api_url}/analyze", json={}, headers={"Origin": own}, timeout=_TIMEOUT_S
            )
            document = answer.json()
    except requests.RequestException as error:
        return Finding("origin", Verdict.SKIPPED, str(unreachable(settings.api_url, error)))
    if answer.status_code == 403 and document.get("code") == "forbidden_origin":
        return Finding(
            "origin",
            Verdict.FAILED,
            f"Pages of {own} are taken for another site's, so that no button works: the proxy must pass Host "
            f"on (nginx: proxy_set_header Host $http_host), or name {own} in Pathology.AllowedOrigins.",
        )
    return Finding("origin", Verdict.OK, f"Pages of {own} may submit.")


def own_name(settings: Settings) -> Finding:
    """Ask whether two workers go by this one's name, each of which the server takes for the other."""
    check = "worker's name"
    try:
        with make_session(settings.worker) as session:
            answer = session.get(f"{settings.api_url}/workers", timeout=_TIMEOUT_S)
            listed = answer.json()["workers"] if answer.status_code == 200 else []
    except (requests.RequestException, KeyError):
        return Finding(check, Verdict.SKIPPED, "The plugin did not list its workers.")
    if any(item.get("worker_id") == settings.worker_id and item.get("shared_name") for item in listed):
        return Finding(
            check,
            Verdict.WARNING,
            f"Two workers go by the name {settings.worker_id}: give each a WORKER_ID of its own.",
        )
    return Finding(check, Verdict.OK, f"No two workers go by the name {settings.worker_id}.")


def versions(orthanc: str, plugin: str) -> Finding:
    """Compare versions: of the plugin with ours, of Orthanc with the first without known holes."""
    here = f"Worker {__version__}, plugin {plugin}, Orthanc {orthanc}."
    number = _number(orthanc)
    if number is not None and number < SAFE_ORTHANC:
        return Finding(
            "server versions",
            Verdict.WARNING,
            f"{here} Orthanc before 1.12.11 has published vulnerabilities (CVE-2026-5437 to -5445): upgrade "
            "it, or see that your distribution has mended them; docs/security.md says what the proxy mends.",
        )
    if plugin != __version__:
        return Finding(
            "server versions",
            Verdict.WARNING,
            f"{here} Plugin and worker understand each other, but were not tested together: upgrade the "
            "older one.",
        )
    return Finding("server versions", Verdict.OK, here)


def _number(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    return tuple(map(int, parts)) if len(parts) == 3 and all(part.isdigit() for part in parts) else None
