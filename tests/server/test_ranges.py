# SPDX-License-Identifier: Apache-2.0
"""Byte ranges of slides out of a real Orthanc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import requests
from pydicom.encaps import generate_frames

from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer, store_file, store_slide
from tests.support.shared_data import shared_path

pytestmark = pytest.mark.server


def slide_folder() -> Path:
    return shared_path("slides/dicom-cmu-1-small-region")


def level_file() -> Path:
    return max(slide_folder().glob("*.dcm"), key=lambda path: path.stat().st_size)


@pytest.fixture
def server() -> Iterator[OrthancServer]:
    with OrthancServer() as running:
        yield running


@pytest.fixture(scope="module")
def compressed() -> Iterator[OrthancServer]:
    with OrthancServer(overrides={"StorageCompression": True}) as running:
        yield running


def ask(server: OrthancServer, instance: str, ranges: list[list[int]], **headers: str) -> requests.Response:
    return server.post(f"/pathology/instances/{instance}/ranges", json={"ranges": ranges}, headers=headers)


def check_equal_to_the_file(server: OrthancServer) -> None:
    content = level_file().read_bytes()
    instance = store_file(server, level_file())["ID"]
    answer = ask(server, instance, [[0, 1000], [len(content) - 5, 100], [500_000, 70_000]])
    assert answer.status_code == 200, answer.text
    assert answer.content == content[:1000] + content[-5:] + content[500_000:570_000]
    assert answer.headers["X-Pathology-Size"] == str(len(content))
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_ranges_are_the_bytes_of_the_stored_file(server: OrthancServer) -> None:
    check_equal_to_the_file(server)


def test_the_frame_index_says_where_the_frames_lie(server: OrthancServer) -> None:
    instance = store_file(server, level_file())["ID"]
    index = server.get(f"/pathology/instances/{instance}/frames").json()
    dataset = pydicom.dcmread(level_file())
    frames = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
    assert index["frames"] == len(frames)
    assert index["transfer_syntax"] == str(dataset.file_meta.TransferSyntaxUID)
    wanted = [[index["offsets"][number], index["lengths"][number]] for number in (0, 77, len(frames) - 1)]
    assert ask(server, instance, wanted).content == frames[0] + frames[77] + frames[-1]


def test_compressed_storage_gives_the_same_bytes(compressed: OrthancServer) -> None:
    check_equal_to_the_file(compressed)


def test_a_slide_that_is_stored_again_is_noticed(server: OrthancServer) -> None:
    instance = store_file(server, level_file())["ID"]
    tag = ask(server, instance, [[0, 1]]).headers["ETag"]
    assert ask(server, instance, [[0, 1]], **{"If-Match": tag}).status_code == 200
    server.request("DELETE", f"/instances/{instance}").raise_for_status()
    assert ask(server, instance, [[0, 1]]).status_code == 404
    store_file(server, level_file())
    changed = ask(server, instance, [[0, 1]], **{"If-Match": tag})
    assert (changed.status_code, changed.json()["code"]) == (409, "changed_in_mid_read")


def test_what_is_no_slide_is_not_served(server: OrthancServer) -> None:
    instance = store_file(server, shared_path("slides/dicom-misc/hd_sm_annotations.dcm"))["ID"]
    answer = ask(server, instance, [[0, 1]])
    assert (answer.status_code, answer.json()["code"]) == (422, "not_a_slide")


def test_a_worker_reads_the_slide_it_claimed_and_no_label(server: OrthancServer) -> None:
    series = store_slide(server, slide_folder())
    other = store_file(server, shared_path("slides/dicom-misc/hd_sm_image_uncompressed.dcm"))["ID"]
    instances = server.get(f"/series/{series}/instances").json()
    worker = FakeWorker(server)
    assert worker.ranges(instances[0]["ID"], [[0, 1]]).status_code == 403
    submitted = server.post("/pathology/analyze", json={"series": series})
    assert submitted.status_code == 201, submitted.text
    granted = worker.claim()["instances"]
    assert len(granted) == len(instances)
    for instance in granted:
        expected = 200 if "VOLUME" in instance["image_type"] else 403
        assert worker.ranges(instance["id"], [[0, 1]]).status_code == expected, instance
    assert worker.ranges(other, [[0, 1]]).status_code == 403
