# SPDX-License-Identifier: Apache-2.0
"""A slide in, a prediction and its explanation out."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

import clam_core
from clam_core.device import describe_device
from clam_core.encoders.precision import precision_flags
from clam_core.errors import NonFiniteError
from clam_core.explanation import (
    attention_shares,
    draw_heatmap,
    draw_overlay,
    find_top_patches,
    make_caption,
)
from clam_core.feature_stream import FeatureStream
from clam_core.features import FeatureEntry, FeatureKey, Features, FeatureStore, NoFeatures
from clam_core.heatmap import percentiles, percentiles_among
from clam_core.model import LoadedModel, Model, load_model
from clam_core.models import SlidePrediction
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates, PatchPlan
from clam_core.reading import (
    covered_by_patches,
    find_tissue,
    lay_patches,
    plan_patches,
    require_stored,
    spacing_flags,
    summarize,
)
from clam_core.result import Analysis, FineScores, SlideSummary
from clam_core.run import EncoderTurn, LateTurn, Progress, Run, ShouldStop
from clam_core.slides import Slide, thumbnail
from clam_core.software import LIBRARIES, versions
from clam_core.tissue import Tissue

STAGES = ("model", "tissue", "patches", "known", "wait", "encode", "predict", "heatmap")
"""In this order; each is reported with what is done and what there is to do.

Patches whose features are known are done in the stage ``known``, and count in the next as well. Nobody waits
for the encoder where all are known. The overlapping patches of a finer heatmap come after the prediction.
"""


def analyze_slide(
    slide: Slide,
    package: Model | LoadedModel,
    *,
    device: str = "auto",
    options: AnalysisOptions | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    content: Content | None = None,
    turn: EncoderTurn = nullcontext,
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
    content
        What names the slide's content in the result, and keeps its features.
    turn
        Makes what is held while this slide's patches are encoded, such as a lock: two analyses in two
        threads then read, predict and draw beside each other, and do not share the encoder. It is entered
        when the first patches are read, and not at all where all features are known.

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
    run = Run(progress, should_stop)
    with run.stage("model"):
        model = package if isinstance(package, LoadedModel) else load_model(package, device)
    return _Steps(slide, model, options or AnalysisOptions(), run, content, turn).analysis()


@dataclass(frozen=True)
class Content:
    """What a slide holds, by a name.

    Attributes
    ----------
    fingerprint
        Where a pixel changes, so must this. It must name no patient. For a slide that lies on this machine
        `clam_core.features.fingerprint_of_files` makes one.
    features
        Keeps features of earlier runs on this content. Those of a run are added batch by batch, so that one
        that was cut off is gone on with.
    """

    fingerprint: str
    features: FeatureStore = NoFeatures()  # noqa: RUF009 - it holds nothing


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


@dataclass(frozen=True)
class _Found:
    """What is known of a slide before any patch is encoded."""

    summary: SlideSummary
    plan: PatchPlan
    tissue: Tissue
    tissue_mm2: float | None
    coordinates: Coordinates
    finer: _Finer | None

    @property
    def total(self) -> int:
        """Patches there are to encode."""
        return len(self.coordinates) + (0 if self.finer is None else len(self.finer.new))


@dataclass(frozen=True)
class _Encoded:
    """What became of the patches."""

    features: Features
    prediction: SlidePrediction
    fine: FineScores | None


@dataclass(frozen=True)
class _Steps:
    """The steps of one analysis, in order."""

    slide: Slide
    model: LoadedModel
    options: AnalysisOptions
    run: Run
    content: Content | None
    turn: EncoderTurn

    def analysis(self) -> Analysis:
        found = self._find_patches()
        return self._explain(found, self._encode(found))

    def _find_patches(self) -> _Found:
        slide, package, options = self.slide, self.model.package, self.options
        summary = summarize(slide, options)
        plan = plan_patches(slide, summary, package, options)
        with self.run.stage("tissue"):
            if options.patches is None:
                tissue = find_tissue(slide, summary, package, options)
            else:
                tissue = covered_by_patches(slide, plan, options.patches.coordinates)
            tissue_mm2 = None if summary.mpp is None else tissue.area_mm2(summary.mpp)
        with self.run.stage("patches"):
            coordinates = lay_patches(slide, tissue, plan, options)
            require_stored(slide, plan, coordinates)
            finer = None
            if options.overlap:
                finer = _Finer.of(lay_patches(slide, tissue, plan, options, options.overlap), coordinates)
        return _Found(summary, plan, tissue, tissue_mm2, coordinates, finer)

    def _encode(self, found: _Found) -> _Encoded:
        """Encode, predict and score the overlapping patches, with the encoder to itself."""
        with ExitStack() as held:
            entry = held.enter_context(self._entry(found.plan))
            turn = held.enter_context(LateTurn(self.turn, self.run))
            stream = FeatureStream(
                self.slide,
                found.plan,
                self.model.encoder,
                self.options,
                self.run,
                entry,
                turn.take,
                found.total,
            )
            features = stream.all_of(found.coordinates)
            with self.run.stage("predict"):
                prediction = _predict(self.model, features)
            fine = None
            if found.finer is not None:
                fine = _fine_scores(self.model, prediction, found.finer, stream)
        return _Encoded(features, prediction, fine)

    def _entry(self, plan: PatchPlan) -> AbstractContextManager[FeatureEntry]:
        encoder = self.model.encoder
        content = self.content or Content("")
        return content.features.open(FeatureKey.of(content.fingerprint, encoder, plan), encoder.dim)

    def _explain(self, found: _Found, encoded: _Encoded) -> Analysis:
        slide, package, options = self.slide, self.model.package, self.options
        summary, plan, coordinates = found.summary, found.plan, found.coordinates
        prediction = encoded.prediction
        with self.run.stage("heatmap"):
            shares, ranks = attention_shares(prediction), percentiles(prediction.attention)
            quality = package.assess(encoded.features, found.tissue_mm2, len(coordinates))
            spacing = spacing_flags(slide, summary, plan, package, options)
            half = precision_flags(self.model.encoder.precision)
            flags = tuple(dict.fromkeys((*spacing, *half, *quality.flags)))
            top = find_top_patches(slide, plan, coordinates, shares, ranks, options)
            scores = encoded.fine or FineScores(coordinates, ranks)
            overlay = draw_overlay(summary, found.tissue, plan, scores, options)
            caption = make_caption(
                summary, package, prediction, len(coordinates), found.tissue_mm2, quality, flags
            )
            if options.caption_name is not None:
                caption = replace(caption, slide=options.caption_name)
            picture = thumbnail(slide, options.heatmap_px)
            heatmap = draw_heatmap(picture, summary, overlay, caption, top)
        return Analysis(
            slide=summary,
            fingerprint=None if self.content is None else self.content.fingerprint,
            model=package,
            encoder_name=self.model.encoder.name,
            encoder_sha256=self.model.encoder.sha256,
            options=options,
            plan=plan,
            coordinates=coordinates,
            features=encoded.features,
            prediction=prediction,
            attention=shares,
            percentiles=ranks,
            fine=encoded.fine,
            quality=quality,
            flags=flags,
            tissue_mm2=found.tissue_mm2,
            top_patches=top,
            heatmap=heatmap,
            overlay=overlay,
            thumbnail=picture,
            timings=self.run.timings,
            software=_software(self.model),
        )


def _predict(model: LoadedModel, features: Features) -> SlidePrediction:
    prediction = model.aggregator.predict(features)
    if not (np.isfinite(prediction.probabilities).all() and np.isfinite(prediction.attention_raw).all()):
        raise NonFiniteError(
            f"The model {model.package.name} produced probabilities or attention that are no numbers; "
            "check its checkpoint."
        )
    return prediction


def _fine_scores(
    model: LoadedModel, prediction: SlidePrediction, finer: _Finer, stream: FeatureStream
) -> FineScores:
    """Rank overlapping patches among those of the prediction: raw attention does not depend on the bag."""
    row = prediction.predicted if len(prediction.attention_raw) > 1 else 0
    raw = prediction.attention[finer.known]
    new = np.flatnonzero(finer.known < 0)
    for part in stream.parts_of(finer.new):
        raw[new[part.indices]] = _predict(model, part.features).attention_raw[row]
    return FineScores(finer.coordinates, percentiles_among(raw, prediction.attention))


def _software(model: LoadedModel) -> dict[str, str]:
    return {
        "clam_core": clam_core.__version__,
        "torch": torch.__version__,
        "device": describe_device(model.device),
        "encoder": model.encoder.numerics,
        "libraries": ", ".join(f"{name} {number}" for name, number in versions(LIBRARIES).items()),
    }
