# SPDX-License-Identifier: Apache-2.0
"""The golden sets of tissue and patches: parameters and what the reference made of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from clam_core.slides import Slide, open_slide
from clam_core.tissue import Tissue, TissueParameters, segment
from tests.support.shared_data import SHARED, shared_path

FOLDER = "golden/seg_patch"
SLIDES = {"cmu1_small": "slides/CMU-1-Small-Region.svs", "composite_a": "slides/composite_a.tiff"}


def sets(*, with_tiles: bool = False) -> list[Any]:
    """Return the names of all sets, or of those with tiles, or one that is skipped where there are none."""
    index = SHARED / FOLDER / "index.json"
    if not index.exists():
        return [pytest.param("", marks=pytest.mark.skip(f"needs ../shared/{FOLDER}"))]
    entries = json.loads(index.read_text())
    return sorted(name for name in entries if entries[name]["n_coords"] or not with_tiles)


def entry(name: str) -> dict[str, Any]:
    """Return parameters and counts of a set."""
    found: dict[str, Any] = json.loads(shared_path(f"{FOLDER}/index.json").read_text())[name]
    return found


def arrays(name: str) -> Any:
    """Return what the reference made of a set."""
    return np.load(shared_path(f"{FOLDER}/{name}.npz"))


def slide_of(name: str) -> Slide:
    """Open the slide of a set."""
    return open_slide(shared_path(SLIDES[entry(name)["slide"]]))


def tissue_of(slide: Slide, name: str) -> Tissue:
    """Find the tissue with the parameters of a set."""
    given = entry(name)["params"]
    parameters = TissueParameters(
        saturation_threshold=given["sthresh"],
        median_kernel=given["mthresh"],
        close_kernel=given["close"],
        minimum_area=given["a_t"],
        minimum_hole_area=given["a_h"],
        maximum_holes=given["max_n_holes"],
        use_otsu=given["use_otsu"],
        keep_contours=tuple(given["keep_ids"]),
        exclude_contours=tuple(given["exclude_ids"]),
    )
    return segment(slide, parameters, None if given["seg_level"] == -1 else given["seg_level"])
