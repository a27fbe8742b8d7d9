# SPDX-License-Identifier: Apache-2.0
"""A real headless Chromium on a page of a real Orthanc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from tests.support.orthanc_server import OrthancServer

CHROMIUM = Path("/usr/bin/chromium")
SELECTOR_MS = 40_000
expect.set_options(timeout=SELECTOR_MS)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


@dataclass
class Visit:
    """A browser's page on a server, and what went wrong on it: errors of scripts, answers of 400 and more."""

    server: OrthancServer
    page: Page
    browser: Browser
    problems: list[str] = field(default_factory=list)

    def open(self, level: str, orthanc_id: str) -> Page:
        """Open Orthanc Explorer at a series or study."""
        # An address that differs from the last in its fragment only would not load the page anew.
        self.page.goto("about:blank")
        self.page.goto(f"{self.server.url}/app/explorer.html#{level}?uuid={orthanc_id}")
        return self.page

    def requests_to(self, route: str) -> list[str]:
        """Return a list that gets the address of every request from now on with `route` (a part) in it."""
        asked: list[str] = []

        def note(request: Request) -> None:
            if route in request.url:
                asked.append(request.url)

        self.page.on("request", note)
        return asked

    def note_line(self, line: ConsoleMessage) -> None:
        """Note a line of the console that is an error."""
        if line.type == "error":
            self.problems.append(line.text)

    def note_answer(self, response: Response) -> None:
        """Note an answer that is an error."""
        if response.status >= 400:
            self.problems.append(f"{response.status} {response.request.method} {response.url}")


@contextmanager
def open_browser(server: OrthancServer, beside: Browser | None = None) -> Iterator[Visit]:
    """Open a page with a fresh profile, signed in as the person; `beside` others in a running Chromium."""
    with nullcontext(beside) if beside is not None else open_chromium() as browser:
        name, password = server.person
        context = browser.new_context(
            http_credentials={"username": name, "password": password, "origin": server.url, "send": "always"},
            viewport={"width": 1400, "height": 900},
            locale="en-GB",
        )
        page = context.new_page()
        page.set_default_timeout(SELECTOR_MS)
        visit = Visit(server, page, browser)
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.on("response", visit.note_answer)
        try:
            yield visit
        finally:
            context.close()


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start a headless Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("needs a real Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
