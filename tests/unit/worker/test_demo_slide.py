# SPDX-License-Identifier: Apache-2.0
"""The demo always has a slide, and says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.support.shared_data import shared_path
from worker import demo_slide as module
from worker.demo_slide import DemoSlideError, demo_slide
from worker.drawn_slide import draw, write_tiled_tiff


def offline(_target: Path) -> bool:
    return False


def test_the_users_own_slide_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "own.svs"
    own.touch()
    chosen = demo_slide(tmp_path / "cache", own, mpp=0.25)
    assert (chosen.path, chosen.mpp) == (own, 0.25)
    assert "own.svs" in chosen.description


def test_a_misspelt_slide_is_an_error_and_nothing_else_is_shown(tmp_path: Path) -> None:
    with pytest.raises(DemoSlideError, match="check the path"):
        demo_slide(tmp_path, tmp_path / "nothing.svs")


def test_the_public_slide_beside_the_project_is_used_where_it_lies(tmp_path: Path) -> None:
    real = shared_path("slides/CMU-1-Small-Region.svs")
    chosen = demo_slide(tmp_path, beside=real.parent, download=offline)
    assert chosen.path == real
    assert "abstains on this slide, and should" in chosen.expectation


def test_a_damaged_copy_is_not_taken_for_the_public_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_drawn_slide", Path.touch)
    (tmp_path / module.NAME).write_bytes(b"\0" * module.SIZE)
    chosen = demo_slide(tmp_path, beside=tmp_path / "nowhere", download=offline)
    assert "DRAWN" in chosen.description
    assert "DRAWN" in chosen.expectation


def test_a_downloaded_slide_is_kept_for_the_next_time(tmp_path: Path) -> None:
    real = shared_path("slides/CMU-1-Small-Region.svs")
    downloads = []

    def download(target: Path) -> bool:
        downloads.append(target)
        target.write_bytes(real.read_bytes())
        return True

    for _ in range(2):
        chosen = demo_slide(tmp_path, beside=tmp_path / "nowhere", download=download)
        assert chosen.path == tmp_path / module.NAME
    assert len(downloads) == 1


@pytest.mark.slow
def test_without_any_slide_one_is_drawn_that_openslide_reads(tmp_path: Path) -> None:
    chosen = demo_slide(tmp_path, beside=tmp_path / "nowhere", download=offline)
    assert "DRAWN" in chosen.description
    assert "drawn" in chosen.path.stem
    with openslide.OpenSlide(chosen.path) as slide:
        assert slide.dimensions == (5120, 4096)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        region = np.asarray(slide.read_region((1000, 1000), 0, (512, 512)).convert("RGB"), np.int16)
    drawn_again = draw()[1000:1512, 1000:1512]
    assert np.abs(region - drawn_again).mean() < 8


def test_a_picture_that_is_no_multiple_of_the_tile_is_written_whole(tmp_path: Path) -> None:
    picture = np.full((300, 517, 3), 200, np.uint8)
    write_tiled_tiff(tmp_path / "odd.tiff", picture, 0.25)
    with openslide.OpenSlide(tmp_path / "odd.tiff") as slide:
        assert slide.dimensions == (517, 300)
        pixels = np.asarray(slide.read_region((0, 0), 0, (517, 300)).convert("RGB"), np.int16)
    assert np.abs(pixels - 200).max() <= 2
