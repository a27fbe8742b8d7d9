# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's callbacks as plain functions: routes, the filter of every request, changes."""

from __future__ import annotations

import ctypes
import re
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

from orthanc_plugin.errors import ApiError
from orthanc_plugin.http import Request, Response, error_response

from . import orthanc_api

Serve = Callable[[Request], Response]
UserOf = Callable[[Mapping[str, str]], str]


class RestOutput(Protocol):
    """What Orthanc hands to a route to answer with (`orthanc.RestOutput`)."""

    def AnswerBuffer(self, answer: bytes, mime_type: str, /) -> None:  # noqa: N802 - Orthanc's names
        """Answer 200."""

    def SendHttpStatus(self, status: int, body: str, size: int = ..., /) -> None:  # noqa: N802
        """Answer with a status and text."""

    def SendHttpStatusCode(self, status: int, /) -> None:  # noqa: N802
        """Answer with a status and no body."""

    def SendMethodNotAllowed(self, allowed_methods: str, /) -> None:  # noqa: N802
        """Answer 405."""

    def SetHttpHeader(self, key: str, value: str, /) -> None:  # noqa: N802
        """Add a header to the answer to come."""


_thread = threading.local()
_ensure_thread_state = getattr(ctypes.pythonapi, "PyGILState_Ensure", lambda: None)
_forget_error = getattr(ctypes.pythonapi, "PyErr_Clear", lambda: None)


def _keep_thread_state() -> None:
    """Let Python keep what it knows of the thread of Orthanc's that this callback came by.

    Python made none of these threads, so it forgets each again after every callback, together with a mapping
    of memory (Python 3.11 and later) which the processors then have to agree to be gone: nine times in a
    request's claim, heartbeat and completion. One `PyGILState_Ensure` more than there are releases keeps it.
    Orthanc's threads are few, and last; what is left of them is cleared as Python ends.

    With it stays an error of Orthanc's own: a header that is no UTF-8 it cannot hand over. It refuses that
    request without asking us, and would leave the exception to whoever comes next by this thread.
    """
    _forget_error()
    if not getattr(_thread, "is_kept", False):
        _thread.is_kept = True
        _ensure_thread_state()


_routes: list[tuple[re.Pattern[str], Serve, UserOf]] = []


def serve_route(pattern: str, serve: Serve, user_of: UserOf) -> None:
    """Answer every request whose path matches the regular expression `pattern` with what `serve` returns.

    `user_of` gets the request's headers and returns the name that Orthanc accepted.
    """
    _routes.append((re.compile(pattern), serve, user_of))
    orthanc_api.register_route(pattern, _answer)


def _answer(output: RestOutput, uri: str, **request: Any) -> None:
    """Answer a request of any route.

    Orthanc's Python plugin 5.0 lets go of the routes' functions after it has ended Python: one that holds
    anything, as a closure does, then brings the whole server down.
    """
    _keep_thread_state()
    try:
        serve, user_of = next((serve, user_of) for path, serve, user_of in _routes if path.fullmatch(uri))
        headers = request.get("headers", {})
        response = serve(
            Request(
                method=request["method"],
                path=uri,
                query=_decoded(request.get("get", {})),
                headers=headers,
                body=request.get("body", b"") or b"",
                user=user_of(headers),
            )
        )
    except Exception:  # noqa: BLE001 - the callback's boundary: beyond it is a bare 500
        orthanc_api.log_error(f"Pathology: {request.get('method')} {uri} failed:\n{traceback.format_exc()}")
        response = error_response(
            ApiError(500, "internal_error", "The plugin met an error of its own; Orthanc's log says which.")
        )
    send(output, response)


def _decoded(query: Mapping[str, str]) -> dict[str, str]:
    """Return a query's values as they were meant: Orthanc 1.10 hands them over percent-encoded."""
    return {unquote(name): unquote(value) for name, value in query.items()}


def send(output: RestOutput, response: Response) -> None:
    """Send an answer by the one of Orthanc's functions that can carry it.

    `SendHttpStatus` takes text only (and its length in 4.0, but not in every later version). 405 has its own
    function, which carries no body. On a status that Orthanc's enumeration lacks, such as 429, Orthanc 1.10
    drops the connection without an answer: 429 leaves as 503, which says "later" as well. Orthanc 1.12 adds a
    second Content-Type, text/plain, to whatever is not 200.
    """
    for name, value in response.headers.items():
        output.SetHttpHeader(name, value)
    if response.status == 200:
        output.AnswerBuffer(response.body, response.content_type)
    elif response.status == 405:
        output.SendMethodNotAllowed(response.headers.get("Allow", ""))
    elif not response.body:
        output.SendHttpStatusCode(response.status)
    else:
        output.SetHttpHeader("Content-Type", response.content_type)
        _send_text(output, 503 if response.status == 429 else response.status, response.body)


def _send_text(output: RestOutput, status: int, body: bytes) -> None:
    text = body.decode("utf-8")
    try:
        output.SendHttpStatus(status, text, len(body))
    except TypeError:
        output.SendHttpStatus(status, text)


def filter_requests(
    allows: Callable[[str, str, str, Mapping[str, str]], bool] | None,
    before: Callable[..., bool] | None = None,
) -> None:
    """Let `allows` (method, path, address of the peer, headers) decide on every request; False is a 403.

    Orthanc asks after it has checked the password, with the path decoded and normalised and the method that
    counts: a GET with ``?_method=delete`` arrives here as DELETE, because Orthanc treats it as one.
    `before` is a site's own filter, called first with Orthanc's own arguments.
    """

    def callback(uri: str, **request: Any) -> bool:
        _keep_thread_state()
        try:
            if before is not None and not before(uri, **request):
                return False
            if allows is None:
                return True
            method = orthanc_api.METHODS.get(request["method"], "")
            return allows(method, uri, request.get("ip", ""), request.get("headers", {}))
        except Exception:  # noqa: BLE001 - the callback's boundary: what cannot be judged is refused
            orthanc_api.log_error(f"Pathology: the filter failed on {uri}:\n{traceback.format_exc()}")
            return False

    orthanc_api.register_filter(callback)


def listen(
    on_change: Callable[[str, str, str], None] | None,
    before: Callable[[int, int, str], None] | None = None,
) -> None:
    """Call `on_change` with the change's name, the resource's level and its Orthanc id.

    Only deleted, new and stable resources and the server's start and stop are passed on: every metadata write
    emits a change as well. `before` is a site's own callback; it gets every change, with Orthanc's own
    arguments, and what it raises is logged and keeps nothing from the plugin.
    """

    def callback(change: int, level: int, resource: str) -> None:
        _keep_thread_state()
        if before is not None:
            _guarded(lambda: before(change, level, resource), "the site's own callback")
        name = orthanc_api.CHANGES.get(change)
        if name is not None and on_change is not None:
            _guarded(
                lambda: on_change(name, orthanc_api.LEVELS.get(level, ""), resource), f"{name} of {resource}"
            )

    def _guarded(call: Callable[[], None], what: str) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 - the callback's boundary: Orthanc would only say that it failed
            orthanc_api.log_error(f"Pathology: handling {what} failed:\n{traceback.format_exc()}")

    orthanc_api.register_listener(callback)
