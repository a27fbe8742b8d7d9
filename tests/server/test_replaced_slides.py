# SPDX-License-Identifier: Apache-2.0
"""Slides that are replaced in a real Orthanc while they are read: no wrong pixel, and the request goes on."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from clam_core.run import EncoderTurn
from clam_core.slides import Pixels, Slide, WsiDicomSlide
from tests.support.odd_dicom import COLUMNS, HEIGHT, ROWS, TILE, WIDTH, write_slide
from tests.support.orthanc_server import OrthancServer, merge, store_file
from tests.support.ranges_server import claim_of
from tests.support.slide_reading import settings_for
from tests.support.worker_process import wait_until_ended
from worker.api.contract import Claim, InstanceRef, ModelOffer
from worker.api.transport import make_session
from worker.assembly import build_daemon, make_telemetry, slide_opener
from worker.jobs.job import Analysis, StageReport
from worker.processes.shutdown import ShutdownRequest
from worker.serving.daemon import Mode
from worker.settings import Credentials
from worker.sources import OrthancRangesSource, RangesClient, ranges_slide
from worker.sources.errors import ChangedInMidReadError, SourceDeletedError

pytestmark = pytest.mark.server

Replace = Callable[[OrthancServer, str, Path], None]

READERS = 4
ROUNDS = 6
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compressed": {"StorageCompression": True},
}
"""Ways to store a slide, and what the configuration of Orthanc has for them."""


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[OrthancServer]:
    overrides = {**KINDS[request.param], "OverwriteInstances": True, "Pathology": {"RetrySeconds": 0}}
    with OrthancServer(overrides=overrides) as running:
        yield running


def store_over(server: OrthancServer, _instance: str, file: Path) -> None:
    store_file(server, file)


def store_anew(server: OrthancServer, instance: str, file: Path) -> None:
    delete(server, instance)
    store_file(server, file)


def delete(server: OrthancServer, instance: str) -> None:
    server.request("DELETE", f"/instances/{instance}").raise_for_status()


def two_of_one_name(folder: Path) -> tuple[Path, Path]:
    """Return two files of one instance and one size, whose frames lie alike and show the opposite."""
    (first,) = write_slide(folder / "first", encoding="uncompressed")
    dataset = pydicom.dcmread(first)
    dataset.PixelData = (255 - np.frombuffer(dataset.PixelData, np.uint8)).tobytes()
    second = folder / "second.dcm"
    dataset.save_as(second)
    assert second.stat().st_size == first.stat().st_size
    return first, second


def stored_now(server: OrthancServer, file: Path) -> Claim:
    """Store a file and return a claim of it."""
    name = store_file(server, file)["ID"]
    info = server.get(f"/instances/{name}/attachments/dicom/info").json()
    header = pydicom.dcmread(file, stop_before_pixels=True)
    kind = tuple(header.ImageType)
    return claim_of(
        [InstanceRef(name, str(header.SOPInstanceUID), info["Uuid"], int(info["UncompressedSize"]), kind)]
    )


class Reader(threading.Thread):
    """Reads places until the slide is another one, which an error says or a wrong pixel."""

    def __init__(self, slide: Slide, truth: Pixels) -> None:
        super().__init__(daemon=True)
        self._slide = slide
        self._truth = truth
        self.right = self.wrong = 0
        self.reads = threading.Event()
        self.end: Exception | None = None

    def run(self) -> None:
        dice = random.Random(id(self))
        while self.end is None and self.wrong == 0:
            x, y = dice.randrange(WIDTH - TILE), dice.randrange(HEIGHT - TILE)
            try:
                pixels = self._slide.read_region((x, y), 0, (TILE, TILE))
            except (ChangedInMidReadError, SourceDeletedError) as error:
                self.end = error
            else:
                same = np.array_equal(pixels, self._truth[y : y + TILE, x : x + TILE])
                self.right, self.wrong = self.right + same, self.wrong + (not same)
                self.reads.set()


@pytest.mark.parametrize("replace", [store_over, store_anew])
def test_readers_of_a_slide_that_is_replaced_get_its_pixels_or_an_error(
    replace: Replace, server: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is kept, so that every read asks the server.
    monkeypatch.setattr(ranges_slide, "_FRAMES_BOUND", 1)
    monkeypatch.setattr(ranges_slide, "_TILES_BOUND", 1)
    first, second = two_of_one_name(tmp_path)
    with WsiDicomSlide.open(first) as local:
        truth = local.read_region((0, 0), 0, (WIDTH, HEIGHT))
    readers: list[Reader] = []
    for _ in range(ROUNDS):
        claim = stored_now(server, first)
        with make_session(Credentials(*server.person), connections=8) as session:
            client = RangesClient(settings_for(server.url), session, wait=lambda _seconds: False)
            with OrthancRangesSource(client).open(claim) as slide:
                now = [Reader(slide, truth) for _ in range(READERS)]
                for reader in now:
                    reader.start()
                    reader.reads.wait(30)
                replace(server, claim.instances[0].id, second)
                for reader in now:
                    reader.join(30)
        readers += now
        delete(server, claim.instances[0].id)
    assert [reader.wrong for reader in readers] == [0] * len(readers)
    assert all(reader.right > 0 and reader.end is not None for reader in readers)


def digest(slide: Slide, before: Callable[[int], None] = lambda _number: None) -> str:
    """Return a hash of the pixels of all tiles, and call `before` with the number of each."""
    found = hashlib.sha256()
    for number in range(COLUMNS * ROWS):
        before(number)
        place = number % COLUMNS * TILE, number // COLUMNS * TILE
        found.update(slide.read_region(place, 0, (TILE, TILE)).tobytes())
    return found.hexdigest()


class DigestAnalyzer:
    """Says what the pixels of a slide are; in the middle of the first one something happens."""

    offers = (ModelOffer("test", "1", "0" * 64),)
    default_model = "test"
    device = "cpu"

    def __init__(self, happen: Callable[[], None]) -> None:
        self._happen = happen
        self.slides = 0

    def analyze(
        self, slide: Slide, request: Mapping[str, Any], report: StageReport, turn: EncoderTurn
    ) -> Analysis:
        self.slides += 1
        return Analysis({"probabilities": {"test": 1.0}, "digest": digest(slide, self._before)}, {})

    def _before(self, number: int) -> None:
        if self.slides == 1 and number == COLUMNS * ROWS // 2:
            self._happen()


@contextmanager
def working(server: OrthancServer, analyzer: DigestAnalyzer, folder: Path) -> Iterator[None]:
    """Let a worker's daemon work."""
    settings = settings_for(server.url, server.worker, SPOOL_DIR=str(folder / "spool"), WORKER_ID="lab-1")
    shutdown = ShutdownRequest()
    daemon = build_daemon(settings, analyzer, shutdown, slide_opener(settings, make_telemetry()), bars=False)
    work = threading.Thread(target=daemon.run, args=(Mode.FOREVER,), daemon=True)
    work.start()
    try:
        yield
    finally:
        shutdown.ask()
        shutdown.ask()
        work.join(30)
    assert not work.is_alive()


def submit(server: OrthancServer, series: str) -> str:
    answer = server.post("/pathology/analyze", json={"series": series})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def assert_ends_with(server: OrthancServer, request_id: str, file: Path) -> None:
    """See that a request ends with the pixels of a file."""
    ended: dict[str, Any] = wait_until_ended(server.url, server.person, request_id, seconds=60)
    assert ended["status"] == "completed", ended["error"]
    with WsiDicomSlide.open(file) as local:
        assert ended["result"]["digest"] == digest(local)


def test_a_request_whose_slide_is_overwritten_in_mid_read_ends_with_the_new_one(
    server: OrthancServer, tmp_path: Path
) -> None:
    first, second = two_of_one_name(tmp_path)
    request_id = submit(server, store_file(server, first)["ParentSeries"])
    analyzer = DigestAnalyzer(lambda: store_over(server, "", second))
    with working(server, analyzer, tmp_path):
        assert_ends_with(server, request_id, second)
    assert analyzer.slides == 2


def test_a_slide_that_is_deleted_in_mid_read_ends_its_request_and_not_the_worker(
    server: OrthancServer, tmp_path: Path
) -> None:
    first, _ = two_of_one_name(tmp_path / "one")
    other, _ = two_of_one_name(tmp_path / "other")
    stored = store_file(server, first)
    request_id = submit(server, stored["ParentSeries"])
    analyzer = DigestAnalyzer(lambda: delete(server, stored["ID"]))
    with working(server, analyzer, tmp_path):
        following = submit(server, store_file(server, other)["ParentSeries"])
        assert_ends_with(server, following, other)
    assert server.get(f"/pathology/requests/{request_id}").status_code == 410
    assert analyzer.slides == 2


def test_a_request_whose_slide_is_overwritten_while_the_plugin_sees_nothing_is_answered(
    tmp_path: Path,
) -> None:
    first, second = two_of_one_name(tmp_path)
    with OrthancServer(overrides={"OverwriteInstances": True}) as server:
        request_id = submit(server, store_file(server, first)["ParentSeries"])
        enabled = server.configuration.read_text("utf-8")
        disabled = merge(json.loads(enabled), {"Pathology": {"Enabled": False}})
        server.configuration.write_text(json.dumps(disabled), "utf-8")
        server.kill()
        store_over(server, "", second)
        server.configuration.write_text(enabled, "utf-8")
        server.kill()
        with working(server, DigestAnalyzer(lambda: None), tmp_path):
            assert_ends_with(server, request_id, second)
