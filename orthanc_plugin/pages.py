# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plugin's own pages: the files of `app/`, served by an allow-list under a strict policy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from .errors import ApiError
from .http import Response

APP = Path(__file__).resolve().parent / "app"

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
    file = _files().get(path.strip("/"))
    if file is None:
        raise ApiError(404, "unknown_route", "There is no such page; try worklist.html.")
    body = file.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    tags = {tag.strip() for tag in if_none_match.split(",")}
    if etag in tags:
        return Response(304, b"", CONTENT_TYPES[file.suffix], _headers(etag))
    return Response(200, body, CONTENT_TYPES[file.suffix], _headers(etag))
