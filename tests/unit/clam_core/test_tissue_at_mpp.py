# SPDX-License-Identifier: Apache-2.0
"""Tissue at a fixed physical resolution: what lies on the glass decides, not how the slide was stored."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clam_core.errors import NoTissueError
from clam_core.options import AnalysisOptions
from clam_core.package import demo_package_path, load_package
from clam_core.pipeline import analyze_slide
from clam_core.reading import lay_patches, plan_patches, summarize
from clam_core.slides import open_slide
from clam_core.tissue import PRESETS, TissueParameters, preset, segment_at_mpp
from clam_core.tissue.physical import TISSUE_MPP, fit_parameters, picture_size
from tests.support.core_fakes import ArraySlide, FakeModel, blank, glass_with_tissue
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.shared_data import shared_path

BIOPSY = preset("bwh_biopsy")
PINK, VIOLET, PEN, TEAL = (215, 130, 180), (120, 70, 150), (40, 90, 190), (40, 140, 130)


def tissue_of(slide: Any, parameters: TissueParameters = BIOPSY) -> Any:
    return segment_at_mpp(slide, parameters, slide.mpp)


def area(slide: Any) -> float:
    return float(tissue_of(slide).area_mm2(slide.mpp))


def islands(seed: int, *, width: int = 4000, height: int = 3000) -> Any:
    """Return a picture of islands of tissue whose borders wind, with holes in them."""
    random = np.random.default_rng(seed)
    noise = cv2.resize(random.random((12, 16)), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(random.random((120, 160)), (width, height), interpolation=cv2.INTER_LINEAR)
    picture = blank(width, height)
    picture[noise > 0.6] = PINK
    picture[(noise > 0.6) & (fine > 0.7)] = VIOLET
    return picture


def patches_of(slide: Any, tissue: Any, model: Any, mpp: float | None = None) -> set[tuple[int, int]]:
    options = AnalysisOptions(mpp=mpp)
    plan = plan_patches(slide, summarize(slide, options), model, options)
    return {(int(x), int(y)) for x, y in lay_patches(slide, tissue, plan, options)}


def shared_by(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> float:
    return len(one & other) / len(one | other)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), levels=st.integers(2, 7), mpp=st.floats(0.2, 1.1))
def test_levels_change_neither_tissue_nor_patches(seed: Any, levels: Any, mpp: Any) -> None:
    picture = islands(seed)
    single, pyramid = (ArraySlide(picture, levels=count, mpp=(mpp, mpp)) for count in (1, levels))
    one, other = tissue_of(single), tissue_of(pyramid)
    # Six levels at 0.25 um a pixel find up to 8 % more inside these winding borders than one level does.
    assert other.area_px == pytest.approx(one.area_px, rel=0.1, abs=5 * (TISSUE_MPP / mpp) ** 2)
    if one.pieces and other.pieces:
        model = FakeModel(mpp=2.0)
        assert shared_by(patches_of(single, one, model), patches_of(pyramid, other, model)) > 0.93


def test_area_is_that_of_the_tissue_at_any_magnification() -> None:
    for side, mpp in ((4000, 0.25), (2000, 0.5), (1000, 1.0), (125, 8.0)):
        picture = blank(side, side)
        picture[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = PINK
        assert area(ArraySlide(picture, mpp=(mpp, mpp))) == pytest.approx(0.25, rel=0.04)


def test_unequal_spacing_is_taken_into_account() -> None:
    picture = blank(2000, 1000)
    picture[250:750, 500:1500] = PINK
    assert area(ArraySlide(picture, mpp=(0.5, 1.0))) == pytest.approx(0.25, rel=0.04)


def test_glass_framed_by_tissue_is_glass_however_many_holes_there_are() -> None:
    picture = np.full((4000, 4000, 3), PINK, dtype=np.uint8)
    for x in range(300, 4000, 1200):
        for y in range(300, 4000, 1200):
            picture[y : y + 800, x : x + 800] = blank(800, 800)[: 4000 - y, : 4000 - x]
    slide = ArraySlide(picture, mpp=(0.5, 0.5))
    assert area(slide) == pytest.approx((picture == PINK).all(axis=2).sum() * 0.25e-6, rel=0.05)


def test_faint_tissue_is_kept() -> None:
    picture = blank(2000, 2000)
    picture[500:1500, 500:1500] = (240, 222, 236)
    assert area(ArraySlide(picture, mpp=(0.5, 0.5))) == pytest.approx(0.25, rel=0.1)


def test_pen_beside_tissue_is_left_out_and_inked_margins_stay() -> None:
    picture = blank(3000, 2000)
    picture[300:1700, 300:1400] = PINK
    picture[300:420, 300:1400] = TEAL
    expected = area(ArraySlide(picture))
    assert expected == pytest.approx(1400 * 1100 * 0.25e-6, rel=0.04)
    cv2.circle(picture, (2300, 1000), 500, PEN, 60)
    assert area(ArraySlide(picture)) == expected


def test_tissue_of_a_blue_stain_is_tissue() -> None:
    picture = blank(2000, 2000)
    picture[500:1500, 500:1500] = PEN
    assert area(ArraySlide(picture)) == pytest.approx(0.25, rel=0.04)


def test_slide_without_tissue_stays_without_at_any_level() -> None:
    noise = np.random.default_rng(1).integers(-3, 4, (3000, 2000, 3))
    picture = np.clip(blank(2000, 3000) + noise, 0, 255).astype(np.uint8)
    for levels in (1, 3, 6):
        with pytest.raises(NoTissueError):
            analyze_slide(ArraySlide(picture, levels=levels), FakeModel(), device="cpu")


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (50, 50), (17, 16)])
@pytest.mark.parametrize("mpp", [0.05, 0.5, 30.0])
def test_tiny_slides_have_an_answer(size: Any, mpp: Any) -> None:
    picture = np.full((size[1], size[0], 3), PINK, dtype=np.uint8)
    assert area(ArraySlide(picture, mpp=(mpp, mpp))) >= 0


def test_reading_is_bounded_however_large_the_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = glass_with_tissue(3000, 4000)
    expected = tissue_of(ArraySlide(picture)).area_px
    monkeypatch.setattr("clam_core.slides.whole_level.STRIP_PIXELS", 200_000)
    slide = ArraySlide(picture)
    assert tissue_of(slide).area_px == pytest.approx(expected, rel=0.01)
    assert slide.largest_read <= 210_000


def test_coarse_slide_is_taken_as_it_is_with_smaller_kernels() -> None:
    base = ArraySlide(blank(1696, 812)).levels[0]
    assert picture_size(base, (29.0, 29.0), 10**8) == (1696, 812)
    fitted = fit_parameters(BIOPSY, (29.0, 29.0))
    assert (fitted.median_kernel, fitted.close_kernel) == (3, 1)


def test_spacing_that_is_nonsense_does_not_fill_the_memory() -> None:
    base = ArraySlide(blank(2000, 2000)).levels[0]
    width, height = picture_size(base, (100.0, 100.0), 10_000)
    assert (width, height) == (100, 100)


def test_kernels_are_those_of_the_presets_at_the_usual_resolution() -> None:
    for parameters in PRESETS.values():
        fitted = fit_parameters(parameters, (TISSUE_MPP, TISSUE_MPP))
        assert (fitted.median_kernel, fitted.close_kernel) == (
            parameters.median_kernel,
            parameters.close_kernel,
        )


@pytest.fixture(scope="module")
def real() -> Any:
    with open_slide(shared_path("slides/CMU-1-Small-Region.svs")) as slide:
        return slide.read_region((0, 0), 0, (slide.levels[0].width, slide.levels[0].height))


def recoded(picture: Any) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


@pytest.fixture(scope="module")
def of_single_level() -> Any:
    with open_slide(shared_path("slides/dicom-cmu-1-small-region")) as slide:
        return analyze_slide(slide, load_package(demo_package_path()), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("factors", [(2,), (4,), (2, 4, 8, 16), (4, 16)])
def test_real_slide_says_the_same_whatever_its_pyramid(
    of_single_level: Any, factors: Any, tmp_path: Path
) -> None:
    one = of_single_level
    with open_slide(pyramid_folder(tmp_path / "levels", factors=factors)) as slide:
        assert len(slide.levels) == 1 + len(factors)
        other = analyze_slide(slide, load_package(demo_package_path()), device="cpu")
    places = [{(int(x), int(y)) for x, y in each.coordinates} for each in (one, other)]
    assert other.tissue_mm2 == pytest.approx(one.tissue_mm2, rel=0.03)
    assert shared_by(*places) > 0.93
    assert other.predicted_class == one.predicted_class
    assert other.prediction.probabilities == pytest.approx(one.prediction.probabilities, abs=0.03)


def test_real_slide_has_the_same_tissue_as_dicom_and_recoded(real: Any) -> None:
    expected = area(ArraySlide(real, mpp=(0.499, 0.499)))
    assert 0.5 < expected < 0.75, "a good third of the picture; all of it would be 1.64 mm2"
    assert area(ArraySlide(recoded(real), mpp=(0.499, 0.499))) == pytest.approx(expected, rel=0.03)
    with open_slide(shared_path("slides/dicom-cmu-1-small-region")) as slide:
        assert area(slide) == pytest.approx(expected, rel=0.03)


def test_real_pen_mark_is_no_tissue() -> None:
    with open_slide(shared_path("slides/dicom-misc/camelyon_thumb_jpeg2000_tiledfull.dcm")) as slide:
        tissue = tissue_of(slide)
    tops = [int(piece.outline[:, 1].min()) for piece in tissue.pieces]
    assert min(tops) > 20, "the pen lies on the upper edge"
    assert tissue.area_mm2((28.969, 28.968)) == pytest.approx(358, rel=0.03)
