# SPDX-License-Identifier: Apache-2.0
"""How a slide is read for a model: spacing, tissue, patches, and the flags that a reader should know."""

from __future__ import annotations

import numpy as np

from clam_core.errors import FramesMissingError, NoTissueError
from clam_core.heatmap import heatmap_grid
from clam_core.model import Model
from clam_core.options import AnalysisOptions, Reference
from clam_core.patches import (
    Coordinates,
    PatchGrid,
    PatchPlan,
    patch_coordinates,
    plan_by_level,
    plan_by_mpp,
    plan_of_file,
)
from clam_core.result import SlideSummary
from clam_core.slides import Slide, Sparse, best_level_for_downsample, is_square
from clam_core.tissue import (
    HEATMAP_DOWNSAMPLE,
    Piece,
    Tissue,
    TissueParameters,
    fill_pieces,
    picture_of,
    preset,
    segment,
    segment_at_mpp,
)

MPP_OVERRIDDEN = "mpp_overridden"
"""Flag: the user's spacing is not the slide's own."""
PIXELS_NOT_SQUARE = "pixels_not_square"
"""Flag: pixels are far longer one way than the other, which no scanner's are."""
MPP_UNKNOWN = "mpp_unknown"
"""Flag: nobody knows the spacing; only reference mode goes on without it."""
MPP_MISMATCH = "mpp_mismatch"
"""Flag: in reference mode the patches have another spacing than the model was trained at."""

PATCH_SIZE_MISMATCH = "patch_size_mismatch"
"""Flag: the patches that were given are larger or smaller than those of the model's training."""

_COVER_PX = 4096
"""Longest side of the picture on which the area under given patches is counted."""

MOST_UNSTORED = 0.05
"""Share of the patches that may lie on tiles that are stored nowhere: measured 3 % at most, and mostly none,
where all tiles are left out that show less than 10 % colour (three slides, tiles of 256 and 512 px)."""

MISMATCH_RATIO = 1.2
"""Spacings further apart than this are a mismatch: scanners of one magnification differ by less."""


def summarize(slide: Slide, options: AnalysisOptions) -> SlideSummary:
    """Return the slide's identity and size, and its spacing as the user wants it used."""
    base = slide.levels[0]
    mpp = slide.mpp if options.mpp is None else (options.mpp, options.mpp)
    return SlideSummary(slide.identity, base.width, base.height, mpp)


def plan_patches(slide: Slide, summary: SlideSummary, model: Model, options: AnalysisOptions) -> PatchPlan:
    """Choose level and size of the patches: by mpp, fixed as in the reference, or those of a file."""
    if options.patches is not None:
        return plan_of_file(slide.levels, summary.mpp, options.patches, model.mpp, model.patch_px)
    if options.reference is not None:
        return plan_by_level(slide.levels, summary.mpp, options.patch_level, model.patch_px)
    return plan_by_mpp(slide.levels, summary.mpp, model.mpp, model.patch_px)


def find_tissue(slide: Slide, summary: SlideSummary, model: Model, options: AnalysisOptions) -> Tissue:
    """Find the tissue with the user's preset or the model's.

    At a fixed physical resolution; the reference's way, on one of the slide's levels, where its behaviour is
    asked for. Only that way goes without a spacing (`plan_patches` refuses any other before).

    Raises
    ------
    NoTissueError
        If there is none.
    """
    name = options.tissue_preset or model.tissue_preset
    tissue = _segmented(slide, summary, preset(name), options.reference)
    if not tissue.pieces:
        other, kind = ("tcga", "pale tissue") if name == "bwh_biopsy" else ("bwh_biopsy", "small pieces")
        raise NoTissueError(
            f"No tissue was found with the preset {name!r}: check that the slide is not blank, or choose "
            f"another preset, such as {other} for {kind} (the request parameter tissue_preset={other}; "
            f"--tissue-preset {other} of clam-core)."
        )
    return tissue


def covered_by_patches(slide: Slide, plan: PatchPlan, coordinates: Coordinates) -> Tissue:
    """Return as tissue what given patches cover: whoever laid them has decided what is looked at."""
    width, height = (side - 1 for side in plan.footprint)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    pieces = tuple(Piece((corner + corners).astype(np.int32), ()) for corner in coordinates)
    base = slide.levels[0]
    size, downsample = picture_of((base.width, base.height), _COVER_PX)
    return Tissue(pieces, 0, downsample, 255 * fill_pieces(pieces, size, downsample))


def _segmented(
    slide: Slide, summary: SlideSummary, parameters: TissueParameters, reference: Reference | None
) -> Tissue:
    if reference is Reference.HEATMAP:
        return segment(slide, parameters, best_level_for_downsample(slide.levels, HEATMAP_DOWNSAMPLE))
    if reference is Reference.PATCHING or summary.mpp is None:
        return segment(slide, parameters)
    return segment_at_mpp(slide, parameters, summary.mpp)


def lay_patches(
    slide: Slide, tissue: Tissue, plan: PatchPlan, options: AnalysisOptions, overlap: float = 0.0
) -> Coordinates:
    """Return the patches on the tissue, or those of the user's file, (N, 2), level-0 pixels.

    Raises
    ------
    NoTissueError
        If no piece of tissue is large enough for one.
    """
    if options.patches is not None:
        return options.patches.coordinates
    base = slide.levels[0]
    grid = patch_grid(slide, plan, options, overlap)
    coordinates = patch_coordinates(tissue.pieces, (base.width, base.height), grid)
    if len(coordinates) == 0:
        raise NoTissueError(
            f"Tissue was found, and no piece is large enough for a patch of {plan.footprint[0]} x "
            f"{plan.footprint[1]} pixels: the slide holds too little tissue for this model."
        )
    return coordinates


def require_stored(slide: Slide, plan: PatchPlan, coordinates: Coordinates) -> None:
    """See that there are tiles where patches are laid: a level that misses a part is shown as empty glass.

    Raises
    ------
    FramesMissingError
        If more patches lie on nothing than a scanner that leaves out bare glass gives reason for.
    """
    if not isinstance(slide, Sparse):
        return
    lost = sum(not slide.is_stored((int(x), int(y)), plan.level, plan.read_px) for x, y in coordinates)
    if lost > MOST_UNSTORED * len(coordinates):
        raise FramesMissingError(
            f"Where the slide shows tissue, {lost} of {len(coordinates)} patches have no tile on level "
            f"{plan.level}: a part of that level was not stored; store the slide again."
        )


def patch_grid(slide: Slide, plan: PatchPlan, options: AnalysisOptions, overlap: float = 0.0) -> PatchGrid:
    """Return the grid of patches that overlap by a fraction."""
    if options.reference is Reference.HEATMAP:
        return heatmap_grid(plan.patch_px, slide.levels[plan.level], overlap=overlap)
    step = [max(1, int(side * (1 - overlap))) for side in plan.footprint]
    origin = (0, 0) if options.reference is None else None
    return PatchGrid(plan.footprint, (step[0], step[1]), origin=origin)


def spacing_flags(
    slide: Slide, summary: SlideSummary, plan: PatchPlan, model: Model, options: AnalysisOptions
) -> tuple[str, ...]:
    """Say what is unusual about the spacing."""
    flags = list(plan.flags)
    if (
        options.mpp is not None
        and slide.mpp is not None
        and not _alike(options.mpp, sum(slide.mpp) / 2, 1.02)
    ):
        flags.append(MPP_OVERRIDDEN)
    if summary.mpp is None:
        flags.append(MPP_UNKNOWN)
    elif not is_square(summary.mpp):
        flags.append(PIXELS_NOT_SQUARE)
    if options.patches is not None and plan.patch_px != model.patch_px:
        flags.append(PATCH_SIZE_MISMATCH)
    fixed = options.reference is not None or options.patches is not None
    if fixed and plan.mpp is not None and not _alike(plan.mpp, model.mpp, MISMATCH_RATIO):
        flags.append(MPP_MISMATCH)
    return tuple(flags)


def _alike(a: float, b: float, ratio: float) -> bool:
    return max(a, b) / min(a, b) <= ratio
