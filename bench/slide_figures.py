# SPDX-License-Identifier: Apache-2.0
"""Single measurements of reading slides, each made of one slide on one server."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from requests.auth import HTTPBasicAuth
from wsidicom import WsiDicom, WsiDicomWebClient

from bench.delaying_proxy import DelayingProxy
from clam_core.encoding import read_ahead
from clam_core.options import AnalysisOptions
from clam_core.slides import FetchAhead, Pixels, Slide, WsiDicomSlide, tiles_under
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.ranges_server import RangesServer, claim_of
from worker.api.contract import Claim, InstanceRef
from worker.api.transport import make_session
from worker.settings import Credentials
from worker.settings_reading import load_settings
from worker.sources import OrthancRangesSource, RangesClient
from worker.sources.headers import read_header
from worker.sources.prefetching import FrameNumbers, PrefetchingSlide

BATCH = AnalysisOptions().batch_size
"""Patches of a batch: the worker's own."""
READERS = 2
WEB_TILES = 6
LINE_BYTES_PER_S = 12_500_000.0
LINE_ROUND_TRIP_S = 0.020
PATCH_PX = 480
"""On the line patches straddle the tiles, as those of a model at another resolution do."""

Corners = list[tuple[int, int]]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Stored:
    """A slide on a server, and the same files here."""

    url: str
    user: tuple[str, str]
    files: list[Path]
    claim: Claim

    @classmethod
    def in_orthanc(cls, server: OrthancServer, files: list[Path]) -> Stored:
        """Store files; the claim is what the plugin would hand out of them."""
        instances = []
        for path in files:
            name = store_file(server, path)["ID"]
            info = server.get(f"/instances/{name}/attachments/dicom/info").json()
            with path.open("rb") as stream:
                header = read_header(stream)
            uid, kind = str(header.SOPInstanceUID), tuple(header.ImageType)
            instances.append(InstanceRef(name, uid, info["Uuid"], int(info["UncompressedSize"]), kind))
        return cls(server.url, server.person, files, claim_of(instances))

    @classmethod
    def elsewhere(cls, server: RangesServer, files: list[Path]) -> Stored:
        """Return a slide of a plain server of the tests."""
        return cls(server.url, ("worker", "secret"), files, server.claim())

    @contextmanager
    def opened(self, url: str | None = None) -> Iterator[tuple[PrefetchingSlide, RangesClient]]:
        """Open the slide by byte ranges."""
        settings = load_settings({"ORTHANC_URL": url or self.url})
        with make_session(Credentials(*self.user), connections=16) as session:
            client = RangesClient(settings, session)
            with OrthancRangesSource(client).open(self.claim) as slide:
                assert isinstance(slide, PrefetchingSlide)
                yield slide, client


def local_figures(stored: Stored, side: int) -> dict[str, float]:
    """Read every tile from local files and out of Orthanc, one after the other; then with one reader.

    Two readers wait for each other's turn in Python, and that counts as processor time: what a core is good
    for one reader says.
    """
    with WsiDicomSlide(WsiDicom.open(stored.files)) as local:
        local_rate, _ = rate(local, every_tile(local, side), side)
    with stored.opened() as (slide, _):
        ranges_rate, per_core_shared = rate(slide, every_tile(slide, side), side)
    with stored.opened() as (slide, _):
        _, per_core = rate(slide, every_tile(slide, side), side, readers=1)
    return {
        f"local_tiles_per_s_{side}": local_rate,
        f"ranges_tiles_per_s_{side}": ranges_rate,
        f"ratio_to_local_{side}": ranges_rate / local_rate,
        f"tiles_per_s_core_{side}": per_core,
        f"tiles_per_s_core_two_readers_{side}": per_core_shared,
    }


def every_tile(slide: Slide, side: int) -> Corners:
    base = slide.levels[0]
    return [(x, y) for y in range(0, base.height, side) for x in range(0, base.width, side)]


def rate(slide: Slide, corners: Corners, side: int, readers: int = READERS) -> tuple[float, float]:
    """Return tiles per second, and per second of this process' processor time, fetched ahead and decoded."""
    begun, worked = time.perf_counter(), time.process_time()
    count = sum(map(len, read_all(slide, corners, side, readers)))
    return count / (time.perf_counter() - begun), count / (time.process_time() - worked)


def read_all(slide: Slide, corners: Corners, side: int, readers: int = READERS) -> Iterator[list[Pixels]]:
    """Yield batches of pixels."""

    def read(batch: Corners) -> list[Pixels]:
        return [slide.read_region(corner, 0, (side, side)) for corner in batch]

    return in_batches(slide, corners, side, readers, read)


def fetch_all(slide: Slide, corners: Corners, side: int) -> Iterator[None]:
    """Fetch what reading needs, and decode nothing."""
    return in_batches(slide, corners, side, READERS, lambda _batch: None)


def in_batches(
    slide: Slide, corners: Corners, side: int, readers: int, work: Callable[[Corners], Read]
) -> Iterator[Read]:
    """Yield what is made of batches of places, fetched and read ahead as the worker does for its encoder."""

    def start(batch: Corners) -> Future[None]:
        return fetching.start(0, batch, (side, side))

    def read(batch: Corners, here: Future[None]) -> Read:
        here.result()
        return work(batch)

    batches = [corners[first : first + BATCH] for first in range(0, len(corners), BATCH)]
    with FetchAhead(slide) as fetching, read_ahead(batches, start, read, readers) as found:
        yield from found


def line_figures(server: OrthancServer, stored: Stored) -> dict[str, float]:
    """Read the patches on tissue over a line of 20 ms and 100 Mbit/s; and fetch them without decoding.

    The tissue is an ellipse in each half of the slide; the proxy counts every byte, headers included.
    """
    moved, seconds, corners = over_a_line(server, stored, read_all)
    fetched, fetching_seconds, _ = over_a_line(server, stored, fetch_all)
    return {
        "wan_share": moved / seconds / LINE_BYTES_PER_S,
        "wan_share_fetch": fetched / fetching_seconds / LINE_BYTES_PER_S,
        "wan_tiles_per_s": len(corners) / seconds,
        "bytes_ratio": moved / frame_bytes(stored, corners),
    }


def over_a_line(
    server: OrthancServer, stored: Stored, work: Callable[[Slide, Corners, int], Iterable[object]]
) -> tuple[int, float, Corners]:
    """Return bytes and seconds of working on the patches on tissue over a line, and their corners."""
    proxy = DelayingProxy(server.port, round_trip_s=LINE_ROUND_TRIP_S, bytes_per_s=LINE_BYTES_PER_S)
    with proxy as line, stored.opened(f"http://127.0.0.1:{line.port}") as (slide, _):
        base = slide.levels[0]
        corners = [
            corner for corner in every_tile(slide, PATCH_PX) if _on_tissue(corner, base.width, base.height)
        ]
        slide.read_region((0, 0), 0, (1, 1))
        before, begun = line.bytes, time.perf_counter()
        deque(work(slide, corners, PATCH_PX), maxlen=0)
        return line.bytes - before, time.perf_counter() - begun, corners


def frame_bytes(stored: Stored, corners: Corners) -> int:
    """Return the bytes of the frames under patches, each frame once."""
    with WsiDicom.open(stored.files) as local:
        image = local.pyramids[0].base_level.default_instance.image_data
        limit = image.image_size
        boxes = [(x, y, min(x + PATCH_PX, limit.width), min(y + PATCH_PX, limit.height)) for x, y in corners]
        tiles = {tile for box in boxes for tile in tiles_under(image, box)}
        numbers = FrameNumbers(image)
        reader = image._get_reader(0)  # noqa: SLF001 - as worker.sources.frame_places does
        return sum(reader.frame_index[numbers.of(tile)][1] for tile in tiles)


def _on_tissue(corner: tuple[int, int], width: int, height: int) -> bool:
    x, y = (corner[0] + PATCH_PX / 2) / width, (corner[1] + PATCH_PX / 2) / height
    return any(((x - left) / 0.22) ** 2 + ((y - 0.5) / 0.45) ** 2 <= 1 for left in (0.25, 0.75))


def opening_figures(stored: Stored, name: str) -> dict[str, float]:
    """Open a slide, find its frames and read the last tile."""
    begun = time.perf_counter()
    with stored.opened() as (slide, client):
        requests, received = client.traffic.requests, client.traffic.bytes
        opened = time.perf_counter() - begun
        base = slide.levels[0]
        slide.read_region((base.width - 10, base.height - 10), 0, (10, 10))
        seconds = time.perf_counter() - begun
    return {
        f"open_s_{name}": seconds,
        f"open_header_s_{name}": opened,
        f"open_requests_{name}": requests,
        f"open_kb_{name}": received / 1000,
    }


def memory_of_opening(stored: Stored, name: str) -> dict[str, float]:
    """Open a slide and read a tile; return the most that Python held meanwhile."""
    tracemalloc.start()
    opening_figures(stored, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {f"open_mb_{name}": peak / 1e6}


def dicomweb_rate(server: OrthancServer, stored: Stored) -> float:
    """Return tiles per second through wsidicom's own DICOMweb client."""
    with stored.files[0].open("rb") as stream:
        header = read_header(stream)
    client = WsiDicomWebClient.create_client(f"{server.url}/dicom-web", auth=HTTPBasicAuth(*server.person))
    with warnings.catch_warnings():
        # wsidicom's client leaves the colour profile where it is, and pydicom says so.
        warnings.simplefilter("ignore")
        opened = WsiDicom.open_web(client, header.StudyInstanceUID, header.SeriesInstanceUID)
    with opened as slide:
        begun = time.perf_counter()
        for index in range(WEB_TILES):
            slide.read_tile(0, (index, index), as_array=True)
        return WEB_TILES / (time.perf_counter() - begun)
