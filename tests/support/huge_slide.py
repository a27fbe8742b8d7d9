# SPDX-License-Identifier: Apache-2.0
"""A slide of 100,000 x 100,000 pixels, drawn where it is read, and the memory that an analysis takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from clam_core.patches import PatchGrid, patch_coordinates, plan_by_mpp
from clam_core.slides import Level, Pixels, SlideIdentity
from clam_core.slides.slide import pyramid
from clam_core.tissue import preset, segment_at_mpp

SIDE = 100_000
DOWNSAMPLES = (1, 4, 16, 64)
MPP = (0.25, 0.25)
PALETTE = np.array([(244, 244, 244), (205, 120, 175)], dtype=np.uint8)


class HugeSlide:
    """Islands of tissue with holes, at every level the same."""

    mpp = MPP
    identity = SlideIdentity(name="drawn")

    def __init__(self, side: int = SIDE) -> None:
        noise = np.random.default_rng(3).random((24, 24)).astype(np.float32)
        smooth = cv2.resize(noise, (side // DOWNSAMPLES[-1],) * 2, interpolation=cv2.INTER_CUBIC)
        self._tissue = (smooth > 0.5).astype(np.uint8)
        self.levels: tuple[Level, ...] = pyramid([(side // factor,) * 2 for factor in DOWNSAMPLES])
        self.largest_read = 0

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Look up what lies there; white outside."""
        self.largest_read = max(self.largest_read, size[0] * size[1])
        ratio = self.levels[level].downsample
        columns, rows = (
            ((location[axis] + np.arange(size[axis]) * ratio[axis]) / DOWNSAMPLES[-1]).astype(np.int64)
            for axis in (0, 1)
        )
        limit = len(self._tissue) - 1
        region = PALETTE[self._tissue[np.ix_(np.clip(rows, 0, limit), np.clip(columns, 0, limit))]]
        region[rows > limit] = 255
        region[:, columns > limit] = 255
        return region

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measured_apart() -> dict[str, float]:
    """Find tissue and patches of the huge slide in a process of its own.

    Returns
    -------
    dict
        ``seconds``, ``patches``, ``megabytes`` (how far the peak of resident memory rose) and
        ``largest_read_px``.
    """
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.huge_slide"],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _measure() -> dict[str, float]:
    slide = HugeSlide()
    before, started = _peak_mb(), time.perf_counter()
    tissue = segment_at_mpp(slide, preset("bwh_resection"), slide.mpp)
    plan = plan_by_mpp(slide.levels, slide.mpp, 0.5, 256)
    grid = PatchGrid(plan.footprint, plan.footprint, origin=(0, 0))
    patches = patch_coordinates(tissue.pieces, (SIDE, SIDE), grid)
    return {
        "seconds": time.perf_counter() - started,
        "patches": len(patches),
        "megabytes": _peak_mb() - before,
        "largest_read_px": slide.largest_read,
    }


def _peak_mb() -> float:
    """Peak of resident memory of this process, as Linux counts it (getrusage begins with the parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure()))
