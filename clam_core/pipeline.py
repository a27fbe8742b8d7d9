# SPDX-License-Identifier: Apache-2.0
"""A slide in, a prediction and its explanation out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

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
        tissue = find_tissue(slide, summary, package, options)
        tissue_mm2 = None if summary.mpp is None else tissue.area_mm2(summary.mpp)
    with run.stage("patches"):
        coordinates = lay_patches(slide, tissue, plan, options)
        finer = None
        if options.overlap:
            finer = _Finer.of(lay_patches(slide, tissue, plan, options, options.overlap), coordinates)
    total = len(coordinates) + (0 if finer is None else len(finer.new))
    features = np.concatenate(list(_encoded(slide, model, plan, coordinates, options, run, 0, total)))
    with run.stage("predict"):
        prediction = _predict(model, features)
        shares = attention_shares(prediction)
        ranks = percentiles(prediction.attention)
        quality = package.assess(features, tissue_mm2, len(coordinates))
    fine = None
    if finer is not None:
        with closing(
            _encoded(slide, model, plan, finer.new, options, run, len(coordinates), total)
        ) as batches:
            fine = _fine_scores(model, prediction, finer, batches)
    flags = tuple(dict.fromkeys((*spacing_flags(slide, summary, plan, package, options), *quality.flags)))
    with run.stage("heatmap"):
        top = find_top_patches(slide, plan, coordinates, shares, ranks, options)
        overlay = draw_overlay(summary, tissue, plan, fine or FineScores(coordinates, ranks), options)
        caption = make_caption(summary, package, prediction, len(coordinates), tissue_mm2, quality, flags)
        if options.caption_name is not None:
            caption = replace(caption, slide=options.caption_name)
        heatmap = draw_heatmap(slide, summary, overlay, caption, top, options)
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


@dataclass(frozen=True)
class _Finer:
    """The overlapping patches of a finer heatmap, and which of them are encoded already."""

    coordinates: Coordinates
    known: NDArray[np.intp]
    """For each patch its index among those of the prediction, or -1."""

    @classmethod
    def of(cls, coordinates: Coordinates, encoded: Coordinates) -> _Finer:
        places = {(int(x), int(y)): index for index, (x, y) in enumerate(encoded)}
        known = [places.get((int(x), int(y)), -1) for x, y in coordinates]
        return cls(coordinates, np.asarray(known, dtype=np.intp))

    @property
    def new(self) -> Coordinates:
        """The patches that are not encoded yet."""
        return self.coordinates[self.known < 0]


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
    model: LoadedModel, prediction: SlidePrediction, finer: _Finer, batches: Iterator[Features]
) -> FineScores:
    """Rank overlapping patches among those of the prediction: raw attention does not depend on the bag."""
    row = prediction.predicted if len(prediction.attention_raw) > 1 else 0
    raw = prediction.attention[finer.known]
    new = [_predict(model, batch).attention_raw[row] for batch in batches]
    if new:
        raw[finer.known < 0] = np.concatenate(new)
    return FineScores(finer.coordinates, percentiles_among(raw, prediction.attention))


def _software(device: torch.device) -> dict[str, str]:
    return {
        "clam_core": clam_core.__version__,
        "torch": torch.__version__,
        "device": describe_device(device),
    }
