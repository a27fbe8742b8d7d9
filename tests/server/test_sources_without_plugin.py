# SPDX-License-Identifier: Apache-2.0
"""Slides out of an Orthanc that has no pathology plugin, or not its ranges: any DICOMweb server will do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from clam_core.errors import SlideError
from tests.support.odd_dicom import ODD_STORAGE, write_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.ranges_server import claim_of
from tests.support.shared_data import shared_path
from tests.support.slide_reading import ODD_SLIDES, assert_same_tiles, real_slide, settings_for
from worker.api.contract import Claim, InstanceRef
from worker.api.transport import make_session
from worker.settings import Credentials
from worker.sources import DicomwebSlide, DicomwebSource, Reporting, open_request_slide
from worker.sources.errors import SourceDeletedError
from worker.sources.orthanc_download import DownloadedSlide
from worker.sources.ranges_slide import RangesSlide

pytestmark = pytest.mark.server

NO_PLUGIN = {"PythonScript": None, "Pathology": None}
NOT_BY_DICOMWEB = {"htj2k", "concatenation", "sparse concatenation"}
"""Orthanc 1.10 knows no HTJ2K, and wsidicom joins no concatenations by DICOMweb: these are downloaded."""


@pytest.fixture(scope="module")
def server() -> Iterator[OrthancServer]:
    with OrthancServer(overrides=NO_PLUGIN) as running:
        yield running


@pytest.fixture
def session(server: OrthancServer) -> Iterator[requests.Session]:
    with make_session(Credentials(*server.person)) as opened:
        yield opened


def gives_ranges(server: OrthancServer) -> bool:
    """Tell whether this Orthanc takes HTTP Range on a file, so that no other way is needed."""
    version = server.get("/system").json()["Version"]
    return tuple(int(part) for part in version.split(".")) >= (1, 12, 5)


def stored(server: OrthancServer, files: list[Path]) -> Claim:
    """Store a slide; return a claim of it, as the plugin would have made it."""
    ids = [store_file(server, path)["ID"] for path in files]
    return claim_of([described(server, instance) for instance in ids], **uids_of(server, ids[0]))


def described(server: OrthancServer, instance: str) -> InstanceRef:
    tags = server.get(f"/instances/{instance}/simplified-tags").json()
    file = server.get(f"/instances/{instance}/attachments/dicom/info").json()
    image_type = tuple(tags["ImageType"].split("\\"))
    return InstanceRef(instance, tags["SOPInstanceUID"], file["Uuid"], file["UncompressedSize"], image_type)


def uids_of(server: OrthancServer, instance: str) -> dict[str, str]:
    tags = server.get(f"/instances/{instance}/simplified-tags").json()
    return {
        "study_instance_uid": tags["StudyInstanceUID"],
        "series_instance_uid": tags["SeriesInstanceUID"],
    }


def test_without_plugin_and_http_range_the_slide_comes_by_dicomweb_and_the_log_says_the_cost(
    server: OrthancServer, session: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    if gives_ranges(server):
        pytest.skip("this Orthanc takes HTTP Range")
    caplog.set_level(logging.WARNING)
    claim = stored(server, real_slide())
    with open_request_slide(settings_for(server.url), session, claim) as slide:
        assert isinstance(slide, DicomwebSlide)
        assert_same_tiles(slide, real_slide())
        report = slide.source_report()
    assert report.kind == "dicomweb"
    assert report.bytes > 0.9 * claim.instances[0].size
    assert "by HTTP Range" in caplog.text
    assert "by DICOMweb, which costs: one request for each batch of tiles" in caplog.text


def test_a_batch_of_tiles_is_one_request_by_dicomweb(
    server: OrthancServer, session: requests.Session
) -> None:
    claim = stored(server, real_slide())
    with DicomwebSource(settings_for(server.url), session).open(claim) as slide:
        assert isinstance(slide, DicomwebSlide)
        before = slide.source_report().requests
        corners = [(x, y) for x in range(0, 1792, 256) for y in range(0, 1792, 256)]
        slide.prefetch(0, corners, (256, 256))
        for corner in corners:
            slide.read_region(corner, 0, (256, 256))
        assert slide.source_report().requests == before + 1


@pytest.mark.parametrize("name", ODD_SLIDES)
def test_odd_files_read_the_same_without_the_plugin(
    name: str, server: OrthancServer, session: requests.Session
) -> None:
    path = shared_path(name)
    with open_request_slide(settings_for(server.url), session, stored(server, [path])) as slide:
        assert_same_tiles(slide, [path])


@pytest.mark.parametrize("storage", ODD_STORAGE)
def test_odd_storage_reads_the_same_without_the_plugin(
    storage: str, server: OrthancServer, session: requests.Session, tmp_path: Path
) -> None:
    files = write_slide(tmp_path, **ODD_STORAGE[storage])
    with open_request_slide(settings_for(server.url), session, stored(server, files)) as slide:
        by_dicomweb = DownloadedSlide if storage in NOT_BY_DICOMWEB else DicomwebSlide
        assert isinstance(slide, RangesSlide if gives_ranges(server) else by_dicomweb)
        assert_same_tiles(slide, files)


def test_without_dicomweb_too_the_whole_slide_is_downloaded(session: requests.Session) -> None:
    with OrthancServer(overrides={**NO_PLUGIN, "DicomWeb": {"Enable": False}}) as plain:
        claim = stored(plain, real_slide())
        with (
            make_session(Credentials(*plain.person)) as own,
            open_request_slide(settings_for(plain.url), own, claim) as slide,
        ):
            assert isinstance(slide, Reporting)
            assert slide.source_report().kind == ("http_range" if gives_ranges(plain) else "download")
            assert_same_tiles(slide, real_slide())


def test_a_slide_deleted_in_mid_read_is_an_error_by_dicomweb(
    server: OrthancServer, session: requests.Session, tmp_path: Path
) -> None:
    claim = stored(server, write_slide(tmp_path))
    with DicomwebSource(settings_for(server.url), session).open(claim) as slide:
        server.request("DELETE", f"/instances/{claim.instances[0].id}").raise_for_status()
        with pytest.raises(SourceDeletedError):
            slide.read_region((0, 0), 0, (400, 200))


def test_a_slide_that_is_nowhere_is_named_deleted(
    server: OrthancServer, session: requests.Session, tmp_path: Path
) -> None:
    claim = stored(server, write_slide(tmp_path))
    server.request("DELETE", f"/instances/{claim.instances[0].id}").raise_for_status()
    with pytest.raises(SlideError, match="not in Orthanc any more"):
        open_request_slide(settings_for(server.url), session, claim)
