# SPDX-License-Identifier: Apache-2.0
"""Slides out of a server: every tile the same as from local files, and never a wrong picture."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pydicom.encaps import encapsulate, generate_frames
from wsidicom import WsiDicom

from clam_core.errors import MissingMppError, NoVolumeError, SlideError
from clam_core.slides import OpenSlideSlide, Prefetching, WsiDicomSlide
from tests.support.ranges_server import RangesServer
from tests.support.scripted_server import FOREIGN_PAGES, Page
from tests.support.shared_data import shared_path
from tests.support.slide_reading import ODD_SLIDES, assert_same_tiles, real_slide, settings_for
from worker.jobs.failures import failure_of
from worker.sources import (
    HttpRangeClient,
    HttpRangeSource,
    OrthancDownloadSource,
    OrthancRangesSource,
    RangesClient,
    Reporting,
    SlideFolderSource,
    open_request_slide,
)
from worker.sources.dicomweb import DicomwebSource
from worker.sources.dicomweb_client import DicomwebFrames
from worker.sources.errors import (
    AmbiguousSlideFileError,
    ChangedInMidReadError,
    NoSlideFileError,
    SourceBlockedError,
    SourceDeletedError,
    SourceRefusedError,
    SourceUnauthorizedError,
    SourceUnreachableError,
    WayMissingError,
)
from worker.sources.source import SlideSource


@pytest.fixture
def server() -> Iterator[RangesServer]:
    with RangesServer() as running:
        yield running


@pytest.fixture
def client(server: RangesServer, session: requests.Session) -> RangesClient:
    return RangesClient(settings_for(server.url), session, wait=lambda _seconds: False)


def test_every_tile_by_ranges_equals_the_local_file(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        assert_same_tiles(slide, real_slide())


@pytest.mark.parametrize("name", ODD_SLIDES)
def test_odd_compressions_read_the_same_by_ranges(
    name: str, server: RangesServer, client: RangesClient
) -> None:
    path = shared_path(name)
    server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        assert_same_tiles(slide, [path])


def test_every_tile_by_download_equals_the_local_file(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    for path in real_slide():
        server.store(path)
    source = OrthancDownloadSource(settings_for(server.url), session, scratch=tmp_path)
    with source.open(server.claim()) as slide:
        assert_same_tiles(slide, real_slide())
    assert list(tmp_path.iterdir()) == []


def test_opening_costs_few_requests_and_bytes(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()):
        assert client.traffic.requests <= 6
        assert client.traffic.bytes < 400_000


def test_labels_and_overviews_are_never_asked_for(server: RangesServer, client: RangesClient) -> None:
    folder = shared_path("slides/dicom-cmu-1-small-region")
    names = {server.store(path): path for path in sorted(folder.glob("*.dcm"))}
    with OrthancRangesSource(client).open(server.claim()) as slide:
        slide.read_region((0, 0), 0, (300, 300))
    asked = {path.split("/")[3] for path in server.behaviour.paths}
    assert {names[name] for name in asked} == set(real_slide())


def test_prefetched_patches_cost_one_request_and_each_frame_once(
    server: RangesServer, client: RangesClient
) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        assert isinstance(slide, Prefetching)
        corners = [(x, y) for x in range(0, 1792, 256) for y in range(0, 1792, 256)]
        slide.read_region((0, 0), 0, (1, 1))
        before = client.traffic.requests
        slide.prefetch(0, corners, (256, 256))
        assert client.traffic.requests == before + 1
        for corner in corners:
            slide.read_region(corner, 0, (256, 256))
        assert client.traffic.requests == before + 1


def test_several_threads_read_the_same_pixels(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    places = [(x, y) for x in range(0, 2000, 200) for y in range(0, 2700, 300)]
    with (
        OrthancRangesSource(client).open(server.claim()) as slide,
        WsiDicomSlide(WsiDicom.open(real_slide())) as local,
        ThreadPoolExecutor(8) as pool,
    ):
        regions = list(pool.map(lambda place: slide.read_region(place, 0, (256, 256)), places))
        for place, region in zip(places, regions, strict=True):
            np.testing.assert_array_equal(region, local.read_region(place, 0, (256, 256)))


def test_a_dropped_connection_is_asked_again(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        server.behaviour.drop_next = 2
        assert slide.read_region((900, 900), 0, (512, 512)).shape == (512, 512, 3)


@pytest.mark.parametrize("source", ["ranges", "download"])
def test_an_answer_that_is_cut_off_in_the_middle_is_asked_for_again(
    source: str, server: RangesServer, client: RangesClient, session: requests.Session, tmp_path: Path
) -> None:
    for path in real_slide():
        server.store(path)
    way = OrthancDownloadSource(settings_for(server.url), session, tmp_path, lambda _seconds: False)
    server.behaviour.cut_next = 2
    with (OrthancRangesSource(client) if source == "ranges" else way).open(server.claim()) as slide:
        server.behaviour.cut_next += 2
        assert_same_tiles(slide, real_slide())
    assert source == "download" or server.behaviour.cut_next == 0


def test_a_busy_server_is_asked_again_after_the_time_it_names(
    server: RangesServer, client: RangesClient
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.busy_next = 3
    with OrthancRangesSource(client).open(server.claim()) as slide:
        assert slide.levels[0].width == 2220


def test_a_server_that_is_gone_is_named_unreachable(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.drop_next = 1000
    with pytest.raises(SourceUnreachableError, match="Cannot reach"):
        OrthancRangesSource(client).open(server.claim())


def test_an_instance_overwritten_before_opening_is_an_error(
    server: RangesServer, client: RangesClient
) -> None:
    (path,) = real_slide()
    name = server.store(path)
    claim = server.claim()
    server.overwrite(name, path.read_bytes() + b"\0")
    with pytest.raises(ChangedInMidReadError):
        OrthancRangesSource(client).open(claim)


def test_an_instance_overwritten_in_mid_read_never_gives_a_picture(
    server: RangesServer, client: RangesClient
) -> None:
    (path,) = real_slide()
    name = server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        slide.read_region((0, 0), 0, (240, 240))
        server.overwrite(name, path.read_bytes()[::-1])
        with pytest.raises(ChangedInMidReadError):
            slide.read_region((1500, 1500), 0, (512, 512))


def test_an_instance_deleted_in_mid_read_is_an_error(server: RangesServer, client: RangesClient) -> None:
    (path,) = real_slide()
    name = server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        del server.files[name]
        with pytest.raises(SourceDeletedError):
            slide.read_region((1500, 1500), 0, (512, 512))


def test_a_download_that_is_overwritten_meanwhile_is_an_error(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = real_slide()
    name = server.store(path)
    claim = server.claim()
    server.overwrite(name, path.read_bytes()[:-2] + b"\1\1")
    with pytest.raises(ChangedInMidReadError):
        OrthancDownloadSource(settings_for(server.url), session, scratch=tmp_path).open(claim)
    assert list(tmp_path.iterdir()) == []


def test_a_level_that_cannot_be_opened_is_not_left_out_silently(
    server: RangesServer, client: RangesClient, tmp_path: Path
) -> None:
    (path,) = real_slide()
    server.store(path)
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(path.read_bytes())
    name = server.store(damaged)
    server.overwrite(name, path.read_bytes()[:2000] + b"\xff" * 5000)
    with pytest.raises(SlideError, match="store"):
        OrthancRangesSource(client).open(server.claim())


def test_a_refusal_is_a_sentence(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.status = 403
    with pytest.raises(SourceRefusedError, match="does not let this worker read"):
        OrthancRangesSource(client).open(server.claim())


@pytest.mark.parametrize("page", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES.keys())
def test_what_answers_in_orthancs_place_for_a_moment_costs_nothing(
    server: RangesServer, client: RangesClient, page: Page
) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide:
        if "HttpStatus" not in page.body.decode():
            server.behaviour.pages.extend([page] * 3)
        assert_same_tiles(slide, real_slide())
    assert server.behaviour.pages == []


@pytest.mark.parametrize("page", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES.keys())
@pytest.mark.parametrize("way", ["ranges", "HTTP Range", "download"])
def test_what_goes_on_answering_in_orthancs_place_leaves_the_request_to_another_attempt(
    server: RangesServer, session: requests.Session, tmp_path: Path, page: Page, way: str
) -> None:
    (path,) = real_slide()
    server.store(path)
    server.behaviour.http_range = True
    settings = settings_for(server.url)
    sources: dict[str, SlideSource] = {
        "ranges": OrthancRangesSource(RangesClient(settings, session, wait=at_once)),
        "HTTP Range": HttpRangeSource(HttpRangeClient(settings, session, wait=at_once)),
        "download": OrthancDownloadSource(settings, session, scratch=tmp_path, wait=at_once),
    }
    source = sources[way]
    claim = server.claim()
    if way == "download":
        server.behaviour.pages.extend([page] * 1000)
        with pytest.raises((SlideError, WayMissingError)) as raised:
            source.open(claim)
    else:
        with source.open(claim) as slide:
            server.behaviour.pages.extend([page] * 1000)
            with pytest.raises((SlideError, WayMissingError)) as raised:
                slide.read_region((1500, 1500), 0, (512, 512))
    failure = failure_of(raised.value)
    is_orthancs_own = "HttpStatus" in page.body.decode()
    expected = "source_deleted" if is_orthancs_own and way != "ranges" else "source_unreachable"
    assert (failure.code, failure.retryable) == (expected, expected == "source_unreachable")


def test_a_page_that_came_for_a_file_is_no_replaced_slide(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.pages.append(Page(200))
    source = OrthancDownloadSource(settings_for(server.url), session, scratch=tmp_path, wait=at_once)
    with source.open(server.claim()) as slide:
        assert_same_tiles(slide, real_slide())


def test_a_page_that_came_for_the_tags_of_a_slide_is_asked_past(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.pages.append(Page(200))
    with pytest.raises(NoSlideFileError):
        SlideFolderSource(tmp_path, settings_for(server.url), session, wait=at_once).open(server.claim())


def test_a_file_of_another_size_than_was_claimed_is_downloaded_once(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = real_slide()
    name = server.store(path)
    claim = server.claim()
    server.files[name].data += b"\0\0"
    source = OrthancDownloadSource(settings_for(server.url), session, scratch=tmp_path, wait=at_once)
    with pytest.raises(SourceBlockedError):
        source.open(claim)
    assert len([asked for asked in server.behaviour.paths if asked.endswith("/file")]) == 1


def at_once(_seconds: float) -> bool:
    return False


@pytest.mark.parametrize("status", [401, 403])
def test_a_password_or_a_role_that_orthanc_refuses_is_told_apart(
    server: RangesServer, client: RangesClient, status: int
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.pages.extend([Page(status, b"", {})] * 1000)
    expected = SourceUnauthorizedError if status == 401 else SourceBlockedError
    with pytest.raises(expected):
        OrthancRangesSource(client).open(server.claim())


def test_a_dicomweb_server_that_does_not_know_this_worker_is_passed_over(
    server: RangesServer, session: requests.Session
) -> None:
    frames = DicomwebSource(
        settings_for(server.url, DICOMWEB_URL=f"{server.url}/other"), session, wait=at_once
    )
    for path in real_slide():
        server.store(path)
    claim = server.claim()
    named = {**claim.request, "study_instance_uid": "1.2", "series_instance_uid": "1.2.3"}
    for page in (Page(401, b"", {}), Page(403), Page(404), Page(406)):
        server.behaviour.pages.extend([page] * 7)
        with pytest.raises(WayMissingError):
            frames.open(dataclasses.replace(claim, request=named))
        assert server.behaviour.pages == []


def test_a_series_of_labels_only_is_no_slide(server: RangesServer, client: RangesClient) -> None:
    server.store(shared_path("slides/dicom-misc/label_only_volume_missing.dcm"))
    with pytest.raises(NoVolumeError, match="VOLUME"):
        OrthancRangesSource(client).open(server.claim())


def test_without_the_ranges_route_the_slide_is_downloaded(
    server: RangesServer, session: requests.Session
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.ranges_route = False
    with open_request_slide(settings_for(server.url), session, server.claim()) as slide:
        assert_same_tiles(slide, real_slide())


def test_a_web_page_in_a_dicomweb_servers_place_is_passed_over(
    server: RangesServer, session: requests.Session
) -> None:
    for path in real_slide():
        server.store(path)
    server.behaviour.ranges_route = False
    claim = server.claim()
    named = {**claim.request, "study_instance_uid": "1.2", "series_instance_uid": "1.2.3"}
    settings = settings_for(server.url, DICOMWEB_URL=f"{server.url}/html")
    with open_request_slide(settings, session, dataclasses.replace(claim, request=named)) as slide:
        assert isinstance(slide, Reporting)
        assert slide.source_report().kind == "download"


@pytest.mark.parametrize("error", [KeyError("Rows"), IndexError(), TypeError()])
def test_a_slide_that_a_dicomweb_server_describes_in_no_usable_form_is_read_another_way(
    error: Exception, server: RangesServer, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprised(*_: object, **__: object) -> None:
        raise error

    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in real_slide()]
    monkeypatch.setattr(DicomwebFrames, "headers", lambda _frames: headers)
    monkeypatch.setattr(WsiDicom, "open_web", surprised)
    for path in real_slide():
        server.store(path)
    server.behaviour.ranges_route = False
    claim = server.claim()
    named = {**claim.request, "study_instance_uid": "1.2", "series_instance_uid": "1.2.3"}
    settings = settings_for(server.url, DICOMWEB_URL=f"{server.url}/dicom-web")
    with open_request_slide(settings, session, dataclasses.replace(claim, request=named)) as slide:
        assert isinstance(slide, Reporting)
        assert slide.source_report().kind == "download"


def test_a_file_named_after_the_container_stands_in_for_unreadable_dicom(
    server: RangesServer, session: requests.Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    name = server.store(shared_path("slides/dicom-misc/label_only_volume_missing.dcm"))
    server.files[name].tags["ContainerIdentifier"] = "S26-0001-A1"
    (tmp_path / "s26-0001-a1.svs").symlink_to(tmp_path / "slides" / "real.svs")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "real.svs").write_bytes(shared_path("slides/CMU-1-Small-Region.svs").read_bytes())
    settings = settings_for(server.url, SVS_STORAGE_DIR=str(tmp_path))
    with open_request_slide(settings, session, server.claim()) as slide:
        assert (slide.levels[0].width, slide.levels[0].height) == (2220, 2967)
    assert "ContainerIdentifier is the file's name" in caplog.text
    assert "S26-0001-A1" not in caplog.text


def test_a_slide_file_that_does_not_say_its_pixel_size_is_refused_before_any_work(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    name = server.store(shared_path("slides/dicom-misc/label_only_volume_missing.dcm"))
    server.files[name].tags["ContainerIdentifier"] = "S26-0002"
    svs = shared_path("slides/TCGA-CR-7395-01A-01-TS1.svs")
    (tmp_path / "S26-0002.svs").write_bytes(svs.read_bytes())
    settings = settings_for(server.url, SVS_STORAGE_DIR=str(tmp_path))
    with pytest.raises(MissingMppError, match="parameter mpp"):
        open_request_slide(settings, session, server.claim())
    claim = server.claim()
    told = dataclasses.replace(claim, request={**claim.request, "parameters": {"mpp": 0.5}})
    with open_request_slide(settings, session, told) as slide, OpenSlideSlide(svs) as local:
        assert isinstance(slide, Reporting)
        assert slide.source_report().kind == "slide_file"
        for place in ((0, 0), (1500, 1200), (4000, 3400)):
            np.testing.assert_array_equal(
                slide.read_region(place, 0, (600, 500)), local.read_region(place, 0, (600, 500))
            )


def test_without_a_matching_file_both_reasons_are_named(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    server.store(shared_path("slides/dicom-misc/label_only_volume_missing.dcm"))
    settings = settings_for(server.url, SVS_STORAGE_DIR=str(tmp_path))
    with pytest.raises(NoSlideFileError, match=r"VOLUME.*SVS_STORAGE_DIR"):
        open_request_slide(settings, session, server.claim())


def test_a_network_failure_does_not_fall_back_to_a_file(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = real_slide()
    name = server.store(path)
    claim = server.claim()
    del server.files[name]
    settings = settings_for(server.url, SVS_STORAGE_DIR=str(tmp_path))
    with pytest.raises(SlideError, match="not in Orthanc any more"):
        open_request_slide(settings, session, claim)


def test_two_files_for_one_container_are_refused(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    name = server.store(shared_path("slides/dicom-misc/label_only_volume_missing.dcm"))
    server.files[name].tags["ContainerIdentifier"] = "S26-1"
    for file in ("S26-1.svs", "s26-1.ndpi"):
        (tmp_path / file).touch()
    settings = settings_for(server.url, SVS_STORAGE_DIR=str(tmp_path))
    with pytest.raises(AmbiguousSlideFileError, match="2 files in SVS_STORAGE_DIR"):
        open_request_slide(settings, session, server.claim())


def test_no_connection_outlives_the_slide(server: RangesServer, client: RangesClient) -> None:
    for path in real_slide():
        server.store(path)
    before = threading.active_count()
    OrthancRangesSource(client).open(server.claim()).close()
    assert threading.active_count() <= before + 1


def many_frames(path: Path, *, frames: int, frame_bytes: int, offset_table: bool) -> Path:
    """Write a slide of many small frames; return the file."""
    dataset = pydicom.dcmread(real_slide()[0])
    columns = int(np.ceil(np.sqrt(frames)))
    rows = -(-frames // columns)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = columns * 240, rows * 240
    dataset.NumberOfFrames = columns * rows
    frame = next(generate_frames(dataset.PixelData, number_of_frames=130))
    padded = frame + b"\0" * (frame_bytes - len(frame))
    dataset.PixelData = encapsulate([padded] * (columns * rows), has_bot=offset_table)
    dataset.save_as(path)
    return path


def test_an_empty_offset_table_is_walked_through_in_large_steps(
    server: RangesServer, client: RangesClient, tmp_path: Path
) -> None:
    path = many_frames(tmp_path / "walk.dcm", frames=900, frame_bytes=40_000, offset_table=False)
    server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide, WsiDicomSlide.open(path) as local:
        place = (5000, 5000)
        np.testing.assert_array_equal(
            slide.read_region(place, 0, (300, 300)), local.read_region(place, 0, (300, 300))
        )
    assert client.traffic.requests < 40


def test_a_frame_that_two_threads_want_at_once_crosses_the_network_once(
    server: RangesServer, client: RangesClient
) -> None:
    for path in real_slide():
        server.store(path)
    with OrthancRangesSource(client).open(server.claim()) as slide, ThreadPoolExecutor(8) as pool:
        assert isinstance(slide, Prefetching)
        slide.read_region((0, 0), 0, (1, 1))
        before = client.traffic.bytes
        corners = [(x, y) for x in range(0, 2000, 256) for y in range(0, 2700, 256)]
        list(pool.map(lambda _: slide.prefetch(0, corners, (256, 256)), range(8)))
        assert client.traffic.bytes - before < server.claim().instances[0].size
