# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two sites that every contract test runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.queue_client import Queue
from tests.support.sites import MemorySite, ServerSite, Site


@pytest.fixture(scope="session")
def server_site() -> Iterator[ServerSite]:
    site = ServerSite(slides=260)
    try:
        site.start()
        yield site
    finally:
        site.stop()


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.server)])
def site(request: pytest.FixtureRequest) -> Site:
    if request.param == "memory":
        return MemorySite()
    found: Site = request.getfixturevalue("server_site")
    return found


@pytest.fixture(scope="module")
def fresh_server_site() -> Iterator[ServerSite]:
    site = ServerSite(slides=4)
    try:
        site.start()
        yield site
    finally:
        site.stop()


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.server)])
def fresh_site(request: pytest.FixtureRequest) -> Site:
    """Return a site that no worker of another file of tests has asked for work."""
    if request.param == "memory":
        return MemorySite()
    found: Site = request.getfixturevalue("fresh_server_site")
    return found


@pytest.fixture
def queue(site: Site) -> Queue:
    return Queue(site)
