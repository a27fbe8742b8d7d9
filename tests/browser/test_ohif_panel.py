# SPDX-License-Identifier: Apache-2.0
"""The panel for OHIF in a viewer that is none: what a real one cannot be made to do on purpose."""

from __future__ import annotations

from playwright.sync_api import Page, Route

from tests.support.analysed_slide import HEIGHT, WIDTH, analysed
from tests.support.browser import Visit
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
