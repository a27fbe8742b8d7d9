# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two sites that every contract test runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.queue_client import Queue
from tests.support.sites import MemorySite, ServerSite, Site, running

BOTH = ["memory", pytest.param("server", marks=pytest.mark.server)]


def chosen(request: pytest.FixtureRequest, server: str) -> Site:
    """Return the site of a parameter of `BOTH`, the server by the name of its fixture."""
    if request.param == "memory":
        return MemorySite()
    found: Site = request.getfixturevalue(server)
    return found


@pytest.fixture(scope="session")
def server_site() -> Iterator[ServerSite]:
    with running(slides=260) as site:
        yield site


@pytest.fixture(params=BOTH)
def site(request: pytest.FixtureRequest) -> Site:
    return chosen(request, "server_site")


@pytest.fixture(scope="module")
def fresh_server_site() -> Iterator[ServerSite]:
    with running(slides=4) as site:
        yield site


@pytest.fixture(params=BOTH)
def fresh_site(request: pytest.FixtureRequest) -> Site:
    """Return a site that no worker of another file of tests has asked for work."""
    return chosen(request, "fresh_server_site")


@pytest.fixture
def queue(site: Site) -> Queue:
    return Queue(site)
