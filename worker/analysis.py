# SPDX-License-Identifier: Apache-2.0
"""The models of this worker, loaded once and kept, and how they are run on a request's slide."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clam_core.device import describe_device, select_device
from clam_core.encoders import Encoder, Precision
from clam_core.errors import ClamCoreError, EncoderWeightsError
from clam_core.features import FeatureFolder, FeatureStore, FolderLimits, NoFeatures
from clam_core.heatmap.fonts import HOW_TO_GET, can_be_written
from clam_core.model import LoadedModel
from clam_core.options import AnalysisOptions
from clam_core.package import (
    BareCheckpoint,
    BrokenPackage,
    ModelPackage,
    discover_packages,
    load_package,
    package_path,
)
from clam_core.pipeline import Content, analyze_slide
from clam_core.run import EncoderTurn
from clam_core.slides import Slide
from clam_core.tensors import read_tensors
from worker.contract import ModelOffer
from worker.dicom_results import Attention
from worker.errors import ModelError
from worker.job import Analysis, StageReport
from worker.pace import Pace, in_words
from worker.settings import CheckpointSettings, Settings
from worker.sources import Verified
from worker.stages import is_begun
from worker.telemetry import Telemetry

_log = logging.getLogger(__name__)

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


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
            models = _load_all(_packages(settings), device, settings.encoder_weights, precision)
            _warn_of_letters(models)
            if telemetry is not None:
                models = {name: _metered(model, telemetry) for name, model in models.items()}
        except ClamCoreError as error:
            raise ModelError(str(error), error.code) from error
        default = _default_name(settings.default_model, models)
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


def _warn_of_letters(models: Mapping[str, LoadedModel]) -> None:
    for name, model in models.items():
        unwritten = [each for each in model.package.classes if not can_be_written(each)]
        if unwritten:
            _log.warning(
                "No font here has all letters of %s, classes of %s, and heatmap.png shows them as numbers: "
                "install one (%s).",
                ", ".join(unwritten),
                name,
                HOW_TO_GET,
            )


def _metered(model: LoadedModel, telemetry: Telemetry) -> LoadedModel:
    return dataclasses.replace(model, encoder=telemetry.metered(model.encoder))


def gpu_memory() -> Mapping[str, float]:
    """Return the memory that this process holds on its GPU, and how much that has; nothing without one."""
    held = {number: torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count())}
    used = [number for number, size in held.items() if size > 0]
    if not used:
        return {}
    return {
        "gpu_memory_bytes": sum(held.values()),
        "gpu_memory_total_bytes": sum(torch.cuda.get_device_properties(n).total_memory for n in used),
    }


def free_gpu_memory(device: str) -> tuple[int, int] | None:
    """Return free and total bytes of the GPU that a text such as ``cuda:0 NVIDIA H200`` begins with."""
    name = device.split(" ", 1)[0]
    return torch.cuda.mem_get_info(name) if name.startswith("cuda") else None


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
            self._report("encode" if self._begun else stage, share, f"{done:,} of {total:,} patches")
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


def _packages(settings: Settings) -> list[ModelPackage]:
    """Return the packages that the settings name; a broken one among several in a folder is left out."""
    if settings.model_path is None and settings.models_dir is None:
        raise ModelError(
            "No model is set: name a checkpoint or a model package in MODEL_PATH (or the word demo), or a "
            "folder of packages in MODELS_DIR."
        )
    packages = []
    if settings.model_path is not None:
        path = package_path(settings.model_path)
        packages.append(load_package(path, _bare(path, settings.checkpoint)))
    if settings.models_dir is not None:
        packages.extend(_discovered(settings.models_dir))
    if not packages:
        raise ModelError(f"MODELS_DIR={settings.models_dir} holds no model package that can be used.")
    return packages


def _bare(path: Path, said: CheckpointSettings | None) -> BareCheckpoint | None:
    if said is not None:
        return BareCheckpoint(said.encoder, said.patch_px, said.mpp, said.classes, said.tissue_preset)
    if path.is_file():
        read_tensors(path)  # What is no checkpoint at all is called so first.
        raise ModelError(
            f"{path} is a checkpoint without a model package: say in MODEL_ENCODER which encoder made the "
            "features it was trained on (and MODEL_MPP, MODEL_PATCH_PX, MODEL_CLASSES where they differ)."
        )
    return None


def _discovered(folder: Path) -> list[ModelPackage]:
    usable = []
    for found in discover_packages(folder):
        if isinstance(found, BrokenPackage):
            _log.error("The model in %s is not offered: %s", found.path, found.error)
        else:
            usable.append(found)
    return usable


def _load_all(
    packages: Sequence[ModelPackage], device: torch.device, weights: Path | None, precision: Precision
) -> dict[str, LoadedModel]:
    """Load every package; models of one encoder share it."""
    encoders: dict[tuple[str, str], Encoder] = {}
    models: dict[str, LoadedModel] = {}
    for package in packages:
        if package.name in models:
            raise ModelError(f"Two models are named {package.name}: give each its own name in model.json.")
        key = (package.encoder.name, package.encoder.sha256)
        try:
            if key not in encoders:
                found = encoder_weights(weights, package.encoder.name)
                encoders[key] = package.load_encoder(device, found, precision)
            aggregator = package.load_aggregator(device)
        except ClamCoreError as error:
            if len(packages) == 1:
                raise
            _log.error("The model %s is not offered: %s", package.name, error)
            continue
        models[package.name] = LoadedModel(package, encoders[key], aggregator, device)
    if not models:
        raise ModelError("None of the models can be used; the lines above say why.")
    return models


def encoder_weights(setting: Path | None, encoder: str) -> Path | None:
    """Return the weights file that ENCODER_WEIGHTS names for an encoder, or None where it names none.

    Raises
    ------
    EncoderWeightsError
        If ENCODER_WEIGHTS names nothing that is there.
    """
    if setting is None or setting.is_file():
        return setting
    if not setting.is_dir():
        raise EncoderWeightsError(f"ENCODER_WEIGHTS={setting} is neither a file nor a folder: correct it.")
    candidates = (setting / f"{encoder}{suffix}" for suffix in _WEIGHTS_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _default_name(chosen: str | None, models: Mapping[str, LoadedModel]) -> str | None:
    if chosen is not None and chosen not in models:
        raise ModelError(f"DEFAULT_MODEL={chosen} is none of the models here: {', '.join(models)}.")
    return chosen or next(iter(models), None)
