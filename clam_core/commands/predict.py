# SPDX-License-Identifier: Apache-2.0
"""``clam-core predict``: analyse one slide on this machine."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clam_core.arguments import micrometres
from clam_core.encoders import ENCODERS, Precision
from clam_core.features import FeatureFolder, FeatureStore, FolderLimits, NoFeatures, fingerprint_of_files
from clam_core.model import load_model
from clam_core.options import AnalysisOptions, Reference
from clam_core.package import BareCheckpoint, load_package, package_path
from clam_core.patches import PatchPlan, read_patches, write_patches
from clam_core.pipeline import Content, analyze_slide
from clam_core.progress import shown_progress
from clam_core.result import Analysis
from clam_core.slides import Slide, open_slide
from clam_core.tissue import PRESETS

TOP_SHOWN = 5
CACHE_LIMITS = FolderLimits(max_bytes=10 * 1024**3, max_age_s=365 * 86_400)
"""Of the folder of ``--cache``: a laptop's disk is not filled unnoticed."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to an argparse subparsers action."""
    parser = subparsers.add_parser(
        "predict",
        help="analyse one slide",
        description="Analyse one slide and write the result into a folder.",
    )
    parser.add_argument("slide", type=Path, help="slide file, or folder of a DICOM series")
    parser.add_argument(
        "--model",
        type=package_path,
        required=True,
        help="model package, a bare CLAM checkpoint, or the word demo",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the result, in place of one that is there"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument(
        "--mpp", type=micrometres, help="micrometres per pixel of the slide's full resolution"
    )
    parser.add_argument("--tissue-preset", choices=list(PRESETS), help="instead of the model's own")
    parser.add_argument("--overlap", type=float, default=0.0, help="of patches in the heatmap, 0 to 0.9")
    parser.add_argument("--batch-size", type=int, default=AnalysisOptions.batch_size)
    parser.add_argument(
        "--reference",
        nargs="?",
        const=Reference.PATCHING.value,
        choices=[kind.value for kind in Reference],
        help="behave like the reference CLAM: a fixed level, whatever its magnification",
    )
    parser.add_argument("--patch-level", type=int, default=0, help="level that --reference reads")
    parser.add_argument("--patches", type=Path, help="h5 of CLAM with the patches to use")
    parser.add_argument("--encoder-weights", type=Path, help="weights file of the encoder")
    parser.add_argument(
        "--precision",
        choices=[precision.value for precision in Precision],
        default=Precision.FLOAT32.value,
        help="of the encoder; the half precisions are for GPUs and move the features (default: float32)",
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps features for the next run on the slide")
    bare = parser.add_argument_group("for a checkpoint without a package")
    bare.add_argument("--encoder", choices=sorted(ENCODERS), help="encoder it was trained with")
    bare.add_argument("--classes", help="names of the classes, separated by commas")
    bare.add_argument("--patch-px", type=int, default=256, help="side of a patch (default: 256)")
    bare.add_argument(
        "--model-mpp", type=micrometres, default=0.5, help="spacing of its training (default: 0.5)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Analyse the slide, write the result, print a summary."""
    options = _options(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)  # nobody waits for an hour to be told that it cannot be
    before: dict[str, float] = {}
    started = time.perf_counter()
    with open_slide(arguments.slide) as slide:
        before["open"] = time.perf_counter() - started
        model = load_model(
            load_package(arguments.model, _bare(arguments)),
            arguments.device,
            arguments.encoder_weights,
            Precision(arguments.precision),
        )
        with shown_progress(sys.stderr) as progress:
            progress("hash", 0, 1)
            started = time.perf_counter()
            content = Content(fingerprint_of_files(arguments.slide), _kept_features(arguments.cache))
            before["hash"] = time.perf_counter() - started
            analysis = analyze_slide(slide, model, options=options, progress=progress, content=content)
        replaces = (arguments.out / "result.json").exists()
        written = analysis.save(arguments.out)
        if options.patches is None:
            written += _write_patches(slide, analysis, arguments.out / f"{arguments.slide.stem}.h5")
    _print_summary(analysis, before, written, replaces=replaces)
    return 0


def _kept_features(cache: Path | None) -> FeatureStore:
    return NoFeatures() if cache is None else FeatureFolder(cache, CACHE_LIMITS)


def _options(arguments: argparse.Namespace) -> AnalysisOptions:
    return AnalysisOptions(
        mpp=arguments.mpp,
        tissue_preset=arguments.tissue_preset,
        reference=None if arguments.reference is None else Reference(arguments.reference),
        patch_level=arguments.patch_level,
        overlap=arguments.overlap,
        batch_size=arguments.batch_size,
        patches=None if arguments.patches is None else read_patches(arguments.patches),
    )


def _bare(arguments: argparse.Namespace) -> BareCheckpoint | None:
    if arguments.encoder is None:
        return None
    classes = tuple(name.strip() for name in arguments.classes.split(",")) if arguments.classes else ()
    return BareCheckpoint(arguments.encoder, arguments.patch_px, arguments.model_mpp, classes)


def _write_patches(slide: Slide, analysis: Analysis, path: Path) -> list[Path]:
    plan = analysis.plan
    written = write_patches(
        path,
        analysis.coordinates,
        patch_size=plan.read_px,
        patch_level=plan.level,
        level=slide.levels[plan.level],
    )
    return [] if written is None else [written]


def _print_summary(
    analysis: Analysis, before: Mapping[str, float], written: list[Path], *, replaces: bool
) -> None:
    for line in _summary_lines(analysis, before, written, replaces=replaces):
        print(line)  # noqa: T201 - this is the command's answer


def _side(plan: PatchPlan) -> str:
    """Return a patch's side as the encoder saw it and, where that is another number, on the slide."""
    scale = "" if plan.mpp is None else f" at {plan.mpp:.3g} um a pixel"
    on_slide = plan.footprint[0]
    level_0 = f" ({on_slide} px of the slide's level 0)" if on_slide != plan.patch_px else ""
    return f"{plan.patch_px} px{scale}{level_0}"


def _summary_lines(
    analysis: Analysis, before: Mapping[str, float], written: list[Path], *, replaces: bool
) -> Iterator[str]:
    tissue = "" if analysis.tissue_mm2 is None else f", {analysis.tissue_mm2:.2f} mm2 of tissue"
    yield f"slide      {analysis.slide.identity.label}"
    yield f"model      {analysis.model.name} {analysis.model.version} ({analysis.model.use})"
    yield f"patches    {len(analysis.coordinates)} of {_side(analysis.plan)}{tissue}"
    if analysis.quality.status == "abstained":
        yield f"prediction none: the model abstains (it leans to {analysis.predicted_class})"
    else:
        yield f"prediction {analysis.predicted_class}"
    for name, value in zip(analysis.model.classes, analysis.prediction.probabilities, strict=True):
        yield f"  {name:<24} {value:6.1%}  {'#' * round(float(value) * 30)}"
    yield f"quality    {analysis.quality.status} {analysis.quality.reason}".rstrip()
    if analysis.flags:
        yield f"flags      {', '.join(analysis.flags)}"
    yield "top patches (x, y in level-0 pixels; share and rank of the attention)"
    for patch in analysis.top_patches[:TOP_SHOWN]:
        yield f"  {patch.x:>8} {patch.y:>8}  {patch.attention:.4f}  {patch.percentile:6.2f} %"
    timings = {**before, **analysis.timings}
    yield "seconds    " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in timings.items())
    former = ", in place of an earlier result" if replaces else ""
    yield f"written    {', '.join(path.name for path in written)} in {written[0].parent}{former}"
    yield analysis.model.intended_use
