# SPDX-License-Identifier: Apache-2.0
"""How fast tiles get out of a real Orthanc, side by side with local files and with DICOMweb.

``python bench/bench_slides.py [--tiles 40] [--repeats 5]``: prints a table and one line of JSON. The slides
are real tissue tiled up. Reads as a person, whom no lease limits. What each figure means stands in
docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.made_slides import write_many_frames, write_tissue
from bench.slide_figures import (
    Stored,
    dicomweb_rate,
    line_figures,
    local_figures,
    memory_of_opening,
    opening_figures,
)
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.orthanc_server import OrthancServer
from tests.support.ranges_server import RangesServer

FRAMES_180K = {"columns": 424, "rows": 425}
SEVEN_LEVELS = (2, 4, 8, 16, 32, 64)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tiles", type=int, default=40, help="tiles of 512 px along a side of the slide")
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-slides-")))
        server = stack.enter_context(OrthancServer())
        figures = measure(server, folder, options.tiles, options.repeats)
    for name, value in figures.items():
        print(f"{name:28} {value:12.3f}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def measure(server: OrthancServer, folder: Path, tiles: int, repeats: int) -> dict[str, float]:
    """Return the medians of all figures."""
    found: dict[str, list[float]] = defaultdict(list)
    slides = {
        512: Stored.in_orthanc(server, [write_tissue(folder / "512.dcm", tiles=tiles, tile_px=512)]),
        256: Stored.in_orthanc(server, [write_tissue(folder / "256.dcm", tiles=2 * tiles, tile_px=256)]),
    }
    many = Stored.in_orthanc(server, [write_many_frames(folder / "many.dcm", **FRAMES_180K, sparse=False)])
    levels = sorted(pyramid_folder(folder / "levels", factors=SEVEN_LEVELS).glob("*.dcm"))
    seven = Stored.in_orthanc(server, levels)
    for _ in range(repeats):
        for side, slide in slides.items():
            collect(found, local_figures(slide, side))
        collect(found, {"dicomweb_tiles_per_s": dicomweb_rate(server, slides[512])})
        collect(found, line_figures(server, slides[512]))
        collect(found, opening_figures(many, "180k"))
        collect(found, opening_figures(seven, "7_levels"))
    with RangesServer() as plain:
        # Orthanc itself takes minutes to store so many positions.
        sparse = write_many_frames(folder / "sparse.dcm", **FRAMES_180K, sparse=True)
        plain.store(sparse)
        for _ in range(repeats):
            collect(found, opening_figures(Stored.elsewhere(plain, [sparse]), "180k_sparse"))
    collect(found, memory_of_opening(many, "180k"))
    figures = {name: statistics.median(values) for name, values in found.items()}
    figures["ratio_to_local"] = figures["ratio_to_local_512"]
    figures["ratio_to_dicomweb"] = figures["ranges_tiles_per_s_512"] / figures["dicomweb_tiles_per_s"]
    return figures


def collect(found: dict[str, list[float]], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        found[name].append(value)


if __name__ == "__main__":
    main()
