# SPDX-License-Identifier: Apache-2.0
"""How the models of this worker are run on a request's slide."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from clam_core.device import describe_device, select_device
from clam_core.encoders import Precision
from clam_core.errors import ClamCoreError
from clam_core.features import FeatureFolder, FeatureStore, FolderLimits, NoFeatures
from clam_core.model import LoadedModel
from clam_core.options import AnalysisOptions
from clam_core.pipeline import Content, analyze_slide
from clam_core.run import EncoderTurn
from clam_core.slides import Slide
from worker.api.contract import ModelOffer
from worker.dicom_results import Attention
from worker.errors import ModelError
from worker.settings import Settings
from worker.sources import Verified
from worker.stages import is_begun
from worker.telemetry import Telemetry

from .job import Analysis, StageReport
from .models import default_name, load_models
from .pace import Pace, in_words


@dataclass(frozen=True)
class ClamAnalyzer:
    """Runs the models that the settings name.

    Attributes
    ----------
    models
        Every model that can run here, by name.
    default_model
        The model for requests that name none.
    device
        The device, for people.
    features
        Keeps features from slide to slide.
    rates
        Patches a second of the last slide, by the encoder's hash: so it is known what a slide of few batches
        will take before its own rate is measured.
    """

    models: Mapping[str, LoadedModel]
    default_model: str | None
    device: str
    features: FeatureStore = dataclasses.field(default_factory=NoFeatures)
    rates: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, settings: Settings, telemetry: Telemetry | None = None) -> ClamAnalyzer:
        """Load the models; what their encoders do is counted.

        Raises
        ------
        ModelError
            If none is named or the one that is cannot be used.
        """
        try:
            device, precision = select_device(settings.device), Precision(settings.precision)
            models = load_models(settings, device, precision)
            if telemetry is not None:
                models = {name: _metered(model, telemetry) for name, model in models.items()}
        except ClamCoreError as error:
            raise ModelError(str(error), error.code) from error
        default = default_name(settings.default_model, models)
        return cls(models, default, describe_device(device), feature_store(settings))

    @property
    def offers(self) -> tuple[ModelOffer, ...]:
        """The models that can run here."""
        packages = [model.package for model in self.models.values()]
        return tuple(ModelOffer(package.name, package.version, package.sha256) for package in packages)

    def analyze(
        self,
        slide: Slide,
        request: Mapping[str, Any],
        report: StageReport,
        turn: EncoderTurn = nullcontext,
    ) -> Analysis:
        """Analyse an open slide as the request asks.

        Raises
        ------
        ModelError
            If the request names a model that is not here.
        ClamCoreError
            If there is no result.
        """
        options = AnalysisOptions.from_parameters(request.get("parameters") or {})
        # Pictures wait in the spool, where nothing but UIDs may tell whose slide it is; the pages of Orthanc
        # name the glass beside them.
        series = request.get("series_instance_uid") or slide.identity.series_instance_uid
        model = self._model(request.get("model"))
        progress = Progress(report, self.rates.get(model.encoder.sha256))
        found = analyze_slide(
            slide,
            model,
            options=dataclasses.replace(options, caption_name=f"Series {series}" if series else "Slide"),
            progress=progress,
            content=self._content(slide, request),
            turn=turn,
        )
        if progress.rate is not None:
            self.rates[model.encoder.sha256] = progress.rate
        begun = time.perf_counter()
        artifacts = found.artifacts()
        result = found.to_result()
        result["timings_s"]["pictures"] = round(time.perf_counter() - begun, 3)
        return Analysis(
            result=result,
            artifacts=artifacts,
            attention=Attention(
                found.coordinates,
                found.plan.footprint,
                found.percentiles,
                is_share=found.prediction.attends,
            ),
        )

    def _content(self, slide: Slide, request: Mapping[str, Any]) -> Content | None:
        """Name what is read, and say where its features are kept; nowhere where nothing names it.

        The series' fingerprint names its DICOM: a file from SVS_STORAGE_DIR that stands in for it may change,
        and by DICOMweb a slide may be read that replaced it meanwhile.
        """
        fingerprint = request.get("fingerprint")
        if not isinstance(slide, Verified) or not fingerprint:
            return None
        return Content(str(fingerprint), self.features)

    def _model(self, name: str | None) -> LoadedModel:
        chosen = name or self.default_model
        if chosen is None or chosen not in self.models:
            raise ModelError(
                f"This worker has no model {chosen or 'by default'}; it has {', '.join(self.models)}.",
                "unknown_model",
            )
        return self.models[chosen]


def _metered(model: LoadedModel, telemetry: Telemetry) -> LoadedModel:
    return dataclasses.replace(model, encoder=telemetry.metered(model.encoder))


class Progress:
    """Turns what the analysis counts into what a person and the daemon want to know.

    Parameters
    ----------
    report
        Is told.
    usual
        Patches a second of an earlier slide, if there was one.
    """

    def __init__(self, report: StageReport, usual: float | None = None) -> None:
        self._report = report
        self._pace = Pace(usual)
        self._begun = False

    @property
    def rate(self) -> float | None:
        """Patches a second as measured, or None where none were encoded."""
        return self._pace.per_second

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a report of the analysis."""
        share = done / max(total, 1)
        self._begun = self._begun or is_begun(stage)
        if stage == "encode":
            self._encoded(done, total)
        elif stage == "known":
            self._pace.restart()
            # The patches of a finer heatmap are found among the known ones when the slide is long begun.
            # "So far", because the log shows only the first of these reports, and they follow fast.
            words = f"{done:,} of {total:,} patches so far"
            self._report("encode" if self._begun else stage, share, words)
        else:
            self._report(stage, share)

    def _encoded(self, done: int, total: int) -> None:
        self._pace.note(done)
        remaining_s = self._pace.seconds_for(total - done)
        words = f"{done:,} of {total:,} patches"
        if self.rate is not None and remaining_s is not None:
            words += f", {self.rate:.1f}/s, {in_words(remaining_s)} left"
        self._report("encode", done / max(total, 1), words, remaining_s)


def feature_store(settings: Settings) -> FeatureStore:
    """Return what keeps features between slides, as the settings say."""
    if settings.feature_cache_max_bytes == 0:
        return NoFeatures()
    limits = FolderLimits(settings.feature_cache_max_bytes, settings.feature_cache_max_age_s)
    kept = FeatureFolder(settings.feature_cache_dir, limits)
    # At the start too: a worker may be idle for longer than features are to be kept.
    kept.tidy()
    return kept
