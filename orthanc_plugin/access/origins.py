# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a browser sends a request for a page of another site."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit


def is_of_another_site(method: str, headers: Mapping[str, str], allowed: Collection[str]) -> bool:
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
