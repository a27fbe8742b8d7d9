# SPDX-License-Identifier: Apache-2.0
"""A slide in, a prediction and its explanation out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

import clam_core
from clam_core.device import describe_device
from clam_core.encoding import Features, encode_patches
from clam_core.errors import AnalysisStopped, NonFiniteError
from clam_core.explanation import (
    attention_shares,
    draw_heatmap,
    draw_overlay,
    find_top_patches,
    make_caption,
)
from clam_core.heatmap import percentiles, percentiles_among
from clam_core.model import LoadedModel, Model, load_model
from clam_core.models import SlidePrediction
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates, PatchPlan
from clam_core.reading import find_tissue, lay_patches, plan_patches, spacing_flags, summarize
from clam_core.result import Analysis, FineScores
from clam_core.slides import Slide
from clam_core.tissue import Tissue

Progress = Callable[[str, int, int], None]
ShouldStop = Callable[[], bool]

STAGES = ("model", "tissue", "patches", "encode", "predict", "heatmap")
"""In this order; each is reported with what is done and what there is to do."""


def analyze_slide(
    slide: Slide,
    package: Model | LoadedModel,
    *,
    device: str = "auto",
    options: AnalysisOptions | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> Analysis:
    """Analyse a slide; the same slide, model and options give the same result.

    Parameters
    ----------
    slide
        An open slide; it stays open.
    package
        The model, loaded already or not.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; not used for a loaded model.
    options
        What the user chose.
    progress
        Called with a stage of `STAGES`, what is done and what there is to do.
    should_stop
        Asked between stages and batches.

    Raises
    ------
    NoTissueError
        If there is no tissue, or not enough for one patch.
    MissingMppError
        If neither the slide nor the options say how large a pixel is.
    AnalysisStopped
        If `should_stop` said so.
    ClamCoreError
        Whatever else is wrong with slide, model or options; see `clam_core.errors`.
    """
    run = _Run(progress, should_stop)
    with run.stage("model"):
        model = package if isinstance(package, LoadedModel) else load_model(package, device)
    return _analyze(slide, model, options or AnalysisOptions(), run)


@dataclass
class _Run:
    """Progress, timings and the wish to stop, of one analysis."""

    progress: Progress | None
    should_stop: ShouldStop | None
    timings: dict[str, float] = field(default_factory=dict)

    def report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)
        if self.should_stop is not None and self.should_stop():
            raise AnalysisStopped("The analysis was stopped because its caller asked for it.")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.report(name, 0, 1)
        with self.timed(name):
            yield
        self.report(name, 1, 1)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - started


def _analyze(slide: Slide, model: LoadedModel, options: AnalysisOptions, run: _Run) -> Analysis:
    package = model.package
    summary = summarize(slide, options)
    plan = plan_patches(slide, summary, package, options)
    with run.stage("tissue"):
        tissue = find_tissue(slide, package, options)
        tissue_mm2 = None if summary.mpp is None else tissue.area_mm2(summary.mpp)
    with run.stage("patches"):
        coordinates = lay_patches(slide, tissue, plan, options)
        overlapping = _not_known(slide, tissue, plan, coordinates, options)
    total = len(coordinates) + len(overlapping)
    features = np.concatenate(list(_encoded(slide, model, plan, coordinates, options, run, 0, total)))
    with run.stage("predict"):
        prediction = _predict(model, features)
        shares = attention_shares(prediction)
        ranks = percentiles(prediction.attention)
        quality = package.assess(features, tissue_mm2, len(coordinates))
    fine = None
    if len(overlapping):
        with closing(
            _encoded(slide, model, plan, overlapping, options, run, len(coordinates), total)
        ) as batches:
            fine = _fine_scores(model, prediction, coordinates, overlapping, batches)
    flags = tuple(dict.fromkeys((*spacing_flags(slide, summary, plan, package, options), *quality.flags)))
    with run.stage("heatmap"):
        top = find_top_patches(slide, plan, coordinates, shares, ranks, options)
        overlay = draw_overlay(summary, tissue, plan, fine or FineScores(coordinates, ranks), options)
        caption = make_caption(summary, package, prediction, len(coordinates), tissue_mm2, quality, flags)
        heatmap = draw_heatmap(slide, summary, overlay, caption, options)
    return Analysis(
        slide=summary,
        model=package,
        encoder_name=model.encoder.name,
        encoder_sha256=model.encoder.sha256,
        options=options,
        plan=plan,
        coordinates=coordinates,
        features=features,
        prediction=prediction,
        attention=shares,
        percentiles=ranks,
        fine=fine,
        quality=quality,
        flags=flags,
        tissue_mm2=tissue_mm2,
        top_patches=top,
        heatmap=heatmap,
        overlay=overlay,
        timings=run.timings,
        software=_software(model.device),
    )


def _not_known(
    slide: Slide, tissue: Tissue, plan: PatchPlan, known: Coordinates, options: AnalysisOptions
) -> Coordinates:
    """Return the patches of the finer heatmap that are not encoded anyway."""
    if options.overlap == 0:
        return np.empty((0, 2), dtype=np.int64)
    finer = lay_patches(slide, tissue, plan, options, options.overlap)
    already = {(int(x), int(y)) for x, y in known}
    new = [(int(x), int(y)) not in already for x, y in finer]
    return finer[np.asarray(new, dtype=np.bool_)]


def _encoded(
    slide: Slide,
    model: LoadedModel,
    plan: PatchPlan,
    coordinates: Coordinates,
    options: AnalysisOptions,
    run: _Run,
    before: int,
    total: int,
) -> Generator[Features]:
    """Yield features batch by batch, reporting progress among all patches there are to encode."""
    done = before
    run.report("encode", done, total)
    encoding = encode_patches(
        slide, plan, coordinates, model.encoder, batch_size=options.batch_size, readers=options.readers
    )
    with closing(encoding) as batches:
        while done < before + len(coordinates):
            with run.timed("encode"):
                features = next(batches)
            done += len(features)
            run.report("encode", done, total)
            yield features


def _predict(model: LoadedModel, features: Features) -> SlidePrediction:
    prediction = model.aggregator.predict(features)
    if not (np.isfinite(prediction.probabilities).all() and np.isfinite(prediction.attention_raw).all()):
        raise NonFiniteError(
            f"The model {model.package.name} produced probabilities or attention that are no numbers; "
            "check its checkpoint."
        )
    return prediction


def _fine_scores(
    model: LoadedModel,
    prediction: SlidePrediction,
    coordinates: Coordinates,
    overlapping: Coordinates,
    batches: Iterator[Features],
) -> FineScores:
    """Rank overlapping patches among those of the prediction: raw attention does not depend on the bag."""
    row = prediction.predicted if len(prediction.attention_raw) > 1 else 0
    raw = [prediction.attention, *(_predict(model, batch).attention_raw[row] for batch in batches)]
    ranks = percentiles_among(np.concatenate(raw), prediction.attention)
    return FineScores(np.concatenate([coordinates, overlapping]), ranks)


def _software(device: torch.device) -> dict[str, str]:
    return {
        "clam_core": clam_core.__version__,
        "torch": torch.__version__,
        "device": describe_device(device),
    }
