# SPDX-License-Identifier: Apache-2.0
"""Slides out of a real Orthanc: the same tiles as from local files, and faults in mid-read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import generate_frames

from clam_core.slides import FetchAhead
from tests.support.faulty_proxy import FaultyProxy, Mood
from tests.support.odd_dicom import ENCODINGS, HEIGHT, ODD_STORAGE, TILE, WIDTH, tissue, write_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.shared_data import shared_path
from tests.support.slide_reading import ODD_SLIDES, assert_same_tiles, real_slide, settings_for
from worker.api.contract import Claim, new_token, parse_claim
from worker.api.transport import make_session
from worker.settings import Credentials, Settings
from worker.sources import OrthancDownloadSource, RangesSlide, open_request_slide, repeating
from worker.sources.errors import ChangedInMidReadError, SourceDeletedError

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


@pytest.mark.parametrize("storage", ODD_STORAGE)
def test_odd_storage_reads_the_same(storage: str, server: OrthancServer, tmp_path: Path) -> None:
    files = write_slide(tmp_path, **ODD_STORAGE[storage])
    claim = claim_slide(server, files)
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        assert isinstance(slide, RangesSlide)
        assert_same_tiles(slide, files)
    end(server, claim)


def test_frames_without_offsets_are_found_by_the_server_and_not_by_reading_everything(
    server: OrthancServer, tmp_path: Path
) -> None:
    frame = b"\xff\xd8" + b"\0" * 99_998
    tile = ENCODINGS["jpeg"].encode(tissue()[:TILE, :TILE])
    files = write_slide(tmp_path, offsets="empty", frames=[frame] * 14 + [tile])
    claim = claim_slide(server, files)
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        assert isinstance(slide, RangesSlide)
        slide.read_region((WIDTH - 10, HEIGHT - 10), 0, (10, 10))
        assert slide.source_report().bytes < 0.2 * claim.instances[0].size
    end(server, claim)


@pytest.mark.parametrize("patch_px", [240, 300, 130])
def test_only_frames_under_tissue_cross_the_network_and_each_once(
    patch_px: int, server: OrthancServer
) -> None:
    claim = claim_slide(server, real_slide())
    corners = [(x, y) for x in range(500, 1500, patch_px) for y in range(700, 2000, patch_px)]
    columns = {x // 240 for left, _ in corners for x in (left, left + patch_px - 1)}
    columns = set(range(min(columns), max(columns) + 1))
    rows = {y // 240 for _, top in corners for y in (top, top + patch_px - 1)}
    rows = set(range(min(rows), max(rows) + 1))
    frames = frame_lengths(real_slide()[0])
    needed = sum(frames[row * 10 + column] for row in rows for column in columns)
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
        FetchAhead(slide) as fetching,
    ):
        assert isinstance(slide, RangesSlide)
        slide.read_region((0, 0), 0, (1, 1))
        before = slide.source_report().bytes
        batches = [corners[start : start + 7] for start in range(0, len(corners), 7)]
        for batch, here in [(batch, fetching.start(0, batch, (patch_px, patch_px))) for batch in batches]:
            here.result()
            for corner in batch:
                slide.read_region(corner, 0, (patch_px, patch_px))
        moved = slide.source_report().bytes - before
    items = 8 * len(rows) * len(columns)
    assert moved == needed + items
    end(server, claim)


def frame_lengths(path: Path) -> list[int]:
    """Return the bytes of each frame, as they lie in the file."""
    dataset = pydicom.dcmread(path)
    frames = generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))
    return [len(frame) for frame in frames]


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


def test_a_line_that_loses_requests_answers_and_parts_of_them_costs_repeats_and_no_pixel(
    server: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeating, "PAUSES_S", (0.0,) * 20)
    claim = claim_slide(server, real_slide())
    with (
        FaultyProxy(server.url) as proxy,
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_for(proxy.url, server.worker), session, claim) as slide,
    ):
        proxy.mood = Mood(lose_request=0.2, lose_answer=0.2, cut_answer=0.2)
        assert_same_tiles(slide, real_slide())
    assert proxy.faults["lose_request"] > 5
    assert proxy.faults["lose_answer"] > 5
    assert proxy.faults["cut_answer"] > 5
    end(server, claim)


def test_a_server_that_is_killed_in_mid_read_costs_no_pixel(server: OrthancServer) -> None:
    claim = claim_slide(server, real_slide())
    with (
        make_session(Credentials(*server.worker)) as session,
        open_request_slide(settings_of(server), session, claim) as slide,
    ):
        killer = threading.Timer(0.2, server.kill)
        killer.start()
        assert_same_tiles(slide, real_slide())
        killer.join()
        assert_same_tiles(slide, real_slide())
    end(server, claim)
