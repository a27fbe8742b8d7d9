# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Orthanc whose disk is full: it says so, and nothing that was accepted is lost or half there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import ServerSite, Slide, running
from tests.support.small_disk import filled, small_file_system
from tests.support.tiny_dicom import tiny_result, tiny_slide

pytestmark = [pytest.mark.server]

SIZE = "24m"


def site_on(disk: Path, *what: str) -> AbstractContextManager[ServerSite]:
    """Run a site with its files, its database or both on a small file system."""
    return running(slides=1, environment=dict.fromkeys(what, str(disk)))


def store_again(site: ServerSite, slide: Slide) -> int:
    changed = tiny_slide(slide.series_uid, slide.study_uid, sop_uid=slide.sop_uid, note="changed")
    return site.server.post("/instances", data=changed).status_code


def test_a_submit_is_503_and_nothing_is_accepted(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "disk", SIZE) as disk,
        site_on(disk, "ORTHANC_STORAGE", "ORTHANC_INDEX") as site,
    ):
        slide, queue = site.new_slide(), Queue(site)
        with filled(disk):
            answer = queue.submit(slide)
            assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")
            assert answer.json["error"].endswith("Try again.")
            assert site.call("GET", "/pathology/requests/").json["count"] == 0
        assert queue.submit(slide).status == 201


def test_a_result_is_taken_whole_once_there_is_room_for_its_files(tmp_path: Path) -> None:
    """Orthanc 1.10 itself takes what it has no room for without a word, and keeps the beginning."""
    with small_file_system(tmp_path / "disk", SIZE) as disk, site_on(disk, "ORTHANC_STORAGE") as site:
        slide, queue = site.new_slide(), Queue(site)
        request_id = queue.submitted(slide)
        lease = queue.claim()
        report = tiny_result(slide.study_uid)
        before = site.series_ids()
        with filled(disk):
            assert lease.put("heatmap.png", PNG).json["code"] == "storage_unavailable"
        assert lease.put("heatmap.png", PNG).status == 200
        assert lease.put("sr.dcm", report, "application/dicom").status == 200
        body = lease.body(named("heatmap.png", PNG), named("sr.dcm", report))
        with filled(disk):
            assert lease.send(body).json["code"] == "storage_unavailable"
            assert queue.status(request_id) == "publishing"
            assert site.series_ids() == before
        assert lease.send(body).status == 200
        (output,) = queue.get(request_id)["dicom"]
        (instance,) = site.server.get(f"/series/{output['series']}").json()["Instances"]
        assert site.server.get(f"/instances/{instance}/file").content == report


def test_a_result_is_taken_once_there_is_room_in_the_database(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", SIZE) as disk, site_on(disk, "ORTHANC_INDEX") as site:
        slide, queue = site.new_slide(), Queue(site)
        request_id = queue.submitted(slide)
        lease = queue.claim()
        report = tiny_result(slide.study_uid)
        lease.put("sr.dcm", report, "application/dicom")
        body = lease.body(named("sr.dcm", report))
        with filled(disk):
            assert lease.send(body).json["code"] == "storage_unavailable"
            assert queue.status(request_id) == "processing"
            # Orthanc itself cannot replace the slide then, so that there is nothing to carry over.
            assert store_again(site, slide) == 500
            assert queue.status(request_id) == "processing"
        assert lease.send(body).status == 200
        assert queue.status(request_id) == "completed"
