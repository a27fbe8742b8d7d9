# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin's own pages: the files of `app/`, served by an allow-list under a strict policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from orthanc_plugin.errors import ApiError
from orthanc_plugin.http import Response
from orthanc_plugin.settings import Settings

APP = Path(__file__).resolve().parents[1] / "app"
_EXPLORER_SCRIPT = APP.with_name("explorer.js")
_FIRST_PAGE = "worklist.html"
_FROM_FOLDER = f"app/{_FIRST_PAGE}"
_FROM_ROOT = f"pathology/{_FROM_FOLDER}"
ROOT_TWICE = f"/{_FROM_ROOT}"
"""Where a browser comes that was led on from the root with a slash at its end."""

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".txt": "text/plain; charset=utf-8",
        ".png": "image/png",
    }
)
"""What is served at all; the licences of vendored code are the text files."""

# Pictures also come as blobs (crops of the slide) and data (what the viewer library draws with).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


@lru_cache(maxsize=1)
def _files() -> Mapping[str, Path]:
    """Return what may be served, by its path below `app/`: a request's path is looked up, never joined."""
    found = (path for path in APP.rglob("*") if path.is_file() and path.suffix in CONTENT_TYPES)
    return MappingProxyType({path.relative_to(APP).as_posix(): path for path in found})


def _headers(etag: str) -> Mapping[str, str]:
    return {
        "ETag": etag,
        # Asked for again each time: after an upgrade no browser mixes old modules with new ones.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        # A page's address names a request, which is nobody else's business.
        "Referrer-Policy": "no-referrer",
    }


def serve_page(path: str, if_none_match: str = "") -> Response:
    """Return a file of the pages.

    Parameters
    ----------
    path
        Path below ``/pathology/app/``, such as ``result.html``.
    if_none_match
        Value of the header of this name, if the browser sent one.

    Returns
    -------
    Response
        200 with the file, or 304 where the browser has it already.

    Raises
    ------
    ApiError
        404 where there is no such file, or none that is served.
    """
    if path.strip("/") == _FROM_FOLDER:
        return _redirect(f"../{_FIRST_PAGE}")
    file = _files().get(path.strip("/"))
    if file is None:
        raise ApiError(404, "unknown_route", f"There is no such page; try {_FIRST_PAGE}.")
    body = file.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    tags = {tag.strip() for tag in if_none_match.split(",")}
    if etag in tags:
        return Response(304, b"", CONTENT_TYPES[file.suffix], _headers(etag))
    return Response(200, body, CONTENT_TYPES[file.suffix], _headers(etag))


def first_page() -> Response:
    """Return the way from ``/pathology/app`` to the worklist.

    It is relative, because a proxy may have put a path before Orthanc's. But Orthanc takes the last slash off
    a path before it asks: for a browser that was at ``app/`` it leads to ``app/app/``, and from there back.
    """
    return _redirect(_FROM_FOLDER)


def from_root(accept: str) -> Response:
    """Return the way from ``/pathology`` to the worklist for a browser, by its header `Accept`.

    For one that was at ``/pathology/`` it leads to `ROOT_TWICE`, as in `first_page`, and from there back.

    Raises
    ------
    ApiError
        404 for any other client.
    """
    if "text/html" not in accept:
        raise ApiError(
            404,
            "unknown_route",
            f"Nothing lies here: docs/rest.md lists the routes, people begin at {_FROM_FOLDER}.",
        )
    return _redirect(_FROM_ROOT)


def from_root_twice() -> Response:
    """Return the way back from `ROOT_TWICE`."""
    return _redirect(f"../../{_FROM_FOLDER}")


def _redirect(location: str) -> Response:
    return Response(302, headers={"Location": location, "Cache-Control": "no-cache"})


def explorer_script(site: str, settings: Settings) -> str:
    """Return the script for Orthanc Explorer: the site's own, then ours with our attachments' numbers."""
    numbers = {"archive": settings.archive_number, "first": settings.first_attachment}
    own = _EXPLORER_SCRIPT.read_text("utf-8").rstrip()
    # The semicolon ends the site's last statement, which may lack one: ours begins with a parenthesis.
    return f"{site}\n;{own}({json.dumps(numbers)});\n"
