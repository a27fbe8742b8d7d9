# SPDX-License-Identifier: Apache-2.0
"""The panel for OHIF in a viewer that is none: what a real one cannot be made to do on purpose."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.analysed_slide import HEIGHT, WIDTH, analysed, submit, top_patches
from tests.support.browser import Visit
from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer

OPEN_PANEL = """
async ([study, series, width, height]) => {
  const { AnalysisPanel } = await import("./ohif/panel.js");
  const viewport = document.createElement("div");
  const map = { on() {}, un() {}, getViewport: () => viewport, getPixelFromCoordinate: ([x, y]) => [x, -y] };
  const finest = {
    StudyInstanceUID: study,
    SeriesInstanceUID: series,
    TotalPixelMatrixColumns: width,
    TotalPixelMatrixRows: height,
  };
  const viewer = { [Symbol("map")]: map, [Symbol("pyramid")]: { metadata: [finest] } };
  const microscopyService = { getAllManagedViewers: () => [{ viewer, viewportId: "1" }] };
  const host = document.createElement("div");
  host.id = "ohif";
  document.body.replaceChildren(viewport, host);
  new AnalysisPanel({ microscopyService }).mount(host);
}
"""

SHOW_TWICE = """
async ([request, second]) => {
  const { AttentionMap } = await import("./ohif/attention_map.js");
  const held = [];
  const shown = new Set();
  const viewer = {
    addParameterMappings: (maps) => held.push({ uid: String(held.length), maps }),
    getAllParameterMappings: () => held,
    showParameterMapping: (uid) => shown.add(uid),
    hideParameterMapping: (uid) => shown.delete(uid),
  };
  const library = { metadata: { ParametricMap: class {} } };
  const service = { importDicomMicroscopyViewer: async () => library };
  const map = new AttentionMap(viewer, service, request);
  const first = map.show(0.6);
  if (second === "show") await map.show(0.6);
  else map.hide();
  await first;
  return [held.length, shown.size];
}
"""


def open_panel(visit: Visit, series: str) -> Page:
    """Open the panel at a slide, on a page of ours that is emptied for it."""
    server, page = visit.server, visit.page
    tags = server.get(f"/series/{series}").json()["MainDicomTags"]
    study = server.get(f"/series/{series}/study").json()["MainDicomTags"]["StudyInstanceUID"]
    page.goto(f"{server.url}/pathology/app/worklist.html")
    page.evaluate(OPEN_PANEL, [study, tags["SeriesInstanceUID"], WIDTH, HEIGHT])
    return page


def test_an_overlay_that_could_not_be_had_at_first_is_shown_as_soon_as_it_can(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    analysed(server, slide)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route.request.url)
        route.fulfill(status=503, body="busy")

    visit.page.route("**/overlay.png", refuse_once)
    page = open_panel(visit, slide)
    page.wait_for_selector("[data-pathology=overlay] canvas[style*=matrix]", state="attached")
    assert refused
    assert page.locator("[data-pathology=overlay]").count() == 1


@pytest.mark.parametrize("status", [404, 503])
def test_the_patches_are_those_of_the_result_above_them_also_where_its_overlay_cannot_be_had(
    server: OrthancServer, visit: Visit, slide: str, status: int
) -> None:
    analysed(server, slide)
    page = open_panel(visit, slide)
    expect(page.locator(".patch")).to_have_count(24)
    page.route("**/overlay.png", lambda route: route.fulfill(status=status, body="no"))
    probabilities = {"normal": 0.7, "oscc": 0.3}
    fewer = top_patches()[:3]
    analysed(server, slide, predicted_class="normal", probabilities=probabilities, top_patches=fewer)
    look_again(page)
    expect(page.locator(".verdict")).to_contain_text("normal")
    expect(page.locator(".patch")).to_have_count(3)
    expect(page.locator("#analyse")).to_be_visible()


def test_no_picture_of_a_result_stays_under_another_whose_pictures_are_still_coming(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    analysed(server, slide)
    page = open_panel(visit, slide)
    expect(page.locator(".patch")).to_have_count(24)
    page.route("**/overlay.png", lambda route: None)
    page.route("**/wsi/pyramids/**", lambda route: None)
    analysed(server, slide, predicted_class="normal", probabilities={"normal": 0.7, "oscc": 0.3})
    look_again(page)
    expect(page.locator(".verdict")).to_contain_text("normal")
    expect(page.locator(".patch")).to_have_count(0)


def test_no_result_is_shown_while_a_slide_lies_under_two_patients_with_the_same_uids(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    analysed(server, slide)
    patient = server.get(f"/series/{slide}/patient").json()["ID"]
    copied = {
        "Replace": {"PatientID": "RIGHT", "PatientName": "RIGHT"},
        "Keep": ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
        "KeepSource": True,
        "Force": True,
    }
    server.post(f"/patients/{patient}/modify", json=copied).raise_for_status()
    page = open_panel(visit, slide)
    expect(page.locator(".notice")).to_contain_text("several patients")
    expect(page.locator(".verdict")).to_have_count(0)
    expect(page.locator("#analyse")).to_have_count(0)

    server.request("DELETE", f"/patients/{patient}").raise_for_status()
    (series,) = (one["ID"] for one in server.get("/series?expand").json())
    page = open_panel(visit, series)
    expect(page.locator("#analyse")).to_be_visible()
    expect(page.locator(".verdict")).to_have_count(0)


def test_a_failed_analysis_gives_way_to_the_result_that_stands_and_is_named_beside_it(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    analysed(server, slide)
    failed = submit(server, slide)
    page = open_panel(visit, slide)
    expect(page.locator("[data-part=state]")).to_contain_text("Waiting for a worker")
    expect(page.locator("p.beside")).to_contain_text("Earlier result of this slide: oscc 91.8%")
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("disk_full", "No space left.")
    expect(page.locator(".verdict")).to_contain_text("oscc")
    expect(page.locator("p.beside")).to_contain_text("There is a newer analysis of this slide: Failed")
    link = page.locator("#beside-page").get_attribute("href")
    assert link is not None
    assert link.endswith(f"/pathology/app/result.html?request={failed}")


def test_why_an_analysis_waits_is_said_as_it_is_now(
    without_workers: OrthancServer, visit: Visit, slide: str
) -> None:
    server = without_workers
    server.post("/pathology/analyze", json={"series": slide, "model": "lung-nsclc"}).raise_for_status()

    def hold_shortly(route: Route) -> None:
        route.continue_(url=route.request.url.replace("wait=25", "wait=1"))

    visit.page.route("**/*wait=25*", hold_shortly)
    page = open_panel(visit, slide)
    expect(page.locator("[data-part=state] .note")).to_contain_text("No worker is alive")
    FakeWorker(server).offer()
    expect(page.locator("[data-part=state] .note")).to_contain_text("Offered are: oral-scc-demo")


def look_again(page: Page) -> None:
    """Let the panel look now; left alone it looks once a minute, and when its page comes into view."""
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_a_map_that_is_asked_for_twice_is_added_once(server: OrthancServer, visit: Visit) -> None:
    assert asked_twice(visit, "show") == [1, 1]


def test_a_map_that_is_hidden_before_it_came_stays_hidden(server: OrthancServer, visit: Visit) -> None:
    assert asked_twice(visit, "hide") == [1, 0]


def asked_twice(visit: Visit, second: str) -> list[int]:
    """Show a stored map, and show or hide it before the first answer; return how many are held and shown."""
    parametric_map = [{"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.30"]}}]
    visit.page.route("**/dicom-web/**", lambda route: route.fulfill(json=parametric_map))
    visit.page.goto(f"{visit.server.url}/pathology/app/worklist.html")
    request = {"study_instance_uid": "1.2", "dicom": [{"modality": "OT", "series_instance_uid": "1.2.3"}]}
    held: list[int] = visit.page.evaluate(SHOW_TWICE, [request, second])
    return held
