# SPDX-License-Identifier: Apache-2.0
"""AI analysis in classic Orthanc Explorer: a real Chromium on a real Orthanc, with a worker of the test's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from tests.support.browser import Visit, open_browser
from tests.support.dicom_files import volume_file
from tests.support.fake_worker import MODEL, FakeWorker
from tests.support.heatmap import heatmap_png
from tests.support.orthanc_server import OrthancServer, store_file, store_slide
from tests.support.shared_data import shared_path

pytestmark = pytest.mark.browser

RESULT: dict[str, Any] = {
    "predicted_class": "oscc",
    "probabilities": {"normal": 0.0824, "oscc": 0.9176},
    "patches": {"count": 84, "size_px": 256, "level_mpp": 0.499, "tissue_mm2": 1.37},
    "top_patches": [],
    "slide": {"container_id": "S26-1042-A1", "width": 2220, "height": 2967, "mpp": [0.499, 0.499]},
    "model": {
        **MODEL,
        "encoder": {"name": "efficientnet-lite0", "sha256": "6" * 64},
        "intended_use": "demonstration, not for clinical use",
        "use": "non-commercial",
    },
    "quality": {"status": "ok", "flags": []},
    "artifacts": ["heatmap.png"],
    "timings_s": {"open": 0.3, "tissue": 0.4, "encode": 3.1, "predict": 0.1},
}


@pytest.fixture
def server() -> Iterator[OrthancServer]:
    with OrthancServer() as running:
        yield running


@pytest.fixture
def visit(server: OrthancServer) -> Iterator[Visit]:
    with open_browser(server) as opened:
        yield opened
    assert opened.problems == []


@pytest.fixture
def slide(server: OrthancServer) -> str:
    return store_slide(server, shared_path("slides/dicom-cmu-1-small-region"))


@pytest.fixture
def screenshot() -> Callable[[Visit, str], None]:
    """Keep a picture of the page where SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")

    def keep(visit: Visit, name: str) -> None:
        if folder is not None:
            visit.page.screenshot(path=Path(folder) / f"{name}.png")

    return keep


def complete(worker: FakeWorker, **changes: Any) -> None:
    heatmap = worker.put("heatmap.png", heatmap_png(), "image/png")
    worker.complete({**RESULT, **changes}, [heatmap])


def analysed(server: OrthancServer, series: str, **changes: Any) -> None:
    server.post("/pathology/analyze", json={"series": series}).raise_for_status()
    worker = FakeWorker(server)
    worker.claim()
    complete(worker, **changes)


def test_a_click_leads_through_live_progress_to_the_result(
    server: OrthancServer, visit: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    page = visit.open("series", slide)
    page.click(".pathology-start")
    page.wait_for_selector("text=Waiting for a worker")
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.42, "35 of 84 tiles")
    page.wait_for_selector("text=Running: reading the tissue, 42 %")
    assert "35 of 84 tiles" in page.inner_text(".pathology-row")
    screenshot(visit, "explorer-progress")
    worker.report("heatmap", 0.95)
    page.wait_for_selector("text=Running: drawing the heatmap, 95 %")
    complete(worker)
    page.click(".pathology-result")
    page.wait_for_selector(".pathology-heatmap img")
    text = page.inner_text(".pathology-dialog")
    assert "Demonstration, not for clinical use." in text
    for expected in (
        "oscc",
        "91.8 %",
        "normal",
        "8.2 %",
        "S26-1042-A1",
        "0.499 µm/px",
        "lab-1",
        "84 patches",
    ):
        assert expected in text
    loaded = "document.querySelector('.pathology-heatmap img').naturalWidth > 0"
    page.wait_for_function(loaded)
    screenshot(visit, "explorer-result")
    page.keyboard.press("Escape")
    page.wait_for_selector(".pathology-dialog", state="detached")


def test_the_page_of_a_study_offers_every_slide_in_it(
    server: OrthancServer,
    visit: Visit,
    slide: str,
    screenshot: Callable[[Visit, str], None],
    tmp_path: Path,
) -> None:
    second = store_file(server, slide_beside(tmp_path))["ParentSeries"]
    page = visit.open("study", server.get(f"/series/{slide}").json()["ParentStudy"])
    page.wait_for_selector(f'[data-series="{slide}"] .pathology-start')
    page.click(f'[data-series="{second}"] .pathology-start')
    page.wait_for_selector(f'[data-series="{second}"] >> text=Waiting for a worker')
    assert page.query_selector(f'[data-series="{slide}"] .pathology-state') is None
    assert "No worker is alive now" in page.inner_text(f'[data-series="{second}"]')
    screenshot(visit, "explorer-study")


def test_a_picture_that_an_analysis_made_is_no_slide_to_analyse(
    server: OrthancServer, visit: Visit, slide: str, tmp_path: Path
) -> None:
    server.post("/pathology/analyze", json={"series": slide}).raise_for_status()
    worker = FakeWorker(server)
    worker.claim()
    overlay = worker.put("overlay.dcm", slide_beside(tmp_path).read_bytes(), "application/dicom")
    worker.complete({**RESULT, "artifacts": ["overlay.dcm"]}, [overlay])
    page = visit.open("study", server.get(f"/series/{slide}").json()["ParentStudy"])
    page.wait_for_selector(f'[data-series="{slide}"]')
    assert len(server.get("/series").json()) == 2
    assert len(page.query_selector_all(".pathology-row")) == 1


def slide_beside(folder: Path) -> Path:
    """Write the real slide's VOLUME as another series of the same study; return the file."""
    dataset = pydicom.dcmread(volume_file())
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesDescription = "second <i>slide</i>"
    dataset.save_as(folder / "second.dcm")
    return folder / "second.dcm"


def test_where_there_is_no_slide_there_is_no_button(server: OrthancServer, visit: Visit) -> None:
    stored = store_file(server, shared_path("slides/dicom-misc/hd_sm_annotations.dcm"))
    for level in ("series", "study"):
        page = visit.open(level, stored[f"Parent{level.title()}"])
        page.wait_for_selector(f"#{level}-info li")
        page.wait_for_load_state("networkidle")
        assert page.query_selector(".pathology-panel") is None


def test_a_failure_is_a_sentence_and_can_be_tried_again(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    page = visit.open("series", slide)
    page.click(".pathology-start")
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("no_tissue", "No tissue was found on the slide; check its focus and its stain.")
    page.wait_for_selector("text=No tissue was found on the slide; check its focus and its stain.")
    page.click(".pathology-start")
    page.wait_for_selector("text=Waiting for a worker")


def test_where_workers_offer_several_models_a_person_chooses(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    FakeWorker(server).offer()
    other = {"name": "other <b>model</b>", "version": "2", "sha256": "7" * 64}
    worker = FakeWorker(server, worker_id="lab-2", model=other)
    worker.offer()
    page = visit.open("series", slide)
    page.select_option(".pathology-model", other["name"])
    page.click(".pathology-start")
    assert worker.claim()["request"]["model"] == other["name"]


def test_a_pending_request_can_be_cancelled(visit: Visit, slide: str) -> None:
    page = visit.open("series", slide)
    page.click(".pathology-start")
    page.click(".pathology-cancel")
    page.wait_for_selector("text=Cancelled")


def test_an_abstaining_model_makes_no_statement(
    server: OrthancServer, visit: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    reason = "The model abstains: there is little tissue on the slide (0.2 mm²)."
    quality = {"status": "abstained", "flags": ["little_tissue", "some_new_flag"], "reason": reason}
    analysed(server, slide, quality=quality)
    page = visit.open("series", slide)
    page.click(".pathology-result")
    page.wait_for_selector(".pathology-call")
    assert page.inner_text(".pathology-call") == "No statement"
    text = page.inner_text(".pathology-dialog")
    for expected in (reason, "There is little tissue on the slide.", "some new flag.", "not to be relied on"):
        assert expected.lower() in text.lower()
    screenshot(visit, "explorer-abstained")


def test_names_with_markup_are_shown_as_text(server: OrthancServer, visit: Visit, slide: str) -> None:
    markup = '<img src=x onerror="window.hurt=1"><b>x</b>'
    analysed(
        server,
        slide,
        predicted_class=markup,
        probabilities={markup: 0.9, "normal": 0.1},
        slide={**RESULT["slide"], "container_id": markup},
        model={**RESULT["model"], "intended_use": markup},
        quality={"status": "limited", "flags": [markup], "reason": markup},
    )
    page = visit.open("series", slide)
    page.click(".pathology-result")
    page.wait_for_selector(".pathology-call")
    assert page.inner_text(".pathology-call span") == markup
    assert page.inner_text(".pathology-dialog").count(markup) >= 5
    assert page.query_selector(".pathology-dialog b") is None
    assert page.evaluate("window.hurt") is None


def test_earlier_results_stay_within_reach(server: OrthancServer, visit: Visit, slide: str) -> None:
    analysed(server, slide, predicted_class="normal", probabilities={"normal": 0.7, "oscc": 0.3})
    page = visit.open("series", slide)
    page.click(".pathology-again")
    page.wait_for_selector("text=Waiting for a worker")
    worker = FakeWorker(server, worker_id="lab-2")
    worker.claim()
    complete(worker)
    page.click(".pathology-result")
    page.wait_for_selector(".pathology-call >> text=oscc")
    page.click(".pathology-other")
    page.wait_for_selector(".pathology-call >> text=normal")


def test_the_page_survives_a_restart_of_orthanc(server: OrthancServer, visit: Visit, slide: str) -> None:
    page = visit.open("series", slide)
    page.click(".pathology-start")
    page.wait_for_selector("text=Waiting for a worker")
    server.stop()
    page.wait_for_selector("text=Orthanc does not answer")
    visit.problems.clear()
    server.start()
    page.wait_for_selector("text=Orthanc does not answer", state="detached", timeout=60_000)
    visit.problems.clear()
    worker = FakeWorker(server)
    worker.claim()
    worker.report("tissue", 0.05)
    page.wait_for_selector("text=Running: finding tissue, 5 %")
