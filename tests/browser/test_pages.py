# SPDX-License-Identifier: Apache-2.0
"""The plugin's result page and worklist: a real Chromium on a real Orthanc, with a worker of the test's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from shapely.geometry import shape

from clam_core.heatmap import ScoreMap, paint
from tests.support.analysed_slide import CONTAINER, HEIGHT, WIDTH, analysed, deliver, png, submit, top_patches
from tests.support.browser import Visit, open_browser
from tests.support.dicom_files import another_slide, ct_file, slide_folder
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer, store_file, store_slide

pytestmark = pytest.mark.browser

SCRIPT_IN_A_NAME = "<script>alert(1)</script>"
SCRIPT_IN_A_TEXT = "<img src=x onerror=document.title='owned'>"

# Where the overlay's corners are on the screen, by the pixels that were painted; and where OpenSeadragon puts
# the corners of the slide.
PAINTED_BOX = """
view => {
  const { canvas } = view;
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) {
    if (data[4 * (y * width + x) + 3] === 0) continue;
    left = Math.min(left, x); right = Math.max(right, x + 1);
    top = Math.min(top, y); bottom = Math.max(bottom, y + 1);
  }
  return [left, top, right, bottom].map(edge => edge / devicePixelRatio);
}
"""
SLIDE_BOX = """
view => {
  const { world } = view.viewer;
  const slide = world.getItemAt(world.getItemCount() - 1);
  const size = slide.getContentSize();
  const start = slide.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const end = slide.imageToViewerElementCoordinates(size);
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  const { clientWidth: w, clientHeight: h } = view;
  return [within(start.x, w), within(start.y, h), within(end.x, w), within(end.y, h)];
}
"""
PAINTED_PIXELS = """
view => {
  const { canvas } = view;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, at) => at % 4 === 3 && value > 0).length;
}
"""
OPAQUE_PIXELS = """
canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, at) => at % 4 === 3 && value === 255).length;
}
"""
CENTRE = "view => { const c = view.viewer.viewport.getCenter(true); return [c.x, c.y]; }"
AT_REST = """
() => {
  const { viewport } = document.querySelector("slide-view").viewer;
  const [now, then] = [viewport.getBounds(true), viewport.getBounds(false)];
  return ["x", "y", "width", "height"].every(side => Math.abs(now[side] - then[side]) < 1e-6);
}
"""


def open_result(visit: Visit, request_id: str) -> Page:
    visit.page.goto(f"{visit.server.url}/pathology/app/result.html?request={request_id}")
    return visit.page


def open_worklist(visit: Visit) -> Page:
    visit.page.goto(f"{visit.server.url}/pathology/app/worklist.html")
    visit.page.wait_for_selector("body[data-ready]")
    return visit.page


def wait_for_pictures(page: Page) -> None:
    page.wait_for_selector("body[data-pictures=shown]")
    come_to_rest(page)


def come_to_rest(page: Page) -> None:
    """Wait until the view is where it is going to, and has been drawn there."""
    page.wait_for_function(AT_REST)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def named_slide(folder: Path, **tags: str) -> Path:
    path = another_slide(folder, container_id=tags.get("ContainerIdentifier", CONTAINER))
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def test_a_result_is_shown_on_its_slide_with_everything_that_it_rests_on(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    tags = {"PatientName": "Kim^Min-jun", "PatientID": "P-00417", "StudyDate": "20261120"}
    series = store_file(server, named_slide(tmp_path, **tags))["ParentSeries"]
    request_id = analysed(server, series, CONTAINER)
    page = open_result(faultless, request_id)
    wait_for_pictures(page)
    screenshot(faultless, "result")
    assert page.inner_text("#container") == CONTAINER
    identity = page.inner_text("#identity")
    for expected in ("Kim Min-jun", "P-00417", "2026-11-20"):
        assert expected in identity
    assert "oscc" in page.inner_text("#predicted-class")
    assert "91.8%" in page.inner_text("#probabilities")
    assert page.is_visible("#demonstration")
    text = page.inner_text("main")
    for expected in (
        "has not approved the model",
        "oral-scc-demo 1",
        "5" * 64,
        "efficientnet-lite0",
        "lab-1",
        "3.1 s",
    ):
        assert expected in text
    assert page.title().startswith(CONTAINER)


def test_the_address_of_a_slide_leads_to_its_latest_analysis_and_that_to_the_one_it_repeats(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = faultless.page
    page.goto(f"{server.url}/pathology/app/result.html?series={slide}")
    expect(page.locator("#notice")).to_have_text("This slide has not been analysed.")
    first = analysed(server, slide)
    latest = analysed(server, slide)
    page.goto(f"{server.url}/pathology/app/result.html?series={slide}")
    wait_for_pictures(page)
    assert page.url.endswith(f"?request={latest}")
    expect(page.locator(f'a[href="result.html?request={first}"]')).to_have_text(first)


def test_a_slide_without_an_analysis_is_named_and_leads_to_where_it_can_be_analysed(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    series = store_file(server, named_slide(tmp_path, PatientName="Kim^Min-jun"))["ParentSeries"]
    page = faultless.page
    page.goto(f"{server.url}/pathology/app/result.html?series={series}")
    expect(page.locator("#notice")).to_have_text("This slide has not been analysed.")
    expect(page.locator("#container")).to_have_text(CONTAINER)
    expect(page.locator("#identity")).to_contain_text("Kim Min-jun")
    screenshot(faultless, "result-none")
    page.click("text=Open in Orthanc")
    page.wait_for_selector("#pathology-series")
    assert page.url == f"{server.url}/app/explorer.html#series?uuid={series}"


def test_what_is_no_slide_and_what_is_not_there_are_not_called_unanalysed(
    server: OrthancServer, visit: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    page = visit.page
    series = store_file(server, ct_file(tmp_path))["ParentSeries"]
    page.goto(f"{server.url}/pathology/app/result.html?series={series}")
    expect(page.locator("#notice")).to_have_text("This series is not a whole-slide image.")
    expect(page.locator("#container")).to_have_text("No slide")
    expect(page.locator("#explorer")).to_be_visible()
    screenshot(visit, "result-ct")
    server.request("DELETE", f"/series/{series}").raise_for_status()
    page.goto(f"{server.url}/pathology/app/result.html?series={series}")
    expect(page.locator("#notice")).to_have_text("Orthanc has no such series. It may have been deleted.")
    expect(page.locator("#container")).to_have_text("No slide")
    expect(page.locator("#explorer")).to_be_hidden()
    screenshot(visit, "result-no-series")


def failed_afterwards(server: OrthancServer, slide: str) -> str:
    """Fail another analysis of a slide; return its request's id."""
    request_id = submit(server, slide)
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("disk_full", "No space left.")
    return request_id


def test_a_later_failure_does_not_take_the_place_of_a_slides_result(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    result = analysed(server, slide)
    failed = failed_afterwards(server, slide)
    page = faultless.page
    page.goto(f"{server.url}/pathology/app/result.html?series={slide}")
    wait_for_pictures(page)
    assert page.url.endswith(f"?request={result}")
    expect(page.locator("#beside")).to_contain_text("There is a newer analysis of this slide: Failed")
    page.click("#beside a")
    expect(page.locator("#state")).to_contain_text("The analysis failed")
    assert page.url.endswith(f"?request={failed}")
    expect(page.locator("#beside")).to_contain_text("Earlier result of this slide: oscc 91.8%")
    screenshot(faultless, "result-failed-with-earlier")
    page.click("#beside a")
    expect(page.locator("#predicted-class")).to_contain_text("oscc")


def test_an_older_result_says_that_there_is_a_newer_one(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    older = analysed(server, slide, predicted_class="normal", probabilities={"normal": 0.7, "oscc": 0.3})
    newer = analysed(server, slide)
    page = open_result(faultless, older)
    wait_for_pictures(page)
    expect(page.locator("#beside")).to_contain_text("There is a newer result of this slide: oscc 91.8%")
    screenshot(faultless, "result-older")
    open_result(faultless, newer)
    wait_for_pictures(page)
    expect(page.locator("#beside")).to_be_hidden()


def test_an_overlay_that_could_not_be_had_at_first_is_laid_on_as_soon_as_it_can(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    request_id = analysed(server, slide)
    visit.page.route("**/overlay.png", lambda route: route.fulfill(status=503, body="busy"))
    page = open_result(visit, request_id)
    expect(page.locator(".patch")).to_have_count(24)
    expect(page.locator("#notice")).to_contain_text("busy")
    page.unroute("**/overlay.png")
    wait_for_pictures(page)
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#legend")).to_be_visible()


def test_an_overlay_that_is_not_there_is_said_in_words_for_as_long_as_its_slide_is_shown(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    request_id = analysed(server, slide)
    gone = {"code": "unknown_artifact", "error": "There is no overlay.png of this request."}
    visit.page.route("**/overlay.png", lambda route: route.fulfill(status=404, json=gone))
    page = open_result(visit, request_id)
    expect(page.locator("#notice")).to_contain_text(gone["error"])
    expect(page.locator(".patch")).to_have_count(24)
    with page.expect_response(f"**/pathology/requests/{request_id}"):
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(500)
    expect(page.locator("#notice")).to_contain_text(gone["error"])


def test_of_a_hundred_patches_the_first_are_shown_and_the_others_on_demand(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    many = [{**one, "percentile": 50.0} for one in (top_patches() * 4)[:100]]
    page = open_result(faultless, analysed(server, slide, top_patches=many))
    wait_for_pictures(page)
    assert page.locator(".patch").count() == 24
    page.locator(".more").click()
    assert page.locator(".patch").count() == 100
    page.locator(".patch").nth(99).click()
    assert page.locator(".patch").nth(99).get_attribute("aria-current") == "true"


def test_the_slide_is_drawn_from_tiles_and_its_label_never_is(
    server: OrthancServer, faultless: Visit
) -> None:
    slide = store_slide(server, slide_folder())
    tiles = faultless.requests_to("/wsi/tiles/")
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    # Orthanc lists the label (387 x 463) as a resolution of the slide; orthanc-wsi 3.2 the thumbnail instead.
    sizes = server.get(f"/wsi/pyramids/{slide}").json()["Sizes"]
    drawn = [sizes[int(level)] for level in {url.split("/")[-3] for url in tiles}]
    assert [2220, 2967] in drawn
    assert [size for size in drawn if size not in ([2220, 2967], [574, 768])] == []


def test_pictures_that_are_not_the_slide_are_no_level_of_it(server: OrthancServer, faultless: Visit) -> None:
    pyramid = {"Sizes": [[4000, 3000], [2000, 1500], [1000, 750], [400, 500]], "TilesSizes": [[512, 512]] * 4}
    levels = open_worklist(faultless).evaluate(
        """async ([pyramid, tags]) => {
          const { otherPictures, slideLevels } = await import("./pyramid.js");
          return slideLevels(pyramid, otherPictures(tags)).map(level => level.z);
        }""",
        [pyramid, [{"ImageType": "ORIGINAL\\PRIMARY\\LABEL\\NONE", "Columns": "1000", "Rows": "750"}]],
    )
    # One label has the slide's own proportions and is known by its type, the other is known by its shape.
    assert levels == [0, 1]


def test_a_whole_slide_asks_for_its_coarse_tiles_and_a_close_look_for_the_fine_ones_in_view(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    tiles = faultless.requests_to("/wsi/tiles/")
    series = store_slide(server, pyramid_folder(tmp_path / "levels"))
    faultless.page.set_viewport_size({"width": 1280, "height": 720})
    page = open_result(faultless, analysed(server, series, names=("overlay.png",), top_patches=[]))
    wait_for_pictures(page)
    page.wait_for_load_state("networkidle")
    screenshot(faultless, "result-pyramid")
    assert {url.split("/")[-3] for url in tiles} <= {"1", "2"}
    tiles.clear()
    page.locator("slide-view").evaluate("view => view.zoom(6)")
    come_to_rest(page)
    page.wait_for_load_state("networkidle")
    screenshot(faultless, "result-pyramid-close")
    assert "0" in {url.split("/")[-3] for url in tiles}
    assert len(tiles) < 10 * 13


def test_the_overlay_lies_on_the_slide_at_every_zoom(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    view = page.locator("slide-view")
    page.uncheck("#outlines")
    # A solid overlay in place of the real one: its painted pixels show its corners.
    view.evaluate(
        """view => {
          const canvas = document.createElement("canvas");
          canvas.width = 574; canvas.height = 768;
          canvas.getContext("2d").fillRect(0, 0, 574, 768);
          view.heat = { canvas };
        }"""
    )
    page.click("#zoom-out")
    for _ in range(3):
        come_to_rest(page)
        painted, wanted = view.evaluate(PAINTED_BOX), view.evaluate(SLIDE_BOX)
        assert painted == pytest.approx(wanted, abs=2)
        view.evaluate(
            "view => view.viewer.viewport.panBy(new OpenSeadragon.Point(0.05, 0.1)) && view.zoom(1.3)"
        )


def test_threshold_and_opacity_and_the_switch_change_what_is_painted(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    view = page.locator("slide-view")
    page.uncheck("#outlines")
    everything = view.evaluate(PAINTED_PIXELS)
    page.locator("#threshold").fill("80")
    page.wait_for_timeout(200)
    attended = view.evaluate(PAINTED_PIXELS)
    assert 0 < attended < everything / 2
    assert page.inner_text("#threshold-value") == "80%"
    page.locator("#opacity").fill("0")
    page.wait_for_timeout(200)
    assert view.evaluate(PAINTED_PIXELS) == 0
    page.locator("#opacity").fill("50")
    page.wait_for_timeout(200)
    assert view.evaluate(PAINTED_PIXELS) == pytest.approx(attended, rel=0.01)
    page.uncheck("#heat")
    assert view.evaluate(PAINTED_PIXELS) == 0


def test_half_opacity_shows_how_much_a_place_is_attended_and_full_opacity_hides_the_slide(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    range_of = """async ([opacity, url]) => {
      const { Heat } = await import("./heat.js");
      const heat = await Heat.load(url);
      heat.paint(0, opacity);
      const { data } = heat.context.getImageData(0, 0, heat.canvas.width, heat.canvas.height);
      const shown = data.filter((value, at) => at % 4 === 3 && value > 0);
      return [Math.min(...new Set(shown)), Math.max(...new Set(shown))];
    }"""
    overlay = page.locator("#whole-slide img").nth(1).get_attribute("src")
    faint, strong = page.evaluate(range_of, [0.5, overlay])
    assert faint < strong / 2 < 255 / 3
    assert page.evaluate(range_of, [1, overlay]) == [255, 255]


def test_the_threshold_is_a_percentile_also_where_the_overlay_does_not_span_all(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    # Where patches overlap their means span less: here from 40 to 60, a pixel for each tenth.
    values = np.arange(40, 60.05, 0.1, dtype=np.float32)[None]
    ones, everywhere = np.ones(values.size, dtype=np.int64), np.ones(values.shape, dtype=np.bool_)
    overlay = paint(ScoreMap(values, everywhere, ones[:1], ones, everywhere, (1.0, 1.0)))
    shown_from = """async ([percentile, png]) => {
      const { Heat } = await import("./heat.js");
      const bytes = Uint8Array.from(atob(png), (byte) => byte.charCodeAt(0));
      const heat = new Heat(await createImageBitmap(new Blob([bytes]), { premultiplyAlpha: "none" }));
      heat.paint(percentile, 1);
      const { data } = heat.context.getImageData(0, 0, heat.canvas.width, 1);
      return data.filter((value, at) => at % 4 === 3 && value > 0).length;
    }"""
    encoded = base64.b64encode(png(overlay)).decode()
    for percentile, least in [(0, 40), (30, 40), (45, 45), (50, 50), (58, 58), (62, 62)]:
        shown = page.evaluate(shown_from, [percentile, encoded])
        wanted = np.count_nonzero(values >= np.float32(least))
        assert shown == pytest.approx(wanted, abs=12), "a step of the opacity is a percentile"


def test_a_patch_of_the_strip_brings_its_place_into_view_by_keyboard(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    patch = page.locator(".patch").nth(2)
    patch.focus()
    page.keyboard.press("Enter")
    come_to_rest(page)
    centre = page.locator("slide-view").evaluate(CENTRE)
    box = top_patches()[2]
    wanted = [(box["x"] + box["width"] / 2) / WIDTH, (box["y"] + box["height"] / 2) / WIDTH]
    assert centre == pytest.approx(wanted, abs=2 / WIDTH)
    assert patch.get_attribute("aria-current") == "true"


def test_everything_on_a_result_can_be_reached_and_moved_by_keyboard(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    controls = {
        "zoom-in",
        "whole",
        "heat",
        "opacity",
        "threshold",
        "outlines",
        "comment",
        "open-withdraw",
        "patch",
    }
    assert controls | {"print", "language", "agree", "export-csv", "openseadragon-canvas"} <= reached
    before = page.locator("slide-view").evaluate(CENTRE)
    page.locator(".openseadragon-canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"before => ({CENTRE})(document.querySelector('slide-view'))[0] > before", arg=before[0]
    )


def test_patches_are_cut_out_of_the_slides_tiles(server: OrthancServer, faultless: Visit, slide: str) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    page.locator("#strip").scroll_into_view_if_needed()
    first = page.locator(".patch canvas").first
    page.wait_for_timeout(1000)
    assert first.evaluate(OPAQUE_PIXELS) == 160 * 160


def test_the_patches_can_be_saved_for_other_programs(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    saved = {}
    for form in ("geojson", "csv", "h5"):
        with page.expect_download() as download:
            page.click(f"#export-{form}")
        saved[form] = download.value.path()
    features = json.loads(saved["geojson"].read_text("utf-8"))["features"]
    assert shape(features[0]["geometry"]).bounds[:2] == (top_patches()[0]["x"], top_patches()[0]["y"])
    assert len(saved["csv"].read_text("utf-8").splitlines()) == 1 + len(top_patches())
    with h5py.File(saved["h5"]) as file:
        assert len(file["coords"]) == len(file["attention_scores"]) == len(top_patches())


def test_a_running_analysis_is_followed_to_its_result_without_a_reload(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    page = open_result(faultless, submit(server, slide))
    expect(page.locator("#stage")).to_contain_text("Waiting for a worker")
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.42, "35 of 84 tiles")
    expect(page.locator("#stage")).to_have_text("Encoding patches 42%")
    assert "35 of 84 tiles" in page.inner_text("#state")
    screenshot(faultless, "result-running")
    deliver(worker, CONTAINER)
    wait_for_pictures(page)
    assert page.is_hidden("#state")
    assert "oscc" in page.inner_text("#predicted-class")


def test_a_waiting_analysis_says_what_it_waits_for_on_every_page_and_stops_when_that_has_come(
    without_workers: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    server = without_workers
    wish = {"series": slide, "model": "lung-nsclc"}
    request_id = server.post("/pathology/analyze", json=wish).json()["request_id"]
    page = open_result(faultless, request_id)
    expect(page.locator("#state .note")).to_contain_text("No worker is alive")
    expect(page.locator("#state")).to_contain_text("Model: lung-nsclc")
    FakeWorker(server).offer()
    page = open_worklist(faultless)
    expect(page.locator("#rows .note")).to_contain_text("Offered are: oral-scc-demo")
    screenshot(faultless, "worklist-waiting")
    offering = {"name": "lung-nsclc", "version": "1", "sha256": "8" * 64}
    FakeWorker(server, worker_id="lab-2", model=offering).claim()
    expect(page.locator("#rows .note")).to_have_count(0)


def test_a_failed_analysis_says_why_and_can_be_tried_again(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    request_id = submit(server, slide)
    worker = FakeWorker(server)
    worker.claim()
    worker.report("tissue", 0.05)
    worker.fail("no_tissue", "The slide looks empty.")
    page = open_result(faultless, request_id)
    state = page.locator("#state")
    expect(state).to_contain_text("The analysis failed")
    expect(state).to_contain_text("No tissue was found on the slide.")
    expect(state).to_contain_text("The slide looks empty.")
    screenshot(faultless, "result-failed")
    page.click("[data-action=retry]")
    expect(page.locator("#stage")).to_contain_text("Waiting for a worker")


def test_a_running_analysis_can_be_cancelled(server: OrthancServer, faultless: Visit, slide: str) -> None:
    page = open_result(faultless, submit(server, slide))
    page.click("[data-action=cancel]")
    expect(page.locator("#state")).to_contain_text("The analysis was cancelled")
    expect(page.locator("#state")).to_contain_text("admin")


def test_a_model_that_abstains_gives_no_class(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    quality = {"status": "abstained", "flags": ["little_tissue"], "reason": "0.4 mm2 of tissue."}
    page = open_result(faultless, analysed(server, slide, quality=quality))
    wait_for_pictures(page)
    assert page.inner_text("#predicted-class") == "The model abstains"
    assert "There is little tissue on the slide." in page.inner_text("#quality")
    assert "In detail: 0.4 mm2 of tissue." in page.inner_text("#quality")
    # That nobody has approved the model is no reason for giving no answer.
    assert "approved" not in page.inner_text("#quality")
    assert page.inner_text("#notes") == "This site has not approved the model."
    assert page.locator("#probabilities .chosen").count() == 0
    screenshot(faultless, "result-abstained")


def test_a_review_is_kept_and_the_view_stays_where_it_is(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    request_id = analysed(server, slide)
    page = open_result(faultless, request_id)
    wait_for_pictures(page)
    page.click("#zoom-in")
    come_to_rest(page)
    zoom = "view => view.viewer.viewport.getZoom(true)"
    before = page.locator("slide-view").evaluate(zoom)
    page.fill("#comment", "Seen under the <b>microscope</b>.")
    page.click("[data-action=disagree]")
    expect(page.locator("#review-given")).to_contain_text("Disagree · admin")
    expect(page.locator("#review-given")).to_contain_text("<b>microscope</b>")
    assert page.locator("slide-view").evaluate(zoom) == pytest.approx(before, rel=0.01)
    review = server.get(f"/pathology/requests/{request_id}").json()["request"]["review"]
    assert (review["verdict"], review["by"]) == ("disagree", "admin")


def test_a_result_is_withdrawn_only_with_a_reason(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    page.click("#open-withdraw")
    page.click("[data-action=withdraw]")
    expect(page.locator("#withdraw .warning")).to_be_visible()
    page.fill("#reason", "Wrong stain")
    page.click("[data-action=withdraw]")
    expect(page.locator("#state")).to_contain_text("This result was withdrawn")
    expect(page.locator("#state")).to_contain_text("Wrong stain")
    assert page.is_hidden("#result")


def test_what_another_browser_did_meanwhile_is_said_and_shown(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    request_id = analysed(server, slide)
    page = open_result(visit, request_id)
    wait_for_pictures(page)
    server.post(f"/pathology/requests/{request_id}/withdraw", json={"reason": "Mixed up"}).raise_for_status()
    page.click("[data-action=agree]")
    expect(page.locator("#notice")).to_contain_text("The analysis has moved on in the meantime.")
    expect(page.locator("#state")).to_contain_text("Mixed up")
    assert page.is_hidden("#result")
    assert len([problem for problem in visit.problems if problem.startswith("409 ")]) == 1


def test_markup_in_names_is_shown_as_text(server: OrthancServer, faultless: Visit, tmp_path: Path) -> None:
    path = named_slide(tmp_path, PatientName=SCRIPT_IN_A_NAME, PatientID=SCRIPT_IN_A_TEXT)
    series = store_file(server, path)["ParentSeries"]
    quality = {"status": "limited", "flags": ["<i>odd</i>"], "reason": SCRIPT_IN_A_TEXT}
    result = {"predicted_class": "<b>x</b>", "probabilities": {"<b>x</b>": 1.0}, "quality": quality}
    page = open_result(faultless, analysed(server, series, CONTAINER, **result))
    wait_for_pictures(page)
    assert SCRIPT_IN_A_NAME in page.inner_text("#identity")
    assert SCRIPT_IN_A_TEXT in page.inner_text("#identity")
    assert SCRIPT_IN_A_TEXT in page.inner_text("#quality")
    assert "<b>x</b>" in page.inner_text("#predicted-class")
    assert page.locator("main b img, main i").count() == 0
    expect(open_worklist(faultless).locator("#rows")).to_contain_text(SCRIPT_IN_A_NAME)
    assert "owned" not in faultless.page.title()


@pytest.mark.parametrize(
    "slide_member",
    [{"series_instance_uid": "1.2.3"}, {"width": 4440, "height": 5934}, {"container_id": "S26-9999-Z9"}],
    ids=["series", "size", "container"],
)
def test_a_result_about_another_slide_raises_an_alarm_and_is_not_laid_over_this_one(
    server: OrthancServer, faultless: Visit, tmp_path: Path, slide_member: dict[str, Any]
) -> None:
    path = named_slide(tmp_path)
    stored = store_file(server, path)
    uid = str(pydicom.dcmread(path).SeriesInstanceUID)
    about = {"series_instance_uid": uid, "container_id": CONTAINER, "width": WIDTH, "height": HEIGHT}
    request_id = analysed(server, stored["ParentSeries"], slide={**about, **slide_member})
    page = open_result(faultless, request_id)
    expect(page.locator("#alarm")).to_contain_text("does not belong to the slide")
    assert page.is_hidden("#predicted-class")
    assert page.is_hidden("slide-view")


def test_without_tiles_the_thumbnail_stands_in(chromium: Browser) -> None:
    without_tiles = [
        "/usr/share/orthanc/plugins/libOrthancPython.so",
        "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    ]
    with (
        OrthancServer(overrides={"Plugins": without_tiles}) as server,
        open_browser(server, chromium) as visit,
    ):
        page = open_result(visit, analysed(server, store_slide(server, slide_folder())))
        wait_for_pictures(page)
        assert page.locator("slide-view").evaluate("view => view.viewer.world.getItemCount()") == 1
        assert page.locator("slide-view").evaluate(PAINTED_PIXELS) > 0
        expect(page.locator("#no-detail")).to_contain_text("Orthanc offers no tiles of this slide")
        assert [problem for problem in visit.problems if "/wsi/pyramids/" not in problem] == []


def test_the_page_of_a_jpeg_2000_slide_says_why_it_has_no_more_detail(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    plain = store_file(server, named_slide(tmp_path))["ParentSeries"]
    page = open_result(faultless, analysed(server, plain))
    wait_for_pictures(page)
    expect(page.locator("#no-detail")).to_be_hidden()
    path = named_slide(tmp_path, PhotometricInterpretation="YBR_ICT")
    page = open_result(faultless, analysed(server, store_file(server, path)["ParentSeries"]))
    wait_for_pictures(page)
    expect(page.locator("#no-detail")).to_contain_text("the slide is JPEG 2000")
    assert page.locator("slide-view").evaluate("view => view.viewer.world.getItemCount()") == 1
    screenshot(faultless, "result-jpeg-2000")


def test_patches_of_a_slide_without_tiles_are_cut_out_of_its_small_picture(
    server: OrthancServer, faultless: Visit, tmp_path: Path
) -> None:
    path = named_slide(tmp_path, PhotometricInterpretation="YBR_ICT")
    series = store_file(server, path)["ParentSeries"]
    page = open_result(faultless, analysed(server, series, patch_pictures=8))
    wait_for_pictures(page)
    assert page.locator(".patch img").count() == 8
    cut_out = page.locator(".patch canvas")
    assert cut_out.count() == min(24, len(top_patches())) - 8
    for one in cut_out.all():
        # Not only those in view: paper has them all.
        assert one.evaluate(OPAQUE_PIXELS) == 160 * 160
    expect(page.locator(".missing")).to_have_count(0)


def test_a_patch_that_there_is_no_picture_of_is_left_out_of_the_strip_and_counted(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    path = named_slide(tmp_path, PhotometricInterpretation="YBR_ICT")
    series = store_file(server, path)["ParentSeries"]
    # Of 64 pixels of this slide its small picture has 17.
    small = [{**one, "width": 64, "height": 64} for one in top_patches()[:20]]
    page = open_result(faultless, analysed(server, series, patch_pictures=8, top_patches=small))
    wait_for_pictures(page)
    assert page.locator(".patch").count() == page.locator(".patch img").count() == 8
    expect(page.locator(".missing")).to_contain_text("12 more are not shown")
    screenshot(faultless, "result-jpeg-2000-coarse")


def test_the_page_of_a_deleted_slide_says_so(server: OrthancServer, visit: Visit, slide: str) -> None:
    request_id = submit(server, slide)
    page = open_result(visit, request_id)
    expect(page.locator("#stage")).to_contain_text("Waiting for a worker")
    server.request("DELETE", f"/series/{slide}").raise_for_status()
    expect(page.locator("#notice")).to_contain_text("The slide was deleted from Orthanc")
    assert page.is_hidden("#state")
    server.restart()
    expect(open_result(visit, request_id).locator("#notice")).to_contain_text("There is no such analysis")


def test_a_page_that_was_open_while_orthanc_restarted_goes_on(
    server: OrthancServer, visit: Visit, slide: str
) -> None:
    page = open_result(visit, submit(server, slide))
    expect(page.locator("#stage")).to_contain_text("Waiting for a worker")
    server.restart()
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.3)
    expect(page.locator("#stage")).to_have_text("Encoding patches 30%", timeout=40_000)
    expect(page.locator("#notice")).to_be_hidden()
    deliver(worker, CONTAINER)
    wait_for_pictures(page)


def test_the_pages_speak_korean(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    request_id = analysed(server, slide)
    page = open_worklist(faultless)
    page.click("button[lang=ko]")
    expect(page.locator("h1")).to_have_text("AI 분석 목록")
    page = open_result(faultless, request_id)
    wait_for_pictures(page)
    assert page.inner_text("#demonstration") == "시연용 결과입니다. 임상 진단에 사용하지 마십시오."
    assert page.get_attribute("html", "lang") == "ko"
    screenshot(faultless, "result-ko")


def test_what_went_wrong_is_in_korean_in_the_history_too(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    failed = failed_afterwards(server, slide)
    open_worklist(faultless).click("button[lang=ko]")
    page = open_result(faultless, failed)
    expect(page.locator(".history")).to_contain_text("분석 서버의 디스크가 가득 찼습니다. No space left.")


def test_what_a_reviewer_found_is_in_the_words_of_the_page_in_the_history_too(
    server: OrthancServer, faultless: Visit, slide: str, screenshot: Callable[[Visit, str], None]
) -> None:
    request_id = analysed(server, slide)
    open_worklist(faultless).click("button[lang=ko]")
    page = open_result(faultless, request_id)
    wait_for_pictures(page)
    page.click("[data-action=agree]")
    expect(page.locator(".history .detail").last).to_have_text("동의")
    page.fill("#comment", "agree: with the report")
    page.click("[data-action=disagree]")
    expect(page.locator(".history .detail").last).to_have_text("동의하지 않음: agree: with the report")
    page.locator(".history").scroll_into_view_if_needed()
    screenshot(faultless, "history-ko")


def test_a_patient_whose_name_is_made_of_the_id_is_told_once(
    server: OrthancServer, faultless: Visit, tmp_path: Path
) -> None:
    path = named_slide(tmp_path, PatientName="WSI-1", PatientID="WSI-1")
    request_id = submit(server, store_file(server, path)["ParentSeries"])
    page = open_result(faultless, request_id)
    expect(page.locator("#identity dt").first).to_have_text("Patient id")
    assert page.inner_text("#identity").count("WSI-1") == 1
    expect(open_worklist(faultless).locator("#rows .details span")).to_have_text(["WSI-1"])


def test_a_slide_is_not_called_nameless_before_its_name_has_come(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    submit(server, slide)
    held: list[Route] = []
    faultless.page.route(f"**/series/{slide}/study", lambda route: held.append(route))  # noqa: PLW0108 - a builtin cannot be marked
    page = open_worklist(faultless)
    expect(page.locator("#rows a")).to_have_text("…")
    held.pop().continue_()
    expect(page.locator("#rows a")).to_have_text(CONTAINER)


def test_on_paper_there_are_the_slide_and_its_identity_and_no_controls(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    page = open_result(faultless, analysed(server, slide))
    wait_for_pictures(page)
    page.emulate_media(media="print")
    assert page.is_visible("#whole-slide img")
    assert page.is_visible("#container")
    assert page.is_visible("#demonstration")
    for control in ("#print", "[data-action=agree]", "#open-withdraw", "#opacity", "slide-view"):
        assert page.is_hidden(control)


def test_the_worklist_shows_every_request_live_and_filters_by_state(
    server: OrthancServer, faultless: Visit, tmp_path: Path, screenshot: Callable[[Visit, str], None]
) -> None:
    files = [named_slide(tmp_path, ContainerIdentifier=f"S26-1042-A{number}") for number in range(4)]
    series = [store_file(server, path)["ParentSeries"] for path in files]
    analysed(server, series[0], "S26-1042-A0")
    failing = FakeWorker(server)
    submit(server, series[1])
    failing.claim()
    failing.fail("no_tissue", "The slide looks empty.")
    page = open_worklist(faultless)
    expect(page.locator("#rows tr")).to_have_count(2)
    submit(server, series[2])
    worker = FakeWorker(server, worker_id="lab-2")
    worker.claim()
    worker.report("encode", 0.42, "35 of 84 tiles")
    submit(server, series[3])
    expect(page.locator("#rows tr")).to_have_count(4)
    running = page.locator('#rows tr[data-status="processing"]')
    expect(running).to_contain_text("Encoding patches 42%")
    expect(running).to_contain_text("lab-2")
    for number in range(4):
        expect(page.locator("#rows")).to_contain_text(f"S26-1042-A{number}")
    screenshot(faultless, "worklist")
    page.click('[data-filter="failed"]')
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#rows")).to_contain_text("The slide looks empty.")
    page.click('[data-filter="completed"]')
    page.click("#rows a")
    wait_for_pictures(page)
    assert page.inner_text("#container") == "S26-1042-A0"


def test_the_worklist_cancels_and_retries(server: OrthancServer, faultless: Visit, slide: str) -> None:
    submit(server, slide)
    page = open_worklist(faultless)
    page.click("#rows [data-action=cancel]")
    expect(page.locator("#rows tr")).to_have_attribute("data-status", "cancelled")
    page.click("#rows [data-action=retry]")
    expect(page.locator("#rows tr")).to_have_attribute("data-status", "pending")


def test_the_worklist_asks_once_in_a_few_seconds_and_not_at_all_while_hidden(
    server: OrthancServer, faultless: Visit, slide: str
) -> None:
    submit(server, slide)
    asked = faultless.requests_to("/pathology/")
    page = open_worklist(faultless)
    page.wait_for_timeout(1000)
    asked.clear()
    page.wait_for_timeout(9000)
    assert 1 <= len(asked) <= 3
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { get: () => true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    asked.clear()
    page.wait_for_timeout(6000)
    assert len(asked) == 0
