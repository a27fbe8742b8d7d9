# SPDX-License-Identifier: Apache-2.0
"""One Orthanc and one Chromium for all browser tests; each test has its own slides and its own profile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.analysed_slide import CONTAINER
from tests.support.browser import Visit, open_browser, open_chromium
from tests.support.dicom_files import another_slide
from tests.support.orthanc_server import OrthancServer, store_file


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def running() -> Iterator[OrthancServer]:
    with OrthancServer() as server:
        yield server


@pytest.fixture
def server(running: OrthancServer) -> Iterator[OrthancServer]:
    """A server without any slide; what a test leaves there goes, and its requests with it."""
    yield running
    running.delete_all()
    while running.get("/pathology/requests/").json().get("count") != 0:
        time.sleep(0.1)


@pytest.fixture
def without_workers(server: OrthancServer) -> Iterator[OrthancServer]:
    """A server that has heard of no worker, and forgets those of this test."""
    server.restart()
    yield server
    server.restart()


@pytest.fixture
def visit(server: OrthancServer, chromium: Browser) -> Iterator[Visit]:
    with open_browser(server, chromium) as opened:
        # Whatever the policy refuses is said on the console only.
        opened.page.on("console", opened.note_line)
        yield opened


@pytest.fixture
def faultless(visit: Visit) -> Iterator[Visit]:
    """A visit during which nothing may go wrong."""
    yield visit
    assert visit.problems == []


@pytest.fixture
def slide(server: OrthancServer, tmp_path: Path) -> str:
    """A slide that no other test has, with `CONTAINER` as its label."""
    return str(store_file(server, another_slide(tmp_path, container_id=CONTAINER))["ParentSeries"])


@pytest.fixture
def screenshot() -> Callable[[Visit, str], None]:
    """Keep a picture of the page where SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")

    def keep(visit: Visit, name: str) -> None:
        if folder is not None:
            visit.page.screenshot(path=Path(folder) / f"{name}.png")

    return keep
