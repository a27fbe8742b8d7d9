# SPDX-License-Identifier: Apache-2.0
"""Settings of the worker: one frozen value for all that an operator can set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .errors import SettingsError
from .result_kinds import ResultKind


class Shutdown(Enum):
    """What SIGTERM does to the request in work."""

    FINISH = "finish"
    HANDBACK = "handback"


class LogFormat(Enum):
    """For whom the log is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Credentials:
    """A user of Orthanc.

    Attributes
    ----------
    user, password
        As Orthanc's RegisteredUsers have them.
    prefix
        Of the settings that name them: ``ORTHANC`` or ``SUBMIT``.
    """

    user: str
    password: str = field(repr=False)
    prefix: str = field(default="ORTHANC", compare=False)


@dataclass(frozen=True)
class CheckpointSettings:
    """What a bare checkpoint, named by MODEL_PATH, does not say of itself.

    Attributes
    ----------
    encoder
        Name of the encoder of the features it was trained on.
    patch_px, mpp
        Side of its patches in pixels, at so many micrometres a pixel.
    classes
        Names of its classes; empty for ``class_0`` and so on.
    tissue_preset
        How tissue is found.
    """

    encoder: str
    patch_px: int
    mpp: float
    classes: tuple[str, ...]
    tissue_preset: str


@dataclass(frozen=True)
class Settings:
    """Everything that an operator can set; ``worker/env.example`` documents each name.

    Attributes
    ----------
    orthanc_url
        Address of Orthanc, without a trailing slash.
    api_url
        Address of the plugin's routes, without a trailing slash.
    dicomweb_url
        Address of the DICOMweb server that slides are read from where Orthanc offers no byte ranges, without
        a trailing slash.
    worker
        The user that claims and completes, or None.
    person
        The user that ``submit``, ``status`` and ``ingest`` act as, or None.
    worker_id
        Name of this worker in lists and histories.
    model_path
        A checkpoint, a model package's folder, the word ``demo``, or None.
    models_dir
        A folder of model packages, or None.
    default_model
        Name of the model for requests that name none, or None for the first.
    checkpoint
        What a bare checkpoint does not say of itself, or None where MODEL_ENCODER is not set.
    encoder_weights
        A file of encoder weights, a folder of files named after their encoders, or None.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        What the encoders compute in: ``float32``, ``bfloat16`` or ``float16``.
    dicom_results
        The DICOM objects that are written beside the result.
    svs_storage_dir
        Folder of slide files for series without a readable pyramid, or None.
    poll_interval_s
        Seconds between claims where the server refuses long polls.
    long_poll_s
        Seconds that a claim may be held open.
    connect_timeout_s, read_timeout_s
        Limits of one HTTP exchange; a long poll adds its own time to the second.
    shutdown
        What SIGTERM does to the request in work.
    spool_dir
        Folder where results wait for the network.
    spool_max_bytes, spool_max_age_s
        Bounds of that folder.
    feature_cache_dir
        Folder of features of earlier runs, shared by all workers of this machine.
    feature_cache_max_bytes, feature_cache_max_age_s
        Bounds of that folder; no byte turns it off.
    log_format, log_level
        How the log is written.
    passed_on
        What the ``.env`` file holds for the process' environment: proxy, CA, converter.
    warnings
        Sentences about settings that are out of use.
    """

    orthanc_url: str
    api_url: str
    dicomweb_url: str
    worker: Credentials | None
    person: Credentials | None
    worker_id: str
    model_path: str | None
    models_dir: Path | None
    default_model: str | None
    checkpoint: CheckpointSettings | None
    encoder_weights: Path | None
    device: str
    precision: str
    dicom_results: frozenset[ResultKind]
    svs_storage_dir: Path | None
    poll_interval_s: float
    long_poll_s: float
    connect_timeout_s: float
    read_timeout_s: float
    shutdown: Shutdown
    spool_dir: Path
    spool_max_bytes: int
    spool_max_age_s: float
    feature_cache_dir: Path
    feature_cache_max_bytes: int
    feature_cache_max_age_s: float
    log_format: LogFormat
    log_level: str
    passed_on: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()

    def secrets(self) -> tuple[str, ...]:
        """Return the passwords, for the filter that keeps them out of the log."""
        return tuple(user.password for user in (self.worker, self.person) if user and user.password)

    def require_worker(self) -> Credentials:
        """Return the worker's user.

        Raises
        ------
        SettingsError
            If no worker's user is set.
        """
        if self.worker is None:
            raise SettingsError(
                "Set ORTHANC_USER and ORTHANC_PASSWORD to the user that Pathology.Workers in orthanc.json "
                "names."
            )
        return self.worker

    def require_anybody(self) -> Credentials:
        """Return the person's user, else the worker's.

        Raises
        ------
        SettingsError
            If neither is set.
        """
        user = self.person or self.worker
        if user is None:
            raise SettingsError("Set SUBMIT_USER and SUBMIT_PASSWORD to a user of Orthanc.")
        return user

    def require_person(self) -> Credentials:
        """Return the person's user.

        Raises
        ------
        SettingsError
            If no person's user is set.
        """
        if self.person is None:
            raise SettingsError(
                "Set SUBMIT_USER and SUBMIT_PASSWORD to a user of Orthanc that is no worker: workers may not "
                "submit."
            )
        return self.person
