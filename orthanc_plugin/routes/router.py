# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a method and a path to the function that answers; also for the older server's paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orthanc_plugin.errors import ApiError
from orthanc_plugin.http import Request, Response, single_slashes

ROOT = "/pathology"
"""Where every route lies; the older server's paths lie under ``/api`` besides."""
_ROOT = re.compile(r"(?:/api)?/pathology(?=/|$)")

Parts = Mapping[str, str]
"""What stands in the place of the names in a route's path."""
Handler = Callable[[Request, Parts], Response]


@dataclass(frozen=True)
class Route:
    """A method, a path below the root with ``{names}``, and who answers it."""

    method: str
    path: str
    handler: Handler

    @property
    def pattern(self) -> re.Pattern[str]:
        """The path as a regular expression; ``{name}`` is one part of it, ``{name*}`` all the rest."""
        return re.compile("".join(_expression(part) for part in re.split(r"(\{\w+\*?\})", self.path)))


def _expression(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    name = part.strip("{*}")
    return f"(?P<{name}>.+)" if part.endswith("*}") else f"(?P<{name}>[^/]+)"


def _below_root(path: str) -> str:
    """Return a path as the routes name it."""
    root = _ROOT.match(path)
    return path[root.end() if root else 0 :].rstrip("/") or "/"


def _head(path: str) -> str:
    """Return a path's first part, which is a plain word in every route."""
    return path.split("/", 2)[1]


class Router:
    """The table of routes."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._by_head: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            self._by_head.setdefault(_head(route.path), []).append((route.pattern, route))

    def dispatch(self, request: Request) -> Response:
        """Answer a request.

        Raises
        ------
        ApiError
            404 where no route has this path, 405 where one has it for other methods.
        """
        path = _below_root(single_slashes(request.path))
        allowed = set()
        for pattern, route in self._by_head.get(_head(path), ()):
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if route.method == request.method:
                return route.handler(request, match.groupdict())
            allowed.add(route.method)
        if allowed:
            methods = ", ".join(sorted(allowed))
            raise ApiError(
                405, "method_not_allowed", f"This path takes {methods}.", headers={"Allow": methods}
            )
        raise ApiError(404, "unknown_route", "There is no such route; docs/rest.md lists them.")
