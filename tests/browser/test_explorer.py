# SPDX-License-Identifier: Apache-2.0
"""AI analysis in classic Orthanc Explorer: a real Chromium on a real Orthanc, with a worker of the test's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Browser, Locator, expect
from pydicom.uid import generate_uid

from tests.support.analysed_slide import CONTAINER, analysed, deliver
from tests.support.browser import Visit, open_browser
from tests.support.dicom_files import another_slide, volume_file
from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.shared_data import shared_path

pytestmark = pytest.mark.browser


def panel_on(visit: Visit, level: str, orthanc_id: str) -> Locator:
    """Open a page of Orthanc Explorer; return our panel on it."""
    visit.open(level, orthanc_id)
    panel = visit.page.locator(f"#pathology-{level}")
    expect(panel.locator(".buttons button").first).to_be_visible()
    return panel


def test_a_click_leads_through_live_progress_to_the_result(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=start]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.42, "35 of 84 tiles")
    expect(panel.locator(".stage")).to_have_text("Encoding patches 42%")
    expect(panel).to_contain_text("35 of 84 tiles")
    screenshot(faultless, "explorer-progress")
    worker.report("heatmap", 0.95)
    expect(panel.locator(".stage")).to_have_text("Drawing the heatmap 95%")
    deliver(worker, CONTAINER)
    expect(panel.locator(".state .verdict")).to_contain_text("oscc")
    panel.locator("button.result").click()
    dialog = panel.locator("dialog")
    expect(dialog.locator("header h2")).to_have_text(CONTAINER)
    for expected in (
        "Demonstration. Not for clinical use.",
        "oscc",
        "91.8%",
        "normal",
        "8.2%",
        "0.499 µm a pixel",
        "lab-1",
        "84, 1.37 mm² of tissue",
        "has not approved the model",
    ):
        expect(dialog).to_contain_text(expected)
    screenshot(faultless, "explorer-result")
    faultless.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_the_dialog_shows_the_slide_under_its_attention_and_leads_to_all_the_rest(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    request_id = analysed(server, slide, CONTAINER)
    panel = panel_on(faultless, "series", slide)
    panel.locator("button.result").click()
    pictures = panel.locator(".stack img")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        picture.evaluate("one => one.decode()")
    expect(panel.locator(".legend")).to_contain_text(
        "Colour covers only what was taken for tissue; a patch is used whole. Faint colour means little"
    )
    boxes = [picture.bounding_box() for picture in pictures.all()]
    assert boxes[0] == boxes[1]
    with faultless.page.expect_download() as saved:
        panel.locator("#export-csv").click()
    assert saved.value.suggested_filename.endswith(f"-{request_id[:8]}.csv")
    with faultless.page.context.expect_page() as opened:
        panel.locator("a.page").click()
    opened.value.wait_for_selector("body[data-pictures=shown]")
    assert opened.value.inner_text("#container") == CONTAINER


def test_the_slide_is_named_by_orthanc_where_the_result_came_without_its_name(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    analysed(server, slide, slide={"width": 2220, "height": 2967, "mpp": [0.499, 0.499]})
    panel = panel_on(faultless, "series", slide)
    panel.locator("button.result").click()
    expect(panel.locator("dialog header h2")).to_have_text(CONTAINER)


def test_a_result_about_another_slide_raises_an_alarm_and_is_not_shown(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    analysed(server, slide, "S26-9999-Z9")
    panel = panel_on(faultless, "series", slide)
    panel.locator("button.result").click()
    dialog = panel.locator("dialog")
    expect(dialog.locator("[role=alert]")).to_contain_text("does not belong to the slide")
    expect(dialog.locator(".verdict")).to_have_count(0)
    expect(dialog.locator("img")).to_have_count(0)


def test_the_page_of_a_study_offers_every_slide_in_it(
    without_workers: OrthancServer,
    faultless: Visit,
    slide: str,
    screenshot: Callable[[Visit, str], None],
    tmp_path: Path,
) -> None:
    server = without_workers
    second = store_file(server, slide_beside(server, slide, tmp_path))["ParentSeries"]
    panel = panel_on(faultless, "study", server.get(f"/series/{slide}").json()["ParentStudy"])
    rows = {one: panel.locator(f'[data-series="{one}"]') for one in (slide, second)}
    rows[second].locator("[data-action=start]").click()
    expect(rows[second].locator(".stage")).to_contain_text("Waiting for a worker")
    expect(rows[second]).to_contain_text("No worker is alive: the analysis waits")
    expect(rows[second].locator("h2")).to_contain_text("second <i>slide</i>")
    expect(rows[slide].locator("h2")).to_have_text(f"AI analysis: {CONTAINER} · Slide 1")
    expect(rows[slide].locator(".stage")).to_have_count(0)
    screenshot(faultless, "explorer-study")


def test_a_picture_that_an_analysis_made_is_no_slide_to_analyse(
    server: OrthancServer, faultless: Visit, slide: str, tmp_path: Path
) -> None:
    server.post("/pathology/analyze", json={"series": slide}).raise_for_status()
    worker = FakeWorker(server)
    worker.claim()
    made = slide_beside(server, slide, tmp_path).read_bytes()
    overlay = worker.put("overlay.dcm", made, "application/dicom")
    worker.complete({"predicted_class": "oscc", "probabilities": {"oscc": 1.0}}, [overlay])
    panel = panel_on(faultless, "study", server.get(f"/series/{slide}").json()["ParentStudy"])
    assert len(server.get("/series").json()) == 2
    expect(panel.locator("[data-series]")).to_have_count(1)


def slide_beside(server: OrthancServer, slide: str, folder: Path) -> Path:
    """Write the real slide's VOLUME as another series of the same study; return the file."""
    dataset = pydicom.dcmread(volume_file())
    study = server.get(f"/series/{slide}/study").json()
    dataset.StudyInstanceUID = study["MainDicomTags"]["StudyInstanceUID"]
    dataset.PatientID = study["PatientMainDicomTags"]["PatientID"]
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesDescription = "second <i>slide</i>"
    dataset.save_as(folder / "second.dcm")
    return folder / "second.dcm"


def test_where_there_is_no_slide_there_is_no_button(server: OrthancServer, faultless: Visit) -> None:
    stored = store_file(server, shared_path("slides/dicom-misc/hd_sm_annotations.dcm"))
    for level, parent in (("series", "Series"), ("study", "Study"), ("patient", "Patient")):
        page = faultless.open(level, stored[f"Parent{parent}"])
        page.wait_for_selector(f"#{level}-info li")
        page.wait_for_load_state("networkidle")
        assert page.query_selector(".pathology-panel") is None


def test_a_failure_is_a_sentence_and_can_be_tried_again(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=start]").click()
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("no_tissue", "Check the slide's focus and its stain.")
    expect(panel.locator(".state")).to_contain_text("The analysis failed")
    expect(panel.locator(".state")).to_contain_text("No tissue was found on the slide.")
    expect(panel.locator(".state")).to_contain_text("Check the slide's focus and its stain.")
    screenshot(faultless, "explorer-failed")
    panel.locator("[data-action=retry]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")


def test_what_must_fail_again_is_not_offered_to_be_tried_again(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    server.post("/pathology/analyze", json={"series": slide, "parameters": {"nope": 3}}).raise_for_status()
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("bad_parameters", "There is no parameter 'nope'.")
    panel = panel_on(faultless, "series", slide)
    expect(panel.locator("[data-action=again]")).to_be_visible()
    expect(panel.locator("[data-action=retry]")).to_have_count(0)


def test_where_workers_offer_several_models_a_person_chooses(
    without_workers: OrthancServer, faultless: Visit, slide: str
) -> None:
    server = without_workers
    FakeWorker(server).offer()
    other = {"name": "other <b>model</b>", "version": "2", "sha256": "7" * 64}
    worker = FakeWorker(server, worker_id="lab-2", model=other)
    worker.offer()
    panel = panel_on(faultless, "series", slide)
    panel.locator("select.model").select_option(other["name"])
    panel.locator("[data-action=start]").click()
    assert worker.claim()["request"]["model"] == other["name"]


def test_pending_and_running_requests_can_be_cancelled(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=start]").click()
    panel.locator("[data-action=cancel]").click()
    expect(panel.locator(".state")).to_contain_text("The analysis was cancelled")
    panel.locator("[data-action=retry]").click()
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.3)
    panel.locator("[data-action=cancel]").click()
    expect(panel).to_contain_text("the worker will stop at its next report")
    assert worker.report("encode", 0.4)["cancel"] is True


def test_an_abstaining_model_makes_no_statement(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    reason = "The model abstains: there is little tissue on the slide (0.2 mm²)."
    quality = {"status": "abstained", "flags": ["little_tissue", "some_new_flag"], "reason": reason}
    analysed(server, slide, CONTAINER, quality=quality)
    panel = panel_on(faultless, "series", slide)
    expect(panel.locator(".state .verdict")).to_have_text("The model abstains")
    panel.locator("button.result").click()
    dialog = panel.locator("dialog")
    expect(dialog.locator(".verdict")).to_have_text("The model abstains")
    expect(dialog.locator(".chosen")).to_have_count(0)
    for expected in (
        "In detail: there is little tissue on the slide (0.2 mm²).",
        "There is little tissue on the slide.",
        "some new flag",
    ):
        expect(dialog.locator("#quality")).to_contain_text(expected)
    screenshot(faultless, "explorer-abstained")


def test_names_with_markup_are_shown_as_text(server: OrthancServer, faultless: Visit, tmp_path: Path) -> None:
    markup = '<img src=x onerror="window.hurt=1"><b>x</b>'
    path = another_slide(tmp_path, container_id=CONTAINER)
    dataset = pydicom.dcmread(path)
    dataset.PatientID = markup
    dataset.save_as(path)
    series = store_file(server, path)["ParentSeries"]
    analysed(
        server,
        series,
        CONTAINER,
        predicted_class=markup,
        probabilities={markup: 0.9, "normal": 0.1},
        model={"name": markup, "version": "1", "intended_use": markup, "use": "demonstration"},
        quality={"status": "limited", "flags": [markup], "reason": markup},
    )
    panel = panel_on(faultless, "series", series)
    panel.locator("button.result").click()
    dialog = panel.locator("dialog")
    expect(dialog.locator(".verdict")).to_contain_text(markup)
    expect(dialog.locator(".facts.identity")).to_contain_text(markup)
    expect(dialog.locator("b, img[src=x]")).to_have_count(0)
    assert faultless.page.evaluate("window.hurt") is None


def test_earlier_results_stay_within_reach(server: OrthancServer, faultless: Visit, slide: str) -> None:
    analysed(server, slide, CONTAINER, predicted_class="normal", probabilities={"normal": 0.7, "oscc": 0.3})
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=again]").click()
    panel.locator("[data-answer=again]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")
    worker = FakeWorker(server, worker_id="lab-2")
    worker.claim()
    deliver(worker, CONTAINER)
    expect(panel.locator(".state .verdict")).to_contain_text("oscc")
    panel.locator("button.result").click()
    expect(panel.locator("dialog .verdict")).to_contain_text("oscc")
    panel.locator("button.other").click()
    expect(panel.locator("dialog .verdict")).to_contain_text("normal")


def test_what_failed_or_was_withdrawn_is_told_apart_from_the_slides_earlier_result(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    analysed(server, slide, CONTAINER)
    again = analysed(server, slide, CONTAINER)
    server.post(f"/pathology/requests/{again}/withdraw", json={"reason": "Mixed up"}).raise_for_status()
    panel = panel_on(faultless, "series", slide)
    expect(panel.locator(".state")).to_contain_text("This result was withdrawn")
    expect(panel.locator(".state")).to_contain_text("Earlier result of this slide: oscc 91.8%")
    expect(panel.locator("button.result")).to_have_text("Show the earlier result")
    screenshot(faultless, "explorer-withdrawn")
    panel.locator("button.result").click()
    expect(panel.locator("dialog .verdict")).to_contain_text("oscc")


def test_the_dialog_of_an_older_result_leads_to_the_newer_one(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    analysed(server, slide, CONTAINER, predicted_class="normal", probabilities={"normal": 0.7, "oscc": 0.3})
    analysed(server, slide, CONTAINER)
    panel = panel_on(faultless, "series", slide)
    panel.locator("button.result").click()
    expect(panel.locator("dialog p.beside")).to_have_count(0)
    panel.locator("button.other").click()
    expect(panel.locator("dialog p.beside")).to_contain_text("There is a newer result of this slide: oscc")
    panel.locator("button.beside").click()
    expect(panel.locator("dialog .verdict")).to_contain_text("oscc")


def test_a_second_analysis_of_the_same_kind_is_begun_only_knowingly(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    first = analysed(server, slide, CONTAINER)
    panel = panel_on(faultless, "series", slide)
    again, question = panel.locator("[data-action=again]"), panel.locator("dialog.question")
    again.click()
    for expected in ("Analyse this slide again?", "oscc", "91.8%", "oral-scc-demo 1", "admin"):
        expect(question).to_contain_text(expected)
    screenshot(faultless, "explorer-again")
    panel.locator("[data-answer=keep]").click()
    expect(question).to_have_count(0)
    again.click()
    expect(question).to_be_visible()
    faultless.page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    assert server.get("/pathology/requests/").json()["count"] == 1
    again.click()
    panel.locator("[data-answer=again]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")
    second = server.get("/pathology/requests/").json()["requests"][-1]
    assert second["predecessor"] == first


def test_nobody_is_asked_about_a_result_whose_files_went_when_the_slide_was_replaced(
    server: OrthancServer, faultless: Visit, tmp_path: Path
) -> None:
    path = another_slide(tmp_path, container_id=CONTAINER)
    slide = store_file(server, path)["ParentSeries"]
    analysed(server, slide, CONTAINER)
    server.request("DELETE", f"/series/{slide}").raise_for_status()
    store_file(server, path)
    panel = panel_on(faultless, "series", slide)
    expect(panel.locator(".state .verdict")).to_contain_text("oscc")
    panel.locator("[data-action=again]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for")


def test_the_same_model_by_its_name_is_the_same_kind_and_another_model_is_not(
    without_workers: OrthancServer, faultless: Visit, slide: str
) -> None:
    server = without_workers
    analysed(server, slide, CONTAINER)  # by default, and so by this model
    other = {"name": "another-model", "version": "2", "sha256": "7" * 64}
    FakeWorker(server, worker_id="lab-2", model=other).offer()
    panel = panel_on(faultless, "series", slide)
    panel.locator("select.model").select_option("oral-scc-demo")
    panel.locator("[data-action=again]").click()
    panel.locator("[data-answer=keep]").click()
    panel.locator("select.model").select_option(other["name"])
    panel.locator("[data-action=again]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")
    assert server.get("/pathology/requests/").json()["requests"][-1]["model"] == other["name"]


def test_a_slide_that_is_still_arriving_is_waited_for_in_words(
    chromium: Browser, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    with (
        OrthancServer(environment={"ORTHANC_STABLE_AGE": "300"}) as server,
        open_browser(server, chromium) as visit,
    ):
        slide = store_file(server, another_slide(tmp_path, container_id=CONTAINER))["ParentSeries"]
        panel = panel_on(visit, "series", slide)
        panel.locator("[data-action=start]").click()
        expect(panel.locator(".stage")).to_have_text("Waiting for the rest of the slide")
        expect(panel).to_contain_text("some time after its last file came")
        screenshot(visit, "explorer-arriving")
        assert visit.problems == []


def test_the_files_of_results_are_no_buttons_of_orthancs_own_list(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    analysed(server, slide, CONTAINER)
    server.request("PUT", f"/series/{slide}/attachments/4000", data=b"a site's own").raise_for_status()
    panel_on(faultless, "series", slide)
    listed = server.get(f"/series/{slide}/attachments").json()
    assert {"4000", "5101"} < set(listed)
    # Newer DICOMweb plugins keep a file of their own at a series, 4301, which is theirs to show; a newer
    # Explorer puts quotation marks around the number.
    others = [re.compile(f'^Download (attachment ")?{name}') for name in listed if int(name) < 5100]
    buttons = faultless.page.locator("#series-access li.series-attachment")
    expect(buttons).to_have_text(others)
    screenshot(faultless, "explorer-attachments")
    # Orthanc Explorer makes its list anew whenever the page is shown.
    faultless.page.go_back()
    panel_on(faultless, "series", slide)
    expect(buttons).to_have_text(others)


def test_the_panel_and_the_pages_own_folders_lead_to_all_analyses(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    panel = panel_on(faultless, "series", slide)
    with faultless.page.context.expect_page() as opened:
        panel.get_by_text("All analyses").click()
    opened.value.wait_for_selector("body[data-ready]")
    for address in ("/pathology/app", "/pathology/app/", "/pathology", "/pathology/"):
        faultless.page.goto(f"{server.url}{address}")
        faultless.page.wait_for_selector("body[data-ready]")
        assert faultless.page.url == f"{server.url}/pathology/app/worklist.html"


def test_the_panel_speaks_korean_where_that_was_chosen(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    analysed(server, slide, CONTAINER)
    faultless.page.goto(f"{server.url}/pathology/app/worklist.html")
    faultless.page.click("button[lang=ko]")
    panel = panel_on(faultless, "series", slide)
    expect(panel.locator("h2").first).to_have_text("AI 분석")
    panel.locator("button.result").click()
    expect(panel.locator("dialog")).to_contain_text("시연용 결과입니다. 임상 진단에 사용하지 마십시오.")
    screenshot(faultless, "explorer-ko")


def test_progress_does_not_take_the_keyboards_focus_away(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=start]").click()
    worker = FakeWorker(server)
    worker.claim()
    worker.report("tissue", 0.05)
    expect(panel.locator(".stage")).to_have_text("Finding tissue 5%")
    cancel = panel.locator("[data-action=cancel]")
    cancel.focus()
    worker.report("encode", 0.5)
    expect(panel.locator(".stage")).to_have_text("Encoding patches 50%")
    expect(cancel).to_be_focused()


def test_two_browsers_on_one_slide_see_the_same(server: OrthancServer, faultless: Visit, slide: str) -> None:
    panel = panel_on(faultless, "series", slide)
    with open_browser(server, faultless.browser) as second:
        other = panel_on(second, "series", slide)
        panel.locator("[data-action=start]").click()
        other.locator("[data-action=start]").click()
        for one in (panel, other):
            expect(one.locator(".stage")).to_contain_text("Waiting for a worker")
        assert server.get("/pathology/requests/").json()["count"] == 1
        other.locator("[data-action=cancel]").click()
        expect(panel.locator(".state")).to_contain_text("The analysis was cancelled")
        assert second.problems == []


def test_the_result_of_a_slide_that_was_deleted_meanwhile_is_said_to_be_gone(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    analysed(server, slide)
    panel = panel_on(visit, "series", slide)
    server.request("DELETE", f"/series/{slide}").raise_for_status()
    panel.locator("button.result").click()
    expect(panel.locator("dialog [role=alert]")).to_contain_text("The slide was deleted from Orthanc")


def test_the_page_survives_a_restart_of_orthanc(server: OrthancServer, faultless: Visit, slide: str) -> None:
    panel = panel_on(faultless, "series", slide)
    panel.locator("[data-action=start]").click()
    expect(panel.locator(".stage")).to_contain_text("Waiting for a worker")
    server.stop()
    notice = panel.locator("[role=alert]")
    expect(notice).to_contain_text("The server does not answer")
    faultless.problems.clear()
    server.start()
    expect(notice).to_be_hidden(timeout=60_000)
    faultless.problems.clear()
    worker = FakeWorker(server)
    worker.claim()
    worker.report("tissue", 0.05)
    expect(panel.locator(".stage")).to_have_text("Finding tissue 5%")
