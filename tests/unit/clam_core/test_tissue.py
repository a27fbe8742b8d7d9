# SPDX-License-Identifier: Apache-2.0
"""Tissue as the reference finds it."""

from typing import Any

import cv2
import numpy as np
import pytest

from clam_core.errors import ParameterError
from clam_core.tissue import PRESETS, Piece, TissueParameters, fill_pieces, preset, segment
from tests.support.core_fakes import ArraySlide, blank, glass_with_tissue
from tests.unit.clam_core import golden_seg_patch as golden

SMALL = TissueParameters(8, 3, 0, minimum_area=0.01, minimum_hole_area=0.001, maximum_holes=8)


@pytest.mark.parametrize("name", golden.sets())
def test_mask_contours_and_holes_equal_the_reference(name: Any) -> None:
    expected = golden.arrays(name)
    with golden.slide_of(name) as slide:
        tissue = golden.tissue_of(slide, name)
    shape = expected["mask_shape"]
    mask = np.unpackbits(expected["mask_packed"])[: shape.prod()].reshape(shape)
    outlines = np.split(expected["tissue_points"], expected["tissue_offsets"][1:-1])
    holes = np.split(expected["hole_points"], expected["hole_offsets"][1:-1])
    ours = [(parent, hole) for parent, of_one in enumerate(tissue.holes) for hole in of_one]

    assert tissue.level == golden.entry(name)["resolved_seg_level"]
    assert np.array_equal(tissue.mask > 0, mask)
    assert len(tissue.contours) == golden.entry(name)["n_tissue"]
    assert all(np.array_equal(a, b) for a, b in zip(tissue.contours, outlines, strict=False))
    assert [parent for parent, _ in ours] == expected["hole_parent"].tolist()
    assert all(np.array_equal(a, b) for (_, a), b in zip(ours, holes, strict=False))


def test_slide_without_tissue_is_an_answer() -> None:
    tissue = segment(ArraySlide(blank(800, 600)), SMALL)
    assert tissue.pieces == ()
    assert tissue.area_px == 0


def test_area_is_that_of_the_tissue_without_its_holes() -> None:
    picture = blank(1000, 1000)
    picture[100:900, 100:900] = (200, 60, 150)
    picture[400:600, 400:600] = (244, 244, 244)
    tissue = segment(ArraySlide(picture), SMALL)
    assert tissue.area_mm2((0.5, 0.5)) == pytest.approx((800**2 - 200**2) * 0.25e-6, rel=0.02)


def test_holes_beyond_the_largest_few_are_tissue() -> None:
    picture = blank(1000, 1000)
    picture[50:950, 50:950] = (200, 60, 150)
    for x, side in ((100, 150), (400, 120), (700, 90)):
        picture[300 : 300 + side, x : x + side] = (244, 244, 244)
    two = TissueParameters(8, 3, 0, minimum_area=0.01, minimum_hole_area=0.001, maximum_holes=2)
    assert [len(holes) for holes in segment(ArraySlide(picture), two).holes] == [2]


def test_large_level_is_shrunk_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clam_core.tissue.segmentation.MAXIMUM_MASK_PIXELS", 300_000)
    slide = ArraySlide(glass_with_tissue(2048, 1536))
    tissue = segment(slide, SMALL)
    assert tissue.mask.size <= 300_000
    assert tissue.downsample == (4.0, 4.0)
    assert tissue.area_px == pytest.approx(np.pi * (2048 // 3) * (1536 // 3), rel=0.03)


def test_island_in_a_dropped_hole_is_filled_after_the_hole() -> None:
    square = np.array([[0, 0], [99, 0], [99, 99], [0, 99]], dtype=np.int32)
    hole = np.array([[20, 20], [80, 20], [80, 80], [20, 80]], dtype=np.int32)
    island = np.array([[40, 40], [60, 40], [60, 60], [40, 60]], dtype=np.int32)
    filled = fill_pieces([Piece(island, ()), Piece(square, (hole,))], (100, 100), (1.0, 1.0))
    assert (filled[50, 50], filled[30, 30], filled[10, 10]) == (1, 0, 1)


def test_mask_can_be_drawn_for_a_part_of_the_slide() -> None:
    square = np.array([[40, 40], [80, 40], [80, 80], [40, 80]], dtype=np.int32)
    filled = fill_pieces([Piece(square, ())], (10, 10), (4.0, 4.0), offset=(10, 10))
    assert cv2.countNonZero(filled) == 100


def test_every_preset_can_be_had_by_name() -> None:
    assert {name: preset(name) for name in PRESETS} == dict(PRESETS)


def test_unknown_preset_is_a_sentence_that_lists_them() -> None:
    with pytest.raises(ParameterError, match="bwh_biopsy"):
        preset("nope")


@pytest.mark.parametrize("kernel", [0, 4, -1])
def test_even_median_kernel_is_refused(kernel: Any) -> None:
    with pytest.raises(ParameterError, match="odd"):
        TissueParameters(8, kernel, 4, 1, 1, 1)


def test_negative_closing_is_refused() -> None:
    with pytest.raises(ParameterError, match="negative"):
        TissueParameters(8, 7, -1, 1, 1, 1)
