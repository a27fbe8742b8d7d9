# SPDX-License-Identifier: Apache-2.0
"""Heatmaps: the reference's numbers and pixels, and our own page and overlay."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clam_core.errors import ParameterError
from clam_core.heatmap import (
    Caption,
    HeatmapStyle,
    Highlight,
    SampleMode,
    ScoreMap,
    compose,
    draw_reference_heatmap,
    fonts,
    heatmap_grid,
    paint,
    percentiles,
    percentiles_among,
    sample,
    score_map,
)
from clam_core.heatmap.colormaps import TABLES, colors
from clam_core.heatmap.overlay import COLOR_MAP, STRIP
from clam_core.heatmap.scores import inside_region
from clam_core.patches import patch_coordinates
from clam_core.slides import open_slide
from clam_core.tissue import Piece, TissueParameters, fill_pieces, segment
from tests.support.shared_data import SHARED, shared_path

FOLDER = "golden/heatmap"


def names(section: str) -> list[Any]:
    index = SHARED / FOLDER / "index.json"
    if not index.exists():
        return [pytest.param("", marks=pytest.mark.skip(f"needs ../shared/{FOLDER}"))]
    return sorted(json.loads(index.read_text())[section])


@pytest.fixture(scope="module")
def index() -> Any:
    return json.loads(shared_path(f"{FOLDER}/index.json").read_text())


@pytest.fixture(scope="module")
def arrays() -> Any:
    return dict(np.load(shared_path(f"{FOLDER}/heatmap.npz")))


@pytest.fixture(scope="module")
def slide() -> Any:
    with open_slide(shared_path("slides/composite_a.tiff")) as opened:
        yield opened


@pytest.fixture(scope="module")
def tissue(slide: Any) -> Any:
    return segment(slide, TissueParameters(15, 11, 2, 1, 1, 2), 2)


def test_filled_tissue_mask_equals_the_reference(arrays: Any, slide: Any, tissue: Any) -> None:
    shape = arrays["tissue_mask_level2_shape"]
    expected = np.unpackbits(arrays["tissue_mask_level2_packed"])[: shape.prod()].reshape(shape)
    level = slide.levels[2]
    found = fill_pieces(tissue.pieces, (level.width, level.height), level.downsample)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", names("grids"))
def test_grid_equals_the_reference(name: Any, index: Any, arrays: Any, slide: Any, tissue: Any) -> None:
    given = index["grids"][name]
    grid = heatmap_grid(
        given["patch_size"],
        slide.levels[given["level"]],
        overlap=given["overlap"],
        center_shift=given["use_center_shift"],
        custom_downsample=given["custom_downsample"],
    )
    size = (slide.levels[0].width, slide.levels[0].height)
    assert np.array_equal(patch_coordinates(tissue.pieces, size, grid), arrays[name])


def test_percentiles_equal_the_reference(arrays: Any) -> None:
    for kind in ("ref", "fine"):
        found = percentiles(arrays[f"{kind}_scores"][:, 0])
        assert np.allclose(found, arrays[f"{kind}_to_percentiles"], atol=1e-12)


def test_fine_percentiles_among_blocky_scores_equal_the_reference(arrays: Any) -> None:
    found = percentiles_among(arrays["fine_scores"][:, 0], arrays["ref_scores"][:, 0])
    assert np.array_equal(found.astype(np.float32), arrays["fine_percentile_vs_ref"][:, 0])


@pytest.mark.parametrize("name", names("samples"))
def test_sampled_patches_equal_the_reference(name: Any, index: Any, arrays: Any) -> None:
    expected = index["samples"][name]
    given = expected["params"]
    coordinates, scores = arrays[index["block_grid"]], percentiles(arrays["ref_scores"][:, 0])
    if "top_left" in given:
        inside = inside_region(coordinates, given["top_left"], given["bot_right"])
        coordinates, scores = coordinates[inside], scores[inside]
    picked = sample(
        scores,
        SampleMode(given["mode"]),
        given["k"],
        seed=given.get("seed", 1),
        score_range=(given.get("score_start", 0), given.get("score_end", 100)),
    )
    assert coordinates[picked].tolist() == expected["coords"]
    assert np.allclose(scores[picked], expected["scores"])


@pytest.mark.parametrize("name", names("vis"))
def test_drawing_equals_the_reference_within_two_grey_levels(
    name: Any, index: Any, arrays: Any, slide: Any, tissue: Any
) -> None:
    drawn = index["vis"][name]
    given = drawn["kwargs"]
    region = (tuple(given["top_left"]), tuple(given["bot_right"])) if "top_left" in given else None
    style = HeatmapStyle(
        level=given["vis_level"],
        patch=tuple(given["patch_size"]),
        overlap=given.get("overlap", 0.0),
        to_percentiles=given.get("convert_to_percentiles", False),
        cmap=given["cmap"],
        alpha=given["alpha"],
        blank_canvas=given.get("blank_canvas", False),
        segment=given.get("segment", True),
        blur=given.get("blur", False),
        threshold=given["thresh"] if given.get("binarize") else None,
        region=region,
        custom_downsample=given.get("custom_downsample", 1),
        max_size=given.get("max_size"),
    )
    scores = arrays[drawn["scores"]][:, 0]
    found = draw_reference_heatmap(slide, tissue.pieces, arrays[drawn["coords"]], scores, style)
    expected = Image.open(shared_path(f"{FOLDER}/vis_{name}.png")).convert("RGB")
    assert found.size == expected.size
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= 2


def test_equal_scores_share_their_average_rank() -> None:
    assert percentiles(np.array([3.0, 1.0, 1.0, 2.0])).tolist() == [100.0, 37.5, 37.5, 75.0]


def test_score_between_two_reference_scores_has_the_rank_of_the_lower() -> None:
    assert percentiles_among(np.array([0.5, 1.5, 9.0]), np.array([1.0, 2.0])).tolist() == [0.0, 50.0, 100.0]


def test_sampling_more_than_there_are_gives_all() -> None:
    scores = np.array([10.0, 30.0, 20.0])
    assert sample(scores, SampleMode.TOPK, 9).tolist() == [1, 2, 0]
    assert sorted(sample(scores, SampleMode.RANGE_SAMPLE, 9, score_range=(0, 100))) == [0, 1, 2]


def test_negative_sample_is_refused() -> None:
    with pytest.raises(ParameterError):
        sample(np.zeros(3), SampleMode.TOPK, -1)


def test_unknown_colour_map_lists_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="viridis"):
        colors(np.zeros(2), "nope")


def test_colours_outside_the_scale_are_its_ends() -> None:
    found = colors(np.array([-1.0, 0.0, 1.0, 2.0]), "viridis")
    assert found[0].tolist() == found[1].tolist() == TABLES["viridis"][0].tolist()
    assert found[2].tolist() == found[3].tolist() == TABLES["viridis"][255].tolist()


SQUARE = Piece(np.array([[0, 0], [399, 0], [399, 299], [0, 299]], dtype=np.int32), ())


def test_overlay_covers_the_whole_slide_and_only_scored_tissue() -> None:
    coordinates, scores = np.array([[0, 0], [100, 0]]), np.array([20.0, 100.0])
    found = score_map(coordinates, scores, (100, 100), [SQUARE], (800, 600), 400)
    assert found.values.shape == (300, 400)
    assert found.covered[:50, :100].all()
    assert not found.covered[51:].any()
    assert found.values[10, 10] == 20
    assert found.values[10, 60] == 100
    rgba = np.asarray(paint(found).convert("RGBA"))
    assert rgba.shape == (300, 400, 4)
    assert (rgba[..., 3] > 0).tolist() == found.covered.tolist()
    assert rgba[10, 60, 3] > rgba[10, 10, 3], "the more attended, the stronger"


def test_a_score_has_its_colour_and_its_opacity() -> None:
    cells = np.array([[0, 50, 100, 100, 0]], dtype=np.float32)
    scored = np.array([[True, True, True, True, False]])
    tissue = np.array([[True, True, True, False, True]])
    each = np.ones(5, dtype=np.int64)
    found = ScoreMap(cells, scored, each[:1], each, tissue, (1.0, 1.0))
    rgba = np.asarray(paint(found).convert("RGBA"))[0]
    assert np.abs(rgba[:3, :3].astype(int) - colors(np.array([0, 0.5, 1]), COLOR_MAP)).max() <= 1
    assert rgba[:, 3].tolist() == [round(255 * share) for share in (0.12, 0.32, 0.52)] + [0, 0]


def test_the_map_is_what_a_loop_over_the_patches_gives() -> None:
    rng = np.random.default_rng(5)
    corners, scores = rng.integers(0, (390, 290), (200, 2)), rng.uniform(0, 100, 200)
    found = score_map(corners, scores, (37, 23), [SQUARE], (400, 300), 400)
    total, count = np.zeros((300, 400)), np.zeros((300, 400))
    for (x, y), score in zip(corners, scores, strict=True):
        total[y : y + 23, x : x + 37] += score
        count[y : y + 23, x : x + 37] += 1
    assert len(found.heights) > 3 * STRIP, "over several strips"
    np.testing.assert_allclose(found.values, total / np.maximum(count, 1), rtol=1e-6, atol=1e-6)
    assert np.array_equal(found.covered, count > 0)


def test_patches_of_one_grid_are_summed_a_cell_each_however_large_the_picture() -> None:
    corners = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=-1).reshape(-1, 2) * 100
    scores = np.arange(12.0)
    found = score_map(corners, scores, (100, 100), [SQUARE], (400, 300), 4096)
    assert found.cells.tolist() == scores.reshape(3, 4).tolist()
    assert np.array_equal(found.values, np.kron(found.cells, np.ones((100, 100))))


def test_overlapping_patches_show_their_mean() -> None:
    coordinates, scores = np.array([[0, 0], [50, 0]]), np.array([20.0, 100.0])
    found = score_map(coordinates, scores, (100, 100), [SQUARE], (400, 300), 400)
    assert [found.values[10, x] for x in (10, 70, 120)] == [20, 60, 100]


@pytest.mark.parametrize("count", [5, 5_000])
def test_the_mean_is_exact_however_many_patches_overlap(count: int) -> None:
    corners = np.stack([np.arange(count) % 7, np.zeros(count, dtype=np.int64)], axis=1)
    scores = np.linspace(99, 100, count)
    found = score_map(corners, scores, (100, 100), [SQUARE], (400, 300), 400)
    assert found.values[50, 50] == pytest.approx(99.5, abs=1e-4)


def test_patches_smaller_than_a_pixel_leave_their_mark() -> None:
    found = score_map(np.array([[200, 100]]), np.array([50.0]), (4, 4), [SQUARE], (400, 300), 20)
    assert np.count_nonzero(found.covered) == 1


def test_small_slide_is_not_enlarged() -> None:
    found = score_map(np.array([[0, 0]]), np.array([50.0]), (10, 10), [SQUARE], (400, 300), 4096)
    assert found.values.shape == (300, 400)


CAPTION = Caption("S-1", "model 1", "oscc", 0.9, 50, 1.2, use="demonstration")


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (40, 700), (700, 40)])
def test_page_shows_slide_heatmap_and_caption_for_any_shape(size: Any) -> None:
    width, height = size
    thumbnail = np.full((height, width, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.full((height, width, 4), 255, dtype=np.uint8))
    page = compose(thumbnail, overlay, CAPTION, (2.0, 2.0))
    assert page.mode == "RGB"
    assert page.width > width + 400
    assert page.height >= height


def test_page_breaks_names_that_fit_on_no_line() -> None:
    uid = "1.2.826.0.1.3680043.8.498." * 5
    thumbnail = np.full((90, 90, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((90, 90, 4), dtype=np.uint8))
    long = compose(thumbnail, overlay, Caption(uid, "m", "c", 0.5, 1))
    short = compose(thumbnail, overlay, Caption("a", "m", "c", 0.5, 1))
    assert long.width == short.width
    assert long.height > short.height


def test_most_attended_patches_are_framed_and_shown_beside() -> None:
    thumbnail = np.full((400, 300, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((400, 300, 4), dtype=np.uint8))
    green = np.zeros((64, 64, 3), dtype=np.uint8)
    green[..., 1] = 255
    plain = compose(thumbnail, overlay, CAPTION)
    marked = compose(thumbnail, overlay, CAPTION, highlights=[Highlight((0.5, 0.5, 0.7, 0.65), green)])
    heat = np.s_[28:428, 2 * 28 + 300 : 2 * 28 + 600]
    changed = (np.asarray(plain)[heat] != np.asarray(marked)[heat]).any(axis=2)
    assert changed[200:203, 150:210].all(), "the upper edge of the frame"
    assert not changed[210:250, 160:200].any(), "the patch itself stays visible"
    shown = (np.asarray(marked) == (0, 255, 0)).all(axis=2).sum()
    assert shown > 150**2


def test_a_frame_over_the_slides_edge_is_closed_on_the_slide() -> None:
    thumbnail = np.full((400, 300, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((400, 300, 4), dtype=np.uint8))
    over = Highlight((0.9, 0.9, 1.1, 1.2), thumbnail[:8, :8])
    page = np.asarray(compose(thumbnail, overlay, CAPTION, highlights=[over]))
    heat = page[28:428, 2 * 28 + 300 : 2 * 28 + 600]
    white = (heat == 255).all(axis=2)
    assert white[399, 270:].all(), "the lower edge of the frame"
    assert white[360:, 299].all(), "its right edge"


def test_frames_of_tiny_patches_can_still_be_seen() -> None:
    thumbnail = np.full((400, 300, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((400, 300, 4), dtype=np.uint8))
    tiny = Highlight((0.5, 0.5, 0.501, 0.501), np.zeros((8, 8, 3), dtype=np.uint8))
    page = np.asarray(compose(thumbnail, overlay, CAPTION, highlights=[tiny]))
    heat = page[28:428, 2 * 28 + 300 : 2 * 28 + 600]
    assert ((heat != 200).any(axis=2)).sum() > 200


@pytest.mark.parametrize(
    ("grid", "repeats"),
    [
        pytest.param((2, 3), (30, 60, 120, 240), id="edges of patches on those of pixels"),
        pytest.param((5, 7), (26, 52, 104, 208), id="edges of patches within pixels"),
    ],
)
def test_the_page_shows_the_same_heat_whatever_the_size_of_the_overlay(
    grid: tuple[int, int], repeats: tuple[int, ...]
) -> None:
    thumbnail = np.full((60, 90, 3), 200, dtype=np.uint8)
    colours = np.zeros((*grid, 4), dtype=np.uint8)
    colours[..., 0], colours[..., 3] = 255, np.linspace(0, 255, grid[0] * grid[1]).reshape(grid)
    pages = []
    for times in repeats:
        overlay = Image.fromarray(np.repeat(np.repeat(colours, times, axis=0), times, axis=1))
        pages.append(compose(thumbnail, overlay, CAPTION).tobytes())
    assert pages == [pages[0]] * 4


def red_pixels(picture: Image.Image) -> int:
    pixels = np.asarray(picture).reshape(-1, 3)
    return int((pixels == (176, 20, 20)).all(axis=1).sum())


def test_demonstration_models_say_so_in_red_and_others_do_not() -> None:
    thumbnail = np.full((90, 90, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((90, 90, 4), dtype=np.uint8))
    assert red_pixels(compose(thumbnail, overlay, CAPTION)) > 100
    assert red_pixels(compose(thumbnail, overlay, Caption("S", "m", "c", 0.5, 1, use="commercial"))) == 0


def page_of(predicted_class: str) -> Image.Image:
    thumbnail = np.full((90, 90, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.zeros((90, 90, 4), dtype=np.uint8))
    return compose(thumbnail, overlay, Caption("S", "m", predicted_class, 0.5, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [("양성", "음성"), ("für", "fär"), ("Ж", "Д"), (unicodedata.normalize("NFD", "양성"), "음성")],
)
def test_classes_in_any_script_are_told_apart(one: str, other: str) -> None:
    pages = [page_of(name) for name in (one, other)]
    assert pages[0].tobytes() != pages[1].tobytes()
    assert all(red_pixels(page) == 0 for page in pages), "no font is lacking"


def test_letters_that_no_font_has_are_numbers_and_the_page_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fonts, "INSTALLED", ("no-such-font.ttf",))
    assert fonts.written("양성: 93.0%", 20)[0] == r"\uc591\uc131: 93.0%"
    assert page_of("양성").tobytes() != page_of("음성").tobytes()
    assert red_pixels(page_of("양성")) > 100
    assert red_pixels(page_of("oscc")) == 0


def test_plain_letters_are_written_in_the_same_font_on_every_computer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = page_of("oscc").tobytes()
    monkeypatch.setattr(fonts, "INSTALLED", ())
    assert page_of("oscc").tobytes() == here


def test_page_is_the_same_every_time(tmp_path: Path) -> None:
    thumbnail = np.full((90, 120, 3), 200, dtype=np.uint8)
    overlay = Image.fromarray(np.full((90, 120, 4), 99, dtype=np.uint8))
    pages = [compose(thumbnail, overlay, CAPTION, (1.0, 1.0)).tobytes() for _ in range(2)]
    assert pages[0] == pages[1]
