# SPDX-License-Identifier: Apache-2.0
"""The models that the settings name, loaded once when the worker starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from clam_core.encoders import Encoder, Precision
from clam_core.errors import ClamCoreError, EncoderWeightsError
from clam_core.heatmap.fonts import HOW_TO_GET, can_be_written
from clam_core.model import LoadedModel
from clam_core.package import (
    BareCheckpoint,
    BrokenPackage,
    ModelPackage,
    discover_packages,
    load_package,
    package_path,
)
from clam_core.tensors import read_tensors
from worker.errors import ModelError
from worker.settings import CheckpointSettings, Settings

_log = logging.getLogger(__name__)

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def load_models(settings: Settings, device: torch.device, precision: Precision) -> dict[str, LoadedModel]:
    """Load every model that the settings name, by its name; one of several that cannot be used is left out.

    Raises
    ------
    ModelError
        If none is named, or none can be used.
    ClamCoreError
        If the only one cannot be used.
    """
    models = _load_all(_packages(settings), device, settings.encoder_weights, precision)
    _warn_of_letters(models)
    return models


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


def default_name(chosen: str | None, models: Mapping[str, LoadedModel]) -> str | None:
    """Return the model for requests that name none: the one that DEFAULT_MODEL names, else the first.

    Raises
    ------
    ModelError
        If DEFAULT_MODEL names none of them.
    """
    if chosen is not None and chosen not in models:
        raise ModelError(f"DEFAULT_MODEL={chosen} is none of the models here: {', '.join(models)}.")
    return chosen or next(iter(models), None)


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
