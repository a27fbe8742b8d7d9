# SPDX-License-Identifier: Apache-2.0
"""Patches: where they lie, at what magnification they are read, and their file."""

import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clam_core.errors import MissingMppError, MppMismatchError, ParameterError
from clam_core.patches import (
    ContourRule,
    PatchGrid,
    locate_points,
    patch_coordinates,
    plan_by_level,
    plan_by_mpp,
    read_patch,
    read_patches,
    write_patches,
)
from clam_core.slides import Level
from clam_core.slides.slide import pyramid
from clam_core.tissue import Piece
from tests.support.core_fakes import ArraySlide, glass_with_tissue
from tests.unit.clam_core import golden_seg_patch as golden

POLYGONS = st.lists(st.tuples(st.integers(-20, 40), st.integers(-20, 40)), min_size=1, max_size=14)


def by_opencv(polygon: Any, points: Any) -> list[float]:
    contour = polygon.reshape(-1, 1, 2)
    return [np.sign(cv2.pointPolygonTest(contour, (float(x), float(y)), False)) for x, y in points]


def blob(seed: int, points: int, size: int) -> Any:
    """Return a ragged closed contour inside (size, size), like those of tissue."""
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radii = size * (0.3 + 0.15 * np.convolve(random.random(points), np.ones(9) / 9, "same"))
    outline = size / 2 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return outline.astype(np.int32)


@pytest.mark.parametrize("name", golden.sets())
def test_coordinates_and_their_order_equal_the_reference(name: Any) -> None:
    given_ = golden.entry(name)["params"]
    with golden.slide_of(name) as slide:
        ratio = [int(side) for side in slide.levels[given_["patch_level"]].downsample]
        plan = plan_by_level(slide.levels, slide.mpp, given_["patch_level"], given_["patch_size"])
        grid = PatchGrid(
            plan.footprint,
            (given_["step_size"] * ratio[0], given_["step_size"] * ratio[1]),
            ContourRule(given_["contour_fn"]),
            padding=given_["use_padding"],
        )
        size = (slide.levels[0].width, slide.levels[0].height)
        found = patch_coordinates(golden.tissue_of(slide, name).pieces, size, grid)
    assert np.array_equal(found, golden.arrays(name)["coords"])


@pytest.mark.parametrize("name", golden.sets())
def test_interchange_file_has_the_layout_of_the_reference(name: Any, tmp_path: Path) -> None:
    entry = golden.entry(name)
    with golden.slide_of(name) as slide:
        level = slide.levels[entry["params"]["patch_level"]]
    coords = golden.arrays(name)["coords"]
    path = write_patches(
        tmp_path / "slide.h5",
        coords,
        patch_size=(entry["params"]["patch_size"],) * 2,
        patch_level=entry["params"]["patch_level"],
        level=level,
    )
    if entry["n_coords"] == 0:
        assert path is None
        assert list(tmp_path.iterdir()) == []
        return
    with h5py.File(path) as file:
        dataset = file["coords"]
        assert str(dataset.dtype) == entry["h5_dtype"]
        assert list(dataset.chunks) == entry["h5_chunks"]
        attributes = {key: np.asarray(value).tolist() for key, value in dataset.attrs.items()}
        assert np.array_equal(dataset[:], coords)
    expected = {key: value for key, value in entry["h5_attrs"].items() if key != "name"}
    assert {key: attributes[key] for key in expected} == expected
    assert attributes["name"] == "slide"


@settings(max_examples=300, deadline=None)
@given(POLYGONS)
def test_points_lie_where_opencv_says_for_any_polygon(corners: Any) -> None:
    polygon = np.array(corners, dtype=np.int32)
    points = np.stack(np.meshgrid(np.arange(-22, 43, 3), np.arange(-22, 43, 3)), axis=-1).reshape(-1, 2)
    points = np.concatenate([points, polygon])
    assert locate_points(polygon, points).tolist() == by_opencv(polygon, points)


def test_thousands_of_points_are_told_at_least_five_times_faster_than_one_by_one() -> None:
    outline = blob(1, 4000, 60_000)
    points = np.stack(np.meshgrid(np.arange(0, 60_000, 512), np.arange(0, 60_000, 512)), axis=-1)
    points = points.reshape(-1, 2)
    started = time.perf_counter()
    ours = locate_points(outline, points)
    ours_s = time.perf_counter() - started
    few = points[:: len(points) // 500]
    started = time.perf_counter()
    expected = by_opencv(outline, few)
    one_by_one_s = (time.perf_counter() - started) / len(few) * len(points)
    assert ours[:: len(points) // 500].tolist() == expected
    assert one_by_one_s > 5 * ours_s


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    patch=st.integers(16, 700),
    step=st.integers(16, 700),
    rule=st.sampled_from(ContourRule),
    padding=st.booleans(),
)
def test_any_grid_on_any_tissue(seed: Any, patch: Any, step: Any, rule: Any, padding: Any) -> None:
    size = 6000
    outline, hole = blob(seed, 300, size), blob(seed + 1, 60, size) // 4 + size * 3 // 8
    grid = PatchGrid((patch, patch), (step, step), rule, padding=padding)
    found = patch_coordinates([Piece(outline, (hole,))], (size, size), grid)
    assert found.dtype == np.int64
    assert found.shape == (len(found), 2)
    assert (found >= 0).all(), "corners lie inside the slide"
    assert (found < size).all()
    if not padding:
        assert (found + patch <= size).all(), "so does all of the patch"
    order = [tuple(corner) for corner in found]
    assert order == sorted(order), "x outer, y inner"
    corner = np.array(cv2.boundingRect(outline)[:2])
    assert ((found - corner) % step == 0).all(), "on the grid of the piece's box"
    tests = [by_opencv(outline, found + np.array(offset)) for offset in grid.test_points()]
    hits = np.array(tests).reshape(len(tests), -1) >= 0
    assert (hits.all(axis=0) if rule is ContourRule.FOUR_PT_HARD else hits.any(axis=0)).all()
    centers = 2 * found + patch
    assert not any(value > 0 for value in by_opencv(2 * hole, centers)), "no centre in a hole"


def test_memory_is_bounded_by_blocks_without_changing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = Piece(blob(3, 500, 20_000), (blob(4, 60, 20_000) // 4 + 7000,))
    grid = PatchGrid((64, 64), (64, 64))
    whole = patch_coordinates([piece], (20_000, 20_000), grid)
    monkeypatch.setattr("clam_core.patches.grid.BLOCK_POINTS", 700)
    assert np.array_equal(patch_coordinates([piece], (20_000, 20_000), grid), whole)


def test_no_tissue_gives_no_patches() -> None:
    found = patch_coordinates([], (100, 100), PatchGrid((10, 10), (10, 10)))
    assert found.shape == (0, 2)


def test_tissue_smaller_than_a_patch_without_padding_gives_none() -> None:
    square = np.array([[80, 80], [99, 80], [99, 99], [80, 99]], dtype=np.int32)
    grid = PatchGrid((64, 64), (64, 64), padding=False)
    assert len(patch_coordinates([Piece(square, ())], (100, 100), grid)) == 0


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(ParameterError):
        PatchGrid((10, 10), (0, 10))


LEVELS = pyramid([(40_000, 30_000), (20_000, 15_000), (10_000, 7_500), (2_500, 1_875)])


@pytest.mark.parametrize(
    ("mpp", "wanted", "level", "read"),
    [
        (0.25, 0.5, 1, 256),
        (0.25, 0.25, 0, 256),
        (0.25, 1.0, 2, 256),
        (0.2508, 0.5, 1, 256),
        (0.25, 0.4, 0, 410),
        (0.25, 0.75, 1, 384),
        (0.23, 0.5, 1, 278),
    ],
)
def test_level_and_resize_follow_from_the_spacing(mpp: Any, wanted: Any, level: Any, read: Any) -> None:
    plan = plan_by_mpp(LEVELS, (mpp, mpp), wanted, 256)
    assert (plan.level, plan.read_px) == (level, (read, read))
    assert plan.footprint[0] == pytest.approx(256 * wanted / mpp, rel=0.02)
    assert plan.mpp == pytest.approx(wanted, rel=0.02)
    assert plan.flags == ()


def test_unequal_spacing_is_made_square() -> None:
    plan = plan_by_mpp(LEVELS, (0.25, 0.3), 0.5, 256)
    assert plan.footprint[0] * 0.25 == pytest.approx(plan.footprint[1] * 0.3, rel=0.01)


def test_slide_coarser_than_the_model_is_flagged() -> None:
    plan = plan_by_mpp(LEVELS, (0.5, 0.5), 0.25, 256)
    assert plan.flags == ("mpp_coarser_than_model",)
    assert (plan.level, plan.read_px) == (0, (128, 128))


def test_slide_more_than_twice_as_coarse_is_refused() -> None:
    with pytest.raises(MppMismatchError, match="higher magnification"):
        plan_by_mpp(LEVELS, (0.6, 0.6), 0.25, 256)


def test_missing_spacing_is_asked_for_by_name() -> None:
    with pytest.raises(MissingMppError, match=r"--mpp.*parameter \"mpp\".*tags"):
        plan_by_mpp(LEVELS, None, 0.5, 256)


def test_reference_reads_a_fixed_level_whatever_its_spacing() -> None:
    plan = plan_by_level(LEVELS, None, 2, 256)
    assert (plan.level, plan.read_px, plan.footprint, plan.mpp) == (2, (256, 256), (1024, 1024), None)


def test_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(ParameterError, match="levels 0 to 3"):
        plan_by_level(LEVELS, None, 4, 256)


def test_patch_has_the_size_of_the_model_whatever_was_read() -> None:
    slide = ArraySlide(glass_with_tissue(), levels=3, mpp=(0.25, 0.25))
    for wanted in (0.2, 0.25, 0.4, 0.5, 0.9):
        plan = plan_by_mpp(slide.levels, slide.mpp, wanted, 96)
        assert read_patch(slide, plan, (600, 500)).shape == (96, 96, 3)


def test_beyond_the_edge_is_white_by_default_and_black_in_the_reference() -> None:
    slide = ArraySlide(glass_with_tissue(1000, 800))
    corner = (1000 - 40, 800 - 30)
    ours = read_patch(slide, plan_by_mpp(slide.levels, slide.mpp, 0.5, 64), corner)
    theirs = read_patch(slide, plan_by_level(slide.levels, slide.mpp, 0, 64), corner)
    assert (ours[30:] == 255).all()
    assert (ours[:, 40:] == 255).all()
    assert (theirs[30:] == 0).all()
    assert (theirs[:, 40:] == 0).all()
    assert np.array_equal(ours[:30, :40], theirs[:30, :40])


def test_patch_file_is_read_back(tmp_path: Path) -> None:
    coords = np.array([[10, 20], [30, 40]])
    path = write_patches(
        tmp_path / "a.h5", coords, patch_size=(256, 256), patch_level=1, level=Level(500, 400, (4.0, 4.0))
    )
    assert path is not None
    found = read_patches(path)
    assert np.array_equal(found.coordinates, coords)
    assert (found.patch_size, found.patch_height, found.patch_level) == (256, None, 1)
    assert (found.downsample, found.level_size) == ((4.0, 4.0), (500, 400))


def test_file_that_holds_no_coordinates_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("no")
    with pytest.raises(ParameterError, match="patch coordinates"):
        read_patches(tmp_path / "a.h5")
