# SPDX-License-Identifier: Apache-2.0
"""Why the model said so: attention, the patches that stand out, and the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.heatmap import Caption, Highlight, compose, paint, sample, score_map
from clam_core.heatmap.scores import SampleMode
from clam_core.model import Model
from clam_core.models import SlidePrediction
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates, PatchPlan, read_patch
from clam_core.quality import Quality
from clam_core.result import FineScores, SlideSummary, TopPatch
from clam_core.slides import Pixels, Slide
from clam_core.tissue import Tissue

HIGHLIGHTS = 4
"""So many of the most attended patches are framed on the heatmap and shown beside it."""

PATCH_PX = 64
"""Pixels of the overlay along a patch that are enough. A patch has one colour, and where tissue ends is known
to some 8 micrometres: smaller pixels show nothing more, and cost time here and memory in the browser."""

FLAG_SENTENCES = {
    "mpp_coarser_than_model": "The slide is coarser than the model's training material: read with care.",
    "mpp_overridden": "The pixel size was given by the user and differs from the slide's own.",
    "patch_size_mismatch": "The patches are not of the size of the model's training: read with care.",
    "half_precision": "The encoder computed in half precision, which moves the answer a little.",
    "mpp_unknown": "The pixel size is unknown: the magnification may not fit the model.",
    "mpp_mismatch": "The magnification differs from the model's training material: read with care.",
}
"""What the flags of the reading mean to a person."""


def attention_shares(prediction: SlidePrediction) -> NDArray[np.float64]:
    """Return each patch's share in the prediction, (N,).

    The softmax of the raw attention over all patches. Models that classify each patch alone give the patch's
    own probability of the predicted class instead: it is returned as it is.
    """
    row = prediction.attention.astype(np.float64)
    if not prediction.attends:
        return row
    weights = np.exp(row - row.max())
    return np.asarray(weights / weights.sum())


def find_top_patches(
    slide: Slide,
    plan: PatchPlan,
    coordinates: Coordinates,
    shares: NDArray[np.float64],
    ranks: NDArray[np.float64],
    options: AnalysisOptions,
) -> tuple[TopPatch, ...]:
    """Return the most attended patches, most first, the first few with a picture."""
    chosen = sample(shares, SampleMode.TOPK, options.top_patches)
    patches = []
    for place, index in enumerate(chosen):
        x, y = (int(value) for value in coordinates[index])
        picture = read_patch(slide, plan, (x, y)) if place < options.pictured_patches else None
        patches.append(TopPatch(x, y, *plan.footprint, float(shares[index]), float(ranks[index]), picture))
    return tuple(patches)


def draw_overlay(
    summary: SlideSummary, tissue: Tissue, plan: PatchPlan, scores: FineScores, options: AnalysisOptions
) -> Image.Image:
    """Return the attention as a transparent picture over the whole slide."""
    size = (summary.width, summary.height)
    longest = overlay_side(size, plan.footprint, options)
    scored = score_map(scores.coordinates, scores.percentiles, plan.footprint, tissue.pieces, size, longest)
    return paint(scored)


def overlay_side(size: tuple[int, int], footprint: tuple[int, int], options: AnalysisOptions) -> int:
    """Return the longest side of the overlay: as fine as patches need, and as the heatmap's page does.

    Parameters
    ----------
    size, footprint
        (width, height) of the slide and of a patch, level-0 pixels.
    options
        What the user chose.
    """
    needed = math.ceil(PATCH_PX * max(size) / min(footprint))
    return min(options.overlay_px, max(needed, 2 * options.heatmap_px))


def draw_heatmap(
    picture: Pixels,
    summary: SlideSummary,
    overlay: Image.Image,
    caption: Caption,
    top_patches: Sequence[TopPatch],
) -> Image.Image:
    """Return the page for a person: the slide, the heatmap, caption and the most attended patches."""
    mpp = None
    if summary.mpp is not None:
        height, width = picture.shape[:2]
        mpp = (summary.mpp[0] * summary.width / width, summary.mpp[1] * summary.height / height)
    return compose(picture, overlay, caption, mpp, _highlights(summary, top_patches[:HIGHLIGHTS]))


def _highlights(summary: SlideSummary, patches: Sequence[TopPatch]) -> list[Highlight]:
    width, height = summary.width, summary.height
    return [
        Highlight(
            (
                patch.x / width,
                patch.y / height,
                (patch.x + patch.width) / width,
                (patch.y + patch.height) / height,
            ),
            patch.picture,
        )
        for patch in patches
        if patch.picture is not None
    ]


def make_caption(
    summary: SlideSummary,
    model: Model,
    prediction: SlidePrediction,
    patch_count: int,
    tissue_mm2: float | None,
    quality: Quality,
    flags: tuple[str, ...],
) -> Caption:
    """Return the words beside the heatmap."""
    notes = [quality.reason] if quality.reason else []
    notes += [FLAG_SENTENCES[flag] for flag in flags if flag in FLAG_SENTENCES]
    return Caption(
        slide=summary.identity.label,
        model=f"{model.name} {model.version}",
        predicted_class=model.classes[prediction.predicted],
        probability=float(prediction.probabilities[prediction.predicted]),
        patches=patch_count,
        tissue_mm2=tissue_mm2,
        abstained=quality.status == "abstained",
        use=model.use,
        notes=tuple(notes),
    )
