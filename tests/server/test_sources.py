# SPDX-License-Identifier: Apache-2.0
"""Slides out of a real Orthanc: the same tiles as from local files, and faults in mid-read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.shared_data import shared_path
from tests.support.slide_reading import ODD_SLIDES, assert_same_tiles, real_slide, settings_for
from worker.contract import Claim, new_token, parse_claim
from worker.settings import Credentials, Settings
from worker.sources import OrthancDownloadSource, RangesSlide, open_request_slide
from worker.sources.errors import ChangedInMidReadError, SourceDeletedError
from worker.transport import make_session

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[OrthancServer]:
    with OrthancServer() as running:
        yield running


@pytest.fixture(scope="module")
def compressed() -> Iterator[OrthancServer]:
    with OrthancServer(overrides={"StorageCompression": True}) as running:
        yield running


def settings_of(server: OrthancServer, **more: str) -> Settings:
    return settings_for(server.url, server.worker, **more)


def claim_slide(server: OrthancServer, files: list[Path]) -> Claim:
    """Store a slide, ask for its analysis and claim it."""
    series = {store_file(server, path)["ParentSeries"] for path in files}.pop()
    submitted = server.post("/pathology/analyze", json={"series": series, "force": True})
    assert submitted.status_code == 201, submitted.text
    return claim_next(server, submitted.json()["request_id"])


def claim_next(server: OrthancServer, request_id: str) -> Claim:
    """Claim what is there, and see that it is the request."""
    token = new_token()
    body = {
        "worker_id": "lab-1",
        "token": token,
        "api": 1,
        "wait": 20,
        "models": [{"name": "test", "version": "1", "sha256": "0" * 64}],
        "default_model": "test",
        "software": "0",
        "device": "cpu",
    }
    answer = server.post("/pathology/claim", json=body, auth=server.worker)
    assert answer.status_code == 200, answer.text
    claim = parse_claim(answer.json(), token)
    assert claim.request_id == request_id
    return claim


def end(server: OrthancServer, claim: Claim) -> None:
    """End the request, so that the next claim gets another one."""
    body = {
        "worker_id": "lab-1",
        "token": claim.lease.token,
        "fence": claim.lease.fence,
        "fingerprint": claim.fingerprint,
        "error": {"code": "test_over", "message": "The test is over.", "retryable": False},
    }
    path = f"/pathology/complete-request/{claim.request_id}/"
    server.post(path, json=body, auth=server.worker).raise_for_status()


def test_every_tile_of_a_claimed_slide_equals_the_local_file(server: OrthancServer) -> None:
    claim = claim_slide(server, sorted(shared_path("slides/dicom-cmu-1-small-region").glob("*.dcm")))
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        assert isinstance(slide, RangesSlide)
        assert_same_tiles(slide, real_slide())
    end(server, claim)


@pytest.mark.parametrize("name", ODD_SLIDES)
def test_odd_compressions_read_the_same(name: str, server: OrthancServer) -> None:
    path = shared_path(name)
    series = store_file(server, path)["ParentSeries"]
    submitted = server.post("/pathology/analyze", json={"series": series})
    if submitted.status_code == 422:
        pytest.skip(f"not eligible: {submitted.json()['code']}")
    claim = claim_next(server, submitted.json()["request_id"])
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        assert_same_tiles(slide, [path])
    end(server, claim)


def test_compressed_storage_reads_the_same(compressed: OrthancServer) -> None:
    claim = claim_slide(compressed, real_slide())
    with (
        make_session(Credentials(*compressed.worker)) as session,
        open_request_slide(settings_of(compressed), session, claim) as slide,
    ):
        assert_same_tiles(slide, real_slide())


def test_a_download_reads_the_same_and_leaves_nothing(server: OrthancServer, tmp_path: Path) -> None:
    claim = claim_slide(server, real_slide())
    with make_session(Credentials(*server.worker)) as session:
        source = OrthancDownloadSource(settings_of(server), session, scratch=tmp_path)
        with source.open(claim) as slide:
            assert_same_tiles(slide, real_slide())
    assert list(tmp_path.iterdir()) == []
    end(server, claim)


def test_a_connection_that_idled_out_does_not_end_the_reading(server: OrthancServer) -> None:
    claim = claim_slide(server, real_slide())
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        slide.read_region((0, 0), 0, (100, 100))
        time.sleep(1.5)
        assert slide.read_region((1000, 1000), 0, (600, 600)).shape == (600, 600, 3)
    end(server, claim)


def test_a_restarted_server_does_not_end_the_reading(server: OrthancServer) -> None:
    claim = claim_slide(server, real_slide())
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        server.restart()
        assert slide.read_region((1000, 1000), 0, (600, 600)).shape == (600, 600, 3)
    end(server, claim)


def test_an_instance_stored_anew_or_deleted_is_an_error_and_no_picture(server: OrthancServer) -> None:
    claim = claim_slide(server, real_slide())
    instance = next(item for item in claim.instances if item.is_volume).id
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        slide.read_region((0, 0), 0, (100, 100))
        server.request("DELETE", f"/instances/{instance}").raise_for_status()
        store_file(server, real_slide()[0])
        with pytest.raises((ChangedInMidReadError, SourceDeletedError)):
            slide.read_region((1000, 1000), 0, (600, 600))
