# SPDX-License-Identifier: Apache-2.0
"""The analysis in OHIF: the pinned viewer in a real Chromium, nginx in front of a real Orthanc.

A minute to a minute and a half for each version of OHIF, and 50 MB from npm for each the first time: `make
test-ohif` runs them, a plain `make test` does not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from demo.errors import DemoError
from demo.ohif import NGINX, SHA512, VERSION, ohif_dist, one_origin
from tests.support.analysed_slide import HEIGHT, WIDTH, analysed, deliver, top_patches
from tests.support.browser import SELECTOR_MS, Visit, open_browser
from tests.support.dicom_files import slide_folder
from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer, free_port, store_slide
from tests.support.worker_process import WorkerProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif("OHIF" not in os.environ, reason="takes minutes and npm; run: make test-ohif"),
]

VERSIONS = os.environ.get("OHIF", VERSION).replace("all", ",".join(SHA512)).split(",")
CONTAINER = "CMU-1-Small-Region"

# Corners of the overlay on the screen, and where the map itself puts the slide's corners.
CORNERS = """
layer => {
  const canvas = layer.querySelector("canvas");
  const matrix = new DOMMatrix(getComputedStyle(canvas).transform);
  const box = layer.getBoundingClientRect();
  return [[0, 0], [canvas.width, 0], [canvas.width, canvas.height], [0, canvas.height]].map(([x, y]) => {
    const point = matrix.transformPoint(new DOMPoint(x, y));
    return [box.left + point.x, box.top + point.y];
  });
}
"""
MAP_CORNERS = """
([width, height]) => {
  const { microscopyService } = window.services;
  const { viewer } = microscopyService.getAllManagedViewers()[0];
  const map = viewer[Object.getOwnPropertySymbols(viewer).find(one => one.description === "map")];
  const box = map.getViewport().getBoundingClientRect();
  return [[0, -1], [width, -1], [width, -1 - height], [0, -1 - height]].map(corner => {
    const [x, y] = map.getPixelFromCoordinate(corner);
    return [box.left + x, box.top + y];
  });
}
"""


# Without a graphics card and on a busy machine a picture of the map may take longer than any fixed wait.
DRAWN = """
async () => {
  const { viewer } = window.services.microscopyService.getAllManagedViewers()[0];
  const map = viewer[Object.getOwnPropertySymbols(viewer).find(one => one.description === "map")];
  const view = map.getView();
  while (view.getAnimating() || view.getInteracting()) await new Promise(requestAnimationFrame);
  await new Promise(done => {
    map.once("postrender", () => done());
    map.render();
  });
}
"""


@dataclass(frozen=True)
class Site:
    """OHIF and Orthanc on one origin."""

    url: str
    person: tuple[str, str]
    orthanc: OrthancServer
    study: str


@pytest.fixture(scope="module", params=VERSIONS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not NGINX.exists():
        pytest.skip("needs nginx: apt-get install --no-install-recommends nginx-light")
    if shutil.which("npm") is None:
        pytest.skip("needs npm, from which OHIF comes: apt-get install npm")
    try:
        dist = ohif_dist(request.param)
    except DemoError as error:
        pytest.skip(str(error))
    with ExitStack() as stack:
        orthanc = stack.enter_context(OrthancServer())
        folder = tmp_path_factory.mktemp("nginx")
        url = stack.enter_context(one_origin(folder, dist, orthanc.port, free_port()))
        series = store_slide(orthanc, slide_folder())
        study = orthanc.get(f"/series/{series}/study").json()["MainDicomTags"]["StudyInstanceUID"]
        yield Site(url, orthanc.person, orthanc, study)


@pytest.fixture(scope="module")
def browser(site: Site, chromium: Browser) -> Iterator[Visit]:
    """One profile for all tests of a version: opening OHIF is what costs."""
    with open_browser(site, chromium) as opened:  # type: ignore[arg-type]
        yield opened


@pytest.fixture
def visit(browser: Visit) -> Iterator[Visit]:
    """A visit during which nothing may go wrong."""
    browser.problems.clear()
    yield browser
    assert browser.problems == []


@pytest.fixture
def unanalysed(site: Site, browser: Visit) -> Site:
    """The slide without any request: Orthanc forgets them with the study."""
    # The page of the test before may still be asking for the pictures of what goes now.
    browser.page.goto("about:blank")
    site.orthanc.delete_all()
    store_slide(site.orthanc, slide_folder())
    return site


@pytest.fixture
def shown(site: Site, visit: Visit) -> Visit:
    """A visit at the slide with its result."""
    if visit.page.locator("#panel .verdict .share").count() == 0:
        analysed(site.orthanc, series_of(site), CONTAINER)
        open_slide(visit, site)
    wait_for_overlay(visit.page)
    return visit


def series_of(site: Site) -> str:
    series: list[str] = site.orthanc.get("/series").json()
    assert len(series) == 1
    return series[0]


def open_slide(visit: Visit, site: Site) -> Locator:
    """Open the slide in OHIF; return our panel once it knows the slide."""
    visit.page.goto(f"{site.url}/microscopy?StudyInstanceUIDs={site.study}")
    panel = visit.page.locator("#panel")
    known = panel.locator("#analyse, [data-part=state] .stage, #predicted-class").first
    expect(known).to_be_visible(timeout=2 * SELECTOR_MS)
    if (notice := visit.page.get_by_role("button", name="Confirm and hide")).is_visible():
        notice.click()
    return panel


def wait_for_overlay(page: Page) -> None:
    page.wait_for_selector("[data-pathology=overlay] canvas[style*=matrix]", state="attached")
    assert page.locator("[data-pathology=overlay]").count() == 1
    page.wait_for_selector("#panel .patch")
    come_to_rest(page)


def come_to_rest(page: Page) -> None:
    """Wait until the map stands still and is drawn there; a wheel's turn begins a moment after its event."""
    before, now = None, drawn_corners(page)
    while now != before:
        page.wait_for_timeout(400)
        before, now = now, drawn_corners(page)


def drawn_corners(page: Page) -> object:
    """Return where the map has the slide's corners, once it has been drawn there."""
    page.evaluate(DRAWN)
    return page.evaluate(MAP_CORNERS, [WIDTH, HEIGHT])


def corners(page: Page) -> tuple[list[float], list[float]]:
    """Return the overlay's corners on the screen, and those of the slide as the map has them."""
    overlay = page.locator("[data-pathology=overlay]").evaluate(CORNERS)
    wanted = page.evaluate(MAP_CORNERS, [WIDTH, HEIGHT])
    return [value for point in overlay for value in point], [value for point in wanted for value in point]


def keep(page: Page, name: str) -> None:
    """Keep a picture of the page where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_overlay_lies_on_the_slide_at_every_zoom_and_place(shown: Visit) -> None:
    page = shown.page
    keep(page, "ohif-result")
    middle = page.locator("[data-pathology=overlay]").bounding_box()
    assert middle is not None
    x, y = middle["x"] + middle["width"] / 2, middle["y"] + middle["height"] / 2
    seen = []
    for wheel, drag in ((0, 0), (-40, 60), (-60, -120), (-300, 200)):
        page.mouse.move(x, y)
        page.mouse.wheel(0, wheel)
        come_to_rest(page)
        page.mouse.down(button="middle")
        page.mouse.move(x + drag, y + drag, steps=4)
        page.mouse.up(button="middle")
        come_to_rest(page)
        painted, wanted = corners(page)
        assert painted == pytest.approx(wanted, abs=2)
        seen.append(tuple(wanted))
    assert len(set(seen)) == 4
    keep(page, "ohif-zoomed")


def test_the_overlay_turns_with_the_slide(shown: Visit) -> None:
    turn = """by => {
      const { viewer } = window.services.microscopyService.getAllManagedViewers()[0];
      const map = viewer[Object.getOwnPropertySymbols(viewer).find(one => one.description === "map")];
      map.getView().adjustRotation(by);
    }"""
    shown.page.evaluate(turn, 0.5)
    come_to_rest(shown.page)
    painted, wanted = corners(shown.page)
    assert painted == pytest.approx(wanted, abs=2)
    edge = [wanted[2] - wanted[0], wanted[3] - wanted[1]]
    assert min(abs(length) for length in edge) > 50
    shown.page.evaluate(turn, -0.5)
    come_to_rest(shown.page)


def test_opacity_and_switch_change_the_overlay(shown: Visit) -> None:
    page = shown.page
    overlay = page.locator("[data-pathology=overlay]")
    strongest = """canvas => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.reduce((most, value, at) => (at % 4 === 3 ? Math.max(most, value) : most), 0);
    }"""
    page.locator("#opacity").fill("25")
    assert overlay.locator("canvas").first.evaluate(strongest) == pytest.approx(0.25 * 255, abs=1)
    page.locator("#heat").uncheck()
    assert not overlay.is_visible()
    page.locator("#heat").check()
    assert overlay.is_visible()


def test_the_overlay_stays_while_another_tab_of_the_panel_is_looked_at(shown: Visit) -> None:
    page = shown.page
    page.locator("[data-cy=measure-btn]").click()
    expect(page.locator("#panel")).to_have_count(0)
    assert page.locator("[data-pathology=overlay]").is_visible()
    page.locator("[data-cy=analysis-btn]").click()
    expect(page.locator("#panel #predicted-class")).to_be_visible()
    assert page.locator("[data-pathology=overlay]").count() == 1


def test_a_patch_of_the_list_brings_its_place_into_view(shown: Visit) -> None:
    page = shown.page
    page.locator("#panel .patch").nth(2).click()
    come_to_rest(page)
    keep(page, "ohif-patch")
    box = top_patches()[2]
    centre = page.evaluate("""() => {
      const { viewer } = window.services.microscopyService.getAllManagedViewers()[0];
      const map = viewer[Object.getOwnPropertySymbols(viewer).find(one => one.description === "map")];
      return map.getView().getCenter();
    }""")
    assert centre == pytest.approx([box["x"] + box["width"] / 2, -(box["y"] + box["height"] / 2 + 1)], abs=2)


def test_the_panel_leads_to_the_result_page(shown: Visit, site: Site) -> None:
    with shown.page.context.expect_page() as opened:
        shown.page.locator("#result-page").click()
    opened.value.wait_for_selector("body[data-pictures=shown]")
    assert opened.value.url.startswith(f"{site.url}/pathology/app/result.html?request=")
    opened.value.close()


def test_from_the_button_to_the_result_without_a_reload(unanalysed: Site, visit: Visit) -> None:
    panel = open_slide(visit, unanalysed)
    panel.locator("#analyse").click()
    expect(panel.locator("#stage")).to_contain_text("Waiting for a worker")
    worker = FakeWorker(unanalysed.orthanc)
    worker.claim()
    worker.report("encode", 0.42, "35 of 84 tiles")
    expect(panel.locator("#stage")).to_have_text("Encoding patches 42%")
    keep(visit.page, "ohif-running")
    deliver(worker, CONTAINER)
    expect(panel.locator("#predicted-class")).to_contain_text("oscc")
    expect(panel.locator("#probabilities")).to_contain_text("91.8%")
    expect(panel.locator("#demonstration")).to_have_text("Demonstration. Not for clinical use.")
    wait_for_overlay(visit.page)


def test_a_failure_and_an_abstention_are_said_in_words(unanalysed: Site, visit: Visit) -> None:
    panel = open_slide(visit, unanalysed)
    panel.locator("#analyse").click()
    worker = FakeWorker(unanalysed.orthanc)
    worker.claim()
    worker.fail("no_tissue", "The slide looks empty.")
    state = panel.locator("[data-part=state]")
    expect(state).to_contain_text("No tissue was found on the slide.")
    keep(visit.page, "ohif-failed")
    panel.locator("[data-action=retry]").click()
    expect(panel.locator("#stage")).to_contain_text("Waiting for a worker")
    again = FakeWorker(unanalysed.orthanc)
    again.claim()
    quality = {"status": "abstained", "flags": ["little_tissue"], "reason": "0.4 mm2 of tissue."}
    deliver(again, CONTAINER, quality=quality)
    expect(panel.locator("#predicted-class")).to_have_text("The model abstains")
    expect(panel.locator("#quality")).to_contain_text("There is little tissue on the slide.")
    keep(visit.page, "ohif-abstained")


def test_what_a_real_worker_stored_is_drawn_as_a_dicom_map(
    unanalysed: Site, visit: Visit, tmp_path: Path
) -> None:
    server = unanalysed.orthanc
    with WorkerProcess.at(server, tmp_path / "worker"):
        panel = open_slide(visit, unanalysed)
        panel.locator("#analyse").click()
        expect(panel.locator("#predicted-class")).to_be_visible(timeout=5 * SELECTOR_MS)
    wait_for_overlay(visit.page)
    keep(visit.page, "ohif-real")
    page = panel.locator("#result-page").get_attribute("href")
    assert page is not None
    request = server.get(f"/pathology/requests/{page.partition('request=')[2]}").json()["request"]
    map_series = next(
        one["series_instance_uid"] for one in request["dicom"] if one["modality"] not in {"SR", "SM"}
    )
    with visit.page.expect_response(
        lambda answer: map_series in answer.url and "/frames/" in answer.url
    ) as frame:
        panel.locator("#attention-map").check()
    assert frame.value.status == 200
    come_to_rest(visit.page)
    painted, wanted = corners(visit.page)
    assert painted == pytest.approx(wanted, abs=2)
    keep(visit.page, "ohif-map")


def test_a_second_analysis_is_begun_only_knowingly(unanalysed: Site, visit: Visit) -> None:
    analysed(unanalysed.orthanc, series_of(unanalysed), CONTAINER)
    panel = open_slide(visit, unanalysed)
    wait_for_overlay(visit.page)
    panel.locator("#analyse").click()
    expect(panel.locator("dialog.question")).to_contain_text("91.8%")
    keep(visit.page, "ohif-again")
    before = unanalysed.orthanc.get("/pathology/requests/").json()["count"]
    panel.locator("[data-answer=keep]").click()
    expect(panel.locator("dialog.question")).to_have_count(0)
    assert unanalysed.orthanc.get("/pathology/requests/").json()["count"] == before
    panel.locator("#analyse").click()
    panel.locator("[data-answer=again]").click()
    expect(panel.locator("#stage")).to_contain_text("Waiting for a worker")


def test_names_with_markup_are_shown_and_run_nothing(site: Site, browser: Visit, tmp_path: Path) -> None:
    browser.page.goto("about:blank")
    browser.problems.clear()

    def note_dialog(dialog: Dialog) -> None:
        browser.problems.append(dialog.message)
        dialog.dismiss()

    browser.page.on("dialog", note_dialog)
    site.orthanc.delete_all()
    markup = "<img src=x onerror='window.hurt=1'>"
    for path in slide_folder().glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "<script>alert(1)</script>"
        dataset.PatientID = dataset.ContainerIdentifier = markup
        dataset.StudyDescription = dataset.SeriesDescription = markup
        dataset.save_as(tmp_path / path.name)
    series = store_slide(site.orthanc, tmp_path)
    told = {
        "predicted_class": markup,
        "probabilities": {markup: 0.9, "normal": 0.1},
        "model": {"name": markup, "version": "1", "intended_use": markup, "use": "demonstration"},
        "quality": {"status": "limited", "flags": [markup], "reason": markup},
    }
    analysed(site.orthanc, series, markup, **told)
    panel = open_slide(browser, site)
    wait_for_overlay(browser.page)
    expect(panel.locator("#predicted-class")).to_contain_text(markup)
    expect(panel.locator("[data-part=identity]")).to_contain_text(markup)
    expect(panel.locator("#quality")).to_contain_text(markup)
    keep(browser.page, "ohif-markup")
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth"), "a long name is cut"
    assert browser.page.evaluate("window.hurt") is None
    # An element made of it would have asked the server for its picture.
    assert browser.problems == []
