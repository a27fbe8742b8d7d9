# SPDX-License-Identifier: Apache-2.0
"""The pictures of README and docs, taken of a real run: ``python -m tests.screenshots [FOLDER]``.

A real Orthanc, a real worker with the demonstration model, a real slide, OHIF behind nginx, one Chromium.
What is shown is what the model said; only the names of patient and glass are made up.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image
from playwright.sync_api import Locator, Page

from demo.ohif import ohif_dist, one_origin
from tests.support.analysed_slide import submit
from tests.support.browser import open_browser
from tests.support.dicom_files import another_slide, blank_slide
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.orthanc_server import ROOT, OrthancServer, free_port, store_file, store_slide
from tests.support.shared_data import SHARED
from tests.support.worker_process import WorkerProcess, wait_until_ended

IMAGES = ROOT / "docs" / "images"
CONTAINER = "S26-1042-A1"
SECONDS = 300.0
COLOURS = 256
BEGUN = 0.1


@dataclass(frozen=True)
class Origin:
    """Orthanc and OHIF at one address, as `open_browser` wants it."""

    url: str
    person: tuple[str, str]


def main() -> int:
    """Take the pictures and return the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    if not SHARED.is_dir():
        sys.stderr.write(f"The slide that is shown lies in {SHARED}, which is not there.\n")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(OrthancServer())
        url = stack.enter_context(one_origin(temporary / "nginx", ohif_dist(), server.port, free_port()))
        visit = stack.enter_context(open_browser(Origin(url, server.person)))  # type: ignore[arg-type]
        worker = WorkerProcess.at(server, temporary / "w", worker_id="lab-1")
        studio = Studio(visit.page, url, server, worker, folder)
        levels = named(pyramid_folder(temporary / "levels"), CONTAINER, "Kim^Min-jun", "P-00417")
        series = store_slide(server, levels)
        worker.start()
        stack.callback(worker.stop)
        studio.shoot(series, studio.analysed(series), temporary)
        if visit.problems:
            sys.stderr.write("Something went wrong on the pages:\n" + "\n".join(visit.problems) + "\n")
            return 1
    return 0


def named(folder: Path, container: str, name: str, patient: str) -> Path:
    """Give every file in a folder the name of a glass and of a made-up patient; return the folder."""
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.ContainerIdentifier = container
        dataset.PatientName, dataset.PatientID, dataset.StudyDate = name, patient, "20261120"
        dataset.save_as(path)
    return folder


@dataclass(frozen=True)
class Studio:
    """One page that goes from place to place, and the folder its pictures go to."""

    page: Page
    url: str
    server: OrthancServer
    worker: WorkerProcess
    folder: Path

    def another(self, temporary: Path, container: str, name: str, patient: str) -> str:
        """Store the slide as another made-up patient's; return the Orthanc id of its series."""
        folder = temporary / container
        folder.mkdir()
        another_slide(folder, container_id=container)
        return store_slide(self.server, named(folder, container, name, patient))

    def analysed(self, series: str) -> str:
        """Have a slide analysed by the worker; return the id of the request."""
        request_id = submit(self.server, series)
        wait_until_ended(self.server.url, self.server.person, request_id, seconds=SECONDS)
        return request_id

    def shoot(self, series: str, request_id: str, temporary: Path) -> None:
        """Take every picture."""
        self.heatmap(request_id)
        self.result_page(request_id)
        self.explorer(series)
        self.ohif(series)
        self.worklist(temporary)
        self.result_page_in_korean(request_id)

    def heatmap(self, request_id: str) -> None:
        """Keep the worker's own page."""
        answer = self.server.get(f"/pathology/requests/{request_id}/artifacts/heatmap.png")
        answer.raise_for_status()
        self.keep_jpeg("heatmap", answer.content, 1400)

    def result_page(self, request_id: str, name: str = "result-page") -> None:
        """Show the result on the slide."""
        self.page.goto(f"{self.url}/pathology/app/result.html?request={request_id}")
        self.page.wait_for_selector("body[data-pictures=shown]")
        self.settle()
        self.keep_jpeg(name, self.page.screenshot(), 1400)

    def result_page_in_korean(self, request_id: str) -> None:
        """Show the same to a Korean reader; it is the last picture, for the language stays chosen."""
        self.page.click("button[lang=ko]")
        self.page.wait_for_selector("html[lang=ko]")
        self.result_page(request_id, "result-page-ko")

    def explorer(self, series: str) -> None:
        """Show the panel and the result in Orthanc Explorer."""
        self.page.goto(f"{self.url}/app/explorer.html#series?uuid={series}")
        self.page.locator("#pathology-series button.result").click()
        for picture in self.pictures(self.page.locator(".stack img"), 2):
            picture.evaluate("one => one.decode()")
        self.settle()
        self.keep_jpeg("explorer", self.page.screenshot(), 1400)

    def ohif(self, series: str) -> None:
        """Show the result in OHIF."""
        study = self.server.get(f"/series/{series}/study").json()["MainDicomTags"]["StudyInstanceUID"]
        self.page.set_viewport_size({"width": 1280, "height": 860})
        self.page.goto(f"{self.url}/microscopy?StudyInstanceUIDs={study}")
        self.page.locator("[data-pathology=overlay] canvas").first.wait_for(timeout=1000 * SECONDS)
        if (notice := self.page.get_by_role("button", name="Confirm and hide")).is_visible():
            notice.click()
        self.page.wait_for_load_state("networkidle")
        self.settle()
        with Image.open(io.BytesIO(self.page.screenshot())) as picture:
            # OHIF's flat dark surfaces: a palette is a third of the file, and no letter is smeared.
            picture.convert("RGB").quantize(COLOURS).save(self.folder / "ohif.png", optimize=True)
        self.page.set_viewport_size({"width": 1400, "height": 900})

    def worklist(self, temporary: Path) -> None:
        """Show requests in every state: one fails, one waits for a model that nobody has, one runs."""
        self.analysed(str(store_file(self.server, blank_slide(temporary))["ParentSeries"]))
        waiting = self.another(temporary, "S26-1044-B2", "Lee^Seo-yeon", "P-00423")
        wish = {"series": waiting, "model": "lung-nsclc"}
        self.server.post("/pathology/analyze", json=wish).raise_for_status()
        running = self.another(temporary, "S26-1043-A1", "Park^Ji-ho", "P-00419")
        self.page.goto(f"{self.url}/pathology/app/worklist.html")
        with self.held_at_work(submit(self.server, running)):
            begun = 'tr[data-status="processing"] .filled:not([style="width: 0%;"])'
            self.page.wait_for_selector(begun, timeout=1000 * SECONDS)
            self.page.wait_for_selector("tr:has-text('S26-1043-A1')")
            self.keep_jpeg("worklist", self.page.screenshot(), 1400)

    @contextmanager
    def held_at_work(self, request_id: str) -> Iterator[None]:
        """Halt the worker once a request has got somewhere: it would be done before the page has asked."""
        while (self.request(request_id).get("progress") or 0) < BEGUN:
            time.sleep(0.05)
        os.kill(self.worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.worker.pid, signal.SIGCONT)

    def request(self, request_id: str) -> dict[str, Any]:
        """Return a request as it is now; it must not have ended."""
        request: dict[str, Any] = self.server.get(f"/pathology/requests/{request_id}").json()["request"]
        assert request["status"] in {"pending", "processing"}, request["status"]
        return request

    def settle(self) -> None:
        """Let what moves come to rest."""
        time.sleep(2)

    @staticmethod
    def pictures(found: Locator, count: int) -> list[Locator]:
        """Wait for so many pictures; return them."""
        found.nth(count - 1).wait_for()
        return found.all()

    def keep_jpeg(self, name: str, content: bytes, width: int) -> None:
        """Keep a picture, no wider than `width` pixels."""
        with Image.open(io.BytesIO(content)) as picture:
            shown = picture.convert("RGB")
            shown.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
            shown.save(self.folder / f"{name}.jpg", quality=88, optimize=True, progressive=True)


if __name__ == "__main__":
    sys.exit(main())
