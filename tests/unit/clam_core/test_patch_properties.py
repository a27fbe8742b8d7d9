# SPDX-License-Identifier: Apache-2.0
"""Patches of any pieces on any pyramid: on the slide, on tissue, in order, and none forgotten."""

import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from clam_core.errors import NoTissueError
from clam_core.options import AnalysisOptions, Reference
from clam_core.patches import ContourRule, PatchGrid, patch_coordinates, plan_by_mpp, read_patch
from clam_core.reading import find_tissue, lay_patches, plan_patches, summarize
from clam_core.slides.slide import pyramid
from clam_core.tissue import Piece
from tests.support.core_fakes import TISSUE, ArraySlide, FakeModel, blank
from tests.support.huge_slide import measured_apart
from tests.support.one_by_one import patches_one_by_one

SIDE = 60

POINTS = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))
POLYGONS = st.lists(POINTS, min_size=1, max_size=12).map(lambda points: np.array(points, dtype=np.int32))
"""Any at all: crossing itself, running back on itself, a line, a point."""
PIECES = st.lists(st.builds(Piece, POLYGONS, st.lists(POLYGONS, max_size=2).map(tuple)), max_size=3)
LENGTHS = st.tuples(st.integers(1, 24), st.integers(1, 24))
STEPS = st.tuples(st.integers(2, 24), st.integers(2, 24))


@st.composite
def grids(draw: Any, *, with_origin: bool = False) -> PatchGrid:
    return PatchGrid(
        draw(LENGTHS),
        draw(STEPS),
        draw(st.sampled_from(ContourRule)),
        shift=draw(st.sampled_from([0.0, 0.375, 0.5, 0.625])),
        padding=draw(st.booleans()),
        origin=draw(st.tuples(st.integers(0, 50), st.integers(0, 50))) if with_origin else None,
    )


@settings(max_examples=150, deadline=None)
@given(PIECES, grids())
@example([Piece(np.array([[5, 5]], np.int32), ())], PatchGrid((8, 8), (8, 8), ContourRule.BASIC))
def test_the_patches_are_those_of_the_walk_over_every_point_in_its_order(
    pieces: list[Piece], grid: PatchGrid
) -> None:
    found = patch_coordinates(pieces, (SIDE, SIDE), grid)
    assert [(int(x), int(y)) for x, y in found] == patches_one_by_one(pieces, (SIDE, SIDE), grid)


@settings(max_examples=100, deadline=None)
@given(PIECES, grids(with_origin=True))
def test_one_grid_for_all_pieces_is_in_order_without_repeats_and_on_tissue(
    pieces: list[Piece], grid: PatchGrid
) -> None:
    found = [(int(x), int(y)) for x, y in patch_coordinates(pieces, (SIDE, SIDE), grid)]
    assert found == sorted(set(found))
    origin = grid.origin or (0, 0)
    for x, y in found:
        assert (x - origin[0]) % grid.step[0] == 0
        assert (y - origin[1]) % grid.step[1] == 0
        assert 0 <= x < SIDE
        assert 0 <= y < SIDE
        points = [(x + dx, y + dy) for dx, dy in grid.test_points()]
        assert any(touches(piece, point) for piece in pieces for point in points)


def touches(piece: Piece, point: tuple[int, int]) -> bool:
    return cv2.pointPolygonTest(piece.outline.reshape(-1, 1, 2), point, False) >= 0


PYRAMIDS = st.builds(
    lambda width, height, factors: pyramid(
        [(width, height)] + [(max(1, int(width / f)), max(1, int(height / f))) for f in sorted(factors)]
    ),
    st.integers(3000, 90_000),
    st.integers(3000, 90_000),
    st.lists(st.floats(1.3, 70.0), max_size=5),
)


@settings(max_examples=200, deadline=None)
@given(
    PYRAMIDS, st.tuples(st.floats(0.1, 1.2), st.floats(0.8, 1.25)), st.floats(0.2, 4.0), st.integers(32, 512)
)
def test_a_patch_covers_the_same_glass_from_whatever_level_it_is_read(
    levels: Any, spacing: Any, wanted: Any, patch_px: Any
) -> None:
    mpp = (spacing[0], spacing[0] * spacing[1])
    assume(sum(mpp) / 2 <= 2 * wanted)
    plan = plan_by_mpp(levels, mpp, wanted, patch_px)
    chosen = levels[plan.level]
    for axis in (0, 1):
        micrometres = plan.footprint[axis] * mpp[axis]
        assert abs(micrometres - patch_px * wanted) <= 0.021 * patch_px * wanted + mpp[axis]
        read = plan.read_px[axis] * chosen.downsample[axis]
        assert abs(read - plan.footprint[axis]) <= chosen.downsample[axis] / 2 + 1e-6
    if plan.level:
        assert sum(mpp) / 2 * sum(chosen.downsample) / 2 <= wanted * 1.021, "never enlarged, where it can be"


@st.composite
def slides(draw: Any) -> ArraySlide:
    """Draw pieces of tissue of any outline on glass, at any spacing, with any number of levels."""
    picture = blank(draw(st.integers(500, 1600)), draw(st.integers(500, 1600)))
    height, width = picture.shape[:2]
    corners = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    for polygon in draw(st.lists(st.lists(corners, min_size=3, max_size=8), min_size=1, max_size=3)):
        cv2.fillPoly(picture, [np.array(polygon, dtype=np.int32)], TISSUE)
    mpp = draw(st.floats(0.3, 1.9))
    return ArraySlide(picture, levels=draw(st.integers(1, 5)), mpp=(mpp, mpp))


@settings(max_examples=40, deadline=None)
@given(slides(), st.sampled_from([None, Reference.PATCHING, Reference.HEATMAP]), st.sampled_from([0.0, 0.5]))
def test_no_patch_of_any_slide_lies_beyond_it_or_on_bare_glass(
    slide: ArraySlide, reference: Any, overlap: Any
) -> None:
    options = AnalysisOptions(reference=reference)
    model = FakeModel(mpp=1.0)
    summary = summarize(slide, options)
    plan = plan_patches(slide, summary, model, options)
    try:
        tissue = find_tissue(slide, summary, model, options)
        found = lay_patches(slide, tissue, plan, options, overlap)
    except NoTissueError:
        return
    base = slide.levels[0]
    assert (found >= 0).all()
    assert (found < (base.width, base.height)).all()
    # Outlines are truncated to whole pixels of the mask, whose blur and closing add a few more.
    margin = int(8 * max(tissue.downsample)) + 1
    picture = slide.read_region((0, 0), 0, (base.width, base.height))
    stained = np.pad((picture != blank(1, 1)[0, 0]).any(axis=2), margin)
    for x, y in found:
        around = stained[y : y + plan.footprint[1] + 2 * margin, x : x + plan.footprint[0] + 2 * margin]
        assert around.any(), "a patch on bare glass"
    side = plan.patch_px
    assert read_patch(slide, plan, (int(found[-1][0]), int(found[-1][1]))).shape == (side, side, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from Linux's /proc")
def test_memory_stays_bounded_on_a_slide_of_100_000_pixels_a_side() -> None:
    figures = measured_apart()
    assert figures["patches"] > 10_000
    assert figures["largest_read_px"] <= 1 << 24
    assert figures["megabytes"] < 300, "136 were measured; the level that is read has 117 MB of pixels alone"
