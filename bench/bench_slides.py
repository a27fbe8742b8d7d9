# SPDX-License-Identifier: Apache-2.0
"""How fast tiles get out of a real Orthanc, side by side with local files and with DICOMweb.

``python bench/bench_slides.py [--side 12288] [--repeats 3]``: prints a table and one line of JSON. The slide
is real tissue tiled up; it goes through the converter, as any slide does. Reads as a person, whom no lease
limits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import numpy as np
import openslide
from requests import Session
from requests.auth import HTTPBasicAuth
from wsidicom import WsiDicom, WsiDicomWebClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.delaying_proxy import DelayingProxy
from clam_core.slides import Pixels, Prefetching, Slide, WsiDicomSlide
from tests.support.orthanc_server import OrthancServer
from worker.contract import Claim, new_token, parse_claim
from worker.demo_slide import demo_slide
from worker.drawn_slide import write_tiled_tiff
from worker.ingest.environment import converter_python
from worker.ingest.identity import SlideOptions
from worker.ingest.pipeline import Ingest, IngestedSeries
from worker.ingest.progress import silent
from worker.ingest.store import OrthancStore
from worker.settings import Credentials, Settings
from worker.settings_reading import load_settings
from worker.sources import OrthancRangesSource, RangesClient
from worker.transport import make_session

BATCH = 64
WEB_TILES = 12
LINE_BYTES_PER_S = 12_500_000.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--side", type=int, default=12_288, help="pixels of the slide's side")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-slides-")))
        server = stack.enter_context(OrthancServer())
        series = store(server, tiled_up(folder, options.side))
        files = fetch(server, series, folder)
        measure(server, series, files, options.repeats)


def tiled_up(folder: Path, side: int) -> Path:
    """Write real tissue tiled up to a square."""
    chosen = demo_slide(folder)
    with openslide.OpenSlide(chosen.path) as slide:
        piece = np.asarray(slide.read_region((0, 0), 0, (2048, 2048)).convert("RGB"))
    times = -(-side // 2048)
    path = folder / "tiled-up.tiff"
    write_tiled_tiff(path, np.tile(piece, (times, times, 1))[:side, :side], 0.499)
    return path


def store(server: OrthancServer, slide: Path) -> IngestedSeries:
    with ExitStack() as stack:
        client = OrthancStore(server.url, Credentials(*server.person))
        stack.callback(client.close)
        python = converter_python(None, silent)
        (series,) = Ingest(client, lambda: python, silent, date(2026, 1, 1)).run(slide, SlideOptions())
    return series


def fetch(server: OrthancServer, series: IngestedSeries, folder: Path) -> list[Path]:
    paths = []
    for instance in server.get(f"/series/{series.series}").json()["Instances"]:
        paths.append(folder / f"{instance}.dcm")
        paths[-1].write_bytes(
            server.get(f"/instances/{instance}/file", headers={"Accept-Encoding": "identity"}).content
        )
    return paths


def claim(server: OrthancServer, series: IngestedSeries) -> Claim:
    server.post("/pathology/analyze", json={"series": series.series}).raise_for_status()
    token = new_token()
    body = {
        "worker_id": "bench", "token": token, "api": 1, "wait": 20, "default_model": "bench",
        "models": [{"name": "bench", "version": "1", "sha256": "0" * 64}], "software": "0", "device": "cpu",
    }  # fmt: skip
    return parse_claim(server.post("/pathology/claim", json=body, auth=server.worker).json(), token)


def measure(server: OrthancServer, series: IngestedSeries, files: list[Path], repeats: int) -> None:
    settings = load_settings({"ORTHANC_URL": server.url})
    rows: dict[str, float] = {}
    with make_session(Credentials(*server.person)) as session:
        request = claim(server, series)
        for side, readers in ((512, 1), (512, 2), (256, 2)):
            ratios, local_rates, ranges_rates, shares = [], [], [], []
            for _ in range(repeats):
                with WsiDicomSlide(WsiDicom.open(files)) as local:
                    local_rates.append(rate(local, side, readers))
                client = RangesClient(settings, session)
                with OrthancRangesSource(client).open(request) as slide:
                    ranges_rates.append(rate(slide, side, readers))
                    shares.append(client.traffic.bytes / level_bytes(request))
                ratios.append(ranges_rates[-1] / local_rates[-1])
            name = f"{side}px_{readers}t"
            rows[f"local_{name}"] = statistics.median(local_rates)
            rows[f"ranges_{name}"] = statistics.median(ranges_rates)
            rows[f"ratio_to_local_{name}"] = statistics.median(ratios)
            rows[f"bytes_ratio_{name}"] = statistics.median(shares)
        rows["open_ms"] = 1000 * statistics.median(open_times(settings, session, request, repeats))
        rows.update(over_a_line(server, session, request))
    rows["dicomweb_tiles_per_s"] = dicomweb_rate(server, series, files)
    rows["ratio_to_dicomweb"] = rows["ranges_512px_2t"] / rows["dicomweb_tiles_per_s"]
    rows["ratio_to_local"] = rows["ratio_to_local_512px_2t"]
    for name, value in rows.items():
        print(f"{name:32} {value:12.3f}")
    print(json.dumps({name: round(value, 4) for name, value in rows.items()}))


def rate(slide: Slide, side: int, readers: int) -> float:
    """Return tiles of level 0 per second, read in batches as the encoder's readers do."""
    base = slide.levels[0]
    corners = [(x, y) for y in range(0, base.height, side) for x in range(0, base.width, side)]
    batches = [corners[start : start + BATCH] for start in range(0, len(corners), BATCH)]

    def read(batch: Sequence[tuple[int, int]]) -> list[Pixels]:
        if isinstance(slide, Prefetching):
            slide.prefetch(0, batch, (side, side))
        return [slide.read_region(corner, 0, (side, side)) for corner in batch]

    begun = time.perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        count = sum(len(tiles) for tiles in pool.map(read, batches))
    return count / (time.perf_counter() - begun)


def level_bytes(request: Claim) -> int:
    """Return the size of the largest level: all its frames, and little else."""
    return max(instance.size for instance in request.instances)


def over_a_line(server: OrthancServer, session: Session, request: Claim) -> dict[str, float]:
    """Return the share of a 100 Mbit/s line of 20 ms that is used, and the tiles per second over it."""
    with DelayingProxy(server.port, round_trip_s=0.020, bytes_per_s=LINE_BYTES_PER_S) as line:
        settings = load_settings({"ORTHANC_URL": f"http://127.0.0.1:{line.port}"})
        with OrthancRangesSource(RangesClient(settings, session)).open(request) as slide:
            slide.read_region((0, 0), 0, (1, 1))
            before, begun = line.bytes, time.perf_counter()
            tiles = rate(slide, 512, 4)
            seconds = time.perf_counter() - begun
    used = (line.bytes - before) / seconds
    return {"wan_share": used / LINE_BYTES_PER_S, "wan_tiles_per_s": tiles}


def open_times(settings: Settings, session: Session, request: Claim, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        OrthancRangesSource(RangesClient(settings, session)).open(request).close()
        times.append(time.perf_counter() - begun)
    return times


def dicomweb_rate(server: OrthancServer, series: IngestedSeries, files: list[Path]) -> float:
    """Return tiles per second through wsidicom's own DICOMweb client."""
    with WsiDicom.open(files) as local:
        study = str(local.uids.study_instance)
    client = WsiDicomWebClient.create_client(f"{server.url}/dicom-web", auth=HTTPBasicAuth(*server.person))
    with WsiDicom.open_web(client, study, series.series_instance_uid) as slide:
        begun = time.perf_counter()
        for index in range(WEB_TILES):
            slide.read_tile(0, (index, index), as_array=True)
        return WEB_TILES / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
