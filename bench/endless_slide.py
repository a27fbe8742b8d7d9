# SPDX-License-Identifier: Apache-2.0
"""Analyse a slide of 100,000 x 100,000 pixels that exists only as a function: ``endless_slide.py PATCHES``.

Prints one line of JSON: patches, seconds and the largest memory of the process. The encoder takes no time, so
what is measured is the pipeline around it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clam_core.pipeline import analyze_slide
from clam_core.slides import Level, Pixels
from clam_core.slides.slide import pyramid
from tests.support.core_fakes import ArraySlide, FakeModel, MeanColourEncoder

SIDE = 100_000
LEVELS = 8
PATCH_PX = 256
DIM = 1280


class EndlessSlide(ArraySlide):
    """A square of textured tissue in the middle of empty glass, made where it is read."""

    def __init__(self, tissue_px: int) -> None:
        super().__init__(np.full((8, 8, 3), 244, np.uint8))
        self._levels = pyramid([(SIDE >> level, SIDE >> level) for level in range(LEVELS)])
        self._box = (SIDE - tissue_px) // 2, (SIDE + tissue_px) // 2

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid."""
        return self._levels

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Compute a rectangle."""
        scale = self._levels[level].downsample[0]
        x = location[0] + np.arange(size[0]) * scale
        y = location[1] + np.arange(size[1]) * scale
        low, high = self._box
        inside = ((y >= low) & (y < high))[:, None] & ((x >= low) & (x < high))[None]
        texture = ((x.astype(np.int64) >> 6)[None] * 7 + (y.astype(np.int64) >> 6)[:, None] * 13) % 40
        pixels = np.full((size[1], size[0], 3), 244, np.uint8)
        pixels[inside] = np.stack([200 - texture, 80 + texture, 160 - texture], axis=-1)[inside]
        return pixels


class WideEncoder(MeanColourEncoder):
    """As many values a patch as the demonstration model's encoder, in no time."""

    dim = DIM

    def encode_framed(self, tiles: Pixels) -> np.ndarray:
        """Take some of the pixels for features."""
        return np.resize(tiles[:, ::32, ::32].reshape(len(tiles), -1), (len(tiles), DIM)).astype(np.float32)


def main() -> None:
    patches = int(sys.argv[1])
    slide = EndlessSlide(round(patches**0.5) * PATCH_PX)
    begun = time.perf_counter()
    found = analyze_slide(slide, FakeModel(encoder=WideEncoder(), patch_px=PATCH_PX), device="cpu")
    print(
        json.dumps(
            {
                "patches": len(found.coordinates),
                "encode_s": found.timings["encode"],
                "all_s": time.perf_counter() - begun,
                "timings": {stage: round(seconds, 2) for stage, seconds in found.timings.items()},
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "artifacts_mb": sum(map(len, found.artifacts().values())) / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
