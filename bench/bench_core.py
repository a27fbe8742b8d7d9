# SPDX-License-Identifier: Apache-2.0
"""How fast `clam_core` is around the encoder: tissue, patches, CLAM itself and heatmaps.

``python bench/bench_core.py [SLIDE] [--repeats 3]``: prints a table and one line of JSON. Without a slide it
draws one. CLAM takes the features of one large slide, 20,000 patches of 1,024 values, on the CPU: 31 GFLOP in
the first layer and the gated attention. The grid is measured on a ragged piece of tissue 100,000 pixels wide
against the loop over OpenCV's `pointPolygonTest` that it replaces (a sample of the points, extrapolated).
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clam_core.heatmap import Caption, compose, paint, percentiles, score_map
from clam_core.models import TorchAggregator
from clam_core.models.clam import Clam, ClamShape
from clam_core.patches import PatchGrid, patch_coordinates, plan_by_mpp
from clam_core.slides import Slide, open_slide, thumbnail
from clam_core.tissue import Piece, preset, segment
from tests.support.core_fakes import ArraySlide, glass_with_tissue

WIDE = 100_000
MIL_PATCHES = 20_000
SAMPLED = 2_000


def main() -> None:
    arguments = parse()
    slide: Slide = open_slide(arguments.slide) if arguments.slide else drawn()
    outline = ragged_outline()
    grid = PatchGrid((256, 256), (256, 256))
    features = np.random.default_rng(0).standard_normal((MIL_PATCHES, 1024)).astype(np.float32)
    rows = {
        "mil_forward_20000_s": mil_forward(features, arguments.repeats, multi_branch=False),
        "mil_forward_20000_multi_branch_s": mil_forward(features, arguments.repeats, multi_branch=True),
        "tissue_and_patches_s": median(lambda: tissue_and_patches(slide), arguments.repeats),
        "grid_100000_s": median(lambda: patch_coordinates([Piece(outline, ())], (WIDE, WIDE), grid), 3),
        "heatmap_from_features_s": median(lambda: heatmap(slide, outline), arguments.repeats),
    }
    rows["grid_loop_s"] = point_by_point(outline, grid)
    rows["grid_speedup"] = rows["grid_loop_s"] / rows["grid_100000_s"]
    for name, value in rows.items():
        print(f"{name:34} {value:12.3f}")
    figures = {name: round(value, 4) for name, value in rows.items()}
    print(json.dumps(figures | {"threads": torch.get_num_threads()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def drawn() -> ArraySlide:
    return ArraySlide(glass_with_tissue(8192, 6144), levels=5)


def median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def mil_forward(features: np.ndarray, repeats: int, *, multi_branch: bool) -> float:
    torch.manual_seed(0)
    aggregator = TorchAggregator(Clam(ClamShape(features.shape[1], 2, multi_branch=multi_branch)))
    aggregator.predict(features)
    return median(lambda: aggregator.predict(features), repeats)


def ragged_outline() -> np.ndarray:
    random = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    ragged = np.convolve(random.random(len(angles)), np.ones(15) / 15, "same")
    radii = WIDE * (0.3 + 0.2 * ragged)
    return (WIDE / 2 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.int32)


def tissue_and_patches(slide: Slide) -> np.ndarray:
    tissue = segment(slide, preset("bwh_biopsy"))
    plan = plan_by_mpp(slide.levels, slide.mpp or (0.5, 0.5), 0.5, 256)
    size = (slide.levels[0].width, slide.levels[0].height)
    return patch_coordinates(tissue.pieces, size, PatchGrid(plan.footprint, plan.footprint))


def heatmap(slide: Slide, outline: np.ndarray) -> bytes:
    """From the raw attention of about 100,000 patches to the overlay and the page as PNG."""
    pieces = [Piece(outline, ())]
    coordinates = patch_coordinates(pieces, (WIDE, WIDE), PatchGrid((256, 256), (256, 256)))
    attention = np.random.default_rng(0).standard_normal(len(coordinates)).astype(np.float32)
    scores = score_map(coordinates, percentiles(attention), (256, 256), pieces, (WIDE, WIDE), 4096)
    overlay = paint(scores)
    page = compose(thumbnail(slide, 1100), overlay, Caption("bench", "bench", "a", 0.5, len(coordinates)))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    Image.fromarray(overlay).save(buffer, "PNG")
    return buffer.getvalue()


def point_by_point(outline: np.ndarray, grid: PatchGrid) -> float:
    left, top, width, height = cv2.boundingRect(outline)
    columns, rows = (np.arange(0, side, 256) for side in (width, height))
    points = np.stack(np.meshgrid(columns + left, rows + top), axis=-1).reshape(-1, 2).astype(float)
    sample = points[:: max(1, len(points) // SAMPLED)]
    contour = outline.reshape(-1, 1, 2)
    started = time.perf_counter()
    for x, y in sample:
        any(
            cv2.pointPolygonTest(contour, (x + dx, y + dy), measureDist=False) >= 0
            for dx, dy in grid.test_points()
        )
    return (time.perf_counter() - started) / len(sample) * len(points)


if __name__ == "__main__":
    main()
