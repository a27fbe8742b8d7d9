# SPDX-License-Identifier: Apache-2.0
"""Under which names a slide is stored: chosen by the user, else derived from the file."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import IngestError

_NAMESPACE = uuid.UUID("7a1f4b8e-3f53-5c0b-9a55-6d2d0d1c52f5")
_SCHEME = 2
"""Raised when the same file and options would be turned into different DICOM."""

_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


@dataclass(frozen=True)
class SlideOptions:
    """What the user says about a slide.

    Attributes
    ----------
    mpp
        Micrometres per pixel of the largest level, where the file does not say or says it wrongly.
    patient_id, patient_name, accession_number, study_description
        Of the DICOM header; generated or left empty where None.
    container_id
        What stands on the glass; the file's name without its ending where None.
    study_uid
        UID of an existing study that the slide belongs to.
    labels
        Whether the label's and the macro's pictures are stored too: they may show names.
    """

    mpp: float | None = None
    patient_id: str | None = None
    patient_name: str | None = None
    accession_number: str | None = None
    study_description: str | None = None
    container_id: str | None = None
    study_uid: str | None = None
    labels: bool = False

    def __post_init__(self) -> None:
        if self.mpp is not None and not 0.01 <= self.mpp <= 100:
            raise IngestError("bad_option", f"--mpp {self.mpp:g} must be from 0.01 to 100 micrometres.")
        if self.study_uid is not None and _UID.fullmatch(self.study_uid) is None:
            raise IngestError("bad_option", f"--study-uid {self.study_uid} is not a DICOM UID.")
        limits = {"accession_number": 16}
        for name in ("patient_id", "patient_name", "accession_number", "study_description", "container_id"):
            _check_text(name, getattr(self, name), limits.get(name, 64))


def _check_text(name: str, value: str | None, limit: int) -> None:
    """Refuse what a DICOM string of the type cannot hold (PS3.5, table 6.2-1)."""
    option = "--" + name.replace("_", "-")
    if value is None:
        return
    if not value.strip() or len(value) > limit:
        raise IngestError("bad_option", f"{option} must have 1 to {limit} characters.")
    if "\\" in value or not value.isprintable():
        raise IngestError("bad_option", f"{option} must not hold backslashes or control characters.")


@dataclass(frozen=True)
class DicomIdentity:
    """The names of one stored slide.

    Attributes
    ----------
    seed
        SHA-256 over the file's content and the options: what every UID is derived from, so that the same
        command finds its series again, and a corrected one makes a new series.
    patient_id, patient_name, accession_number, study_description, container_id
        Values of the DICOM header.
    study_uid
        StudyInstanceUID.
    """

    seed: str
    patient_id: str
    patient_name: str
    accession_number: str
    study_description: str
    container_id: str
    study_uid: str

    def uid(self, role: str) -> str:
        """Return the UID of a part, such as ``series`` or ``level-0`` (UUID-derived, PS3.5 B.2)."""
        return derived_uid(self.seed, role)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.uid("series")


def derived_uid(seed: str, role: str) -> str:
    """Return the same UID for the same seed and role."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{seed}/{role}').int}"


def identify(slide: Path, sha256: str, options: SlideOptions) -> DicomIdentity:
    """Name a slide.

    Parameters
    ----------
    slide
        The file; its name without its ending is the default container.
    sha256
        SHA-256 of the file's content.
    options
        What the user says.
    """
    seed = hashlib.sha256(
        json.dumps({"scheme": _SCHEME, "file": sha256, **asdict(options)}, sort_keys=True).encode()
    ).hexdigest()
    patient_id = options.patient_id or f"WSI-{sha256[:12]}"
    return DicomIdentity(
        seed=seed,
        patient_id=patient_id,
        patient_name=options.patient_name or patient_id,
        accession_number=options.accession_number or "",
        study_description=options.study_description or "Whole slide image",
        container_id=options.container_id or _container(slide),
        study_uid=options.study_uid or derived_uid(seed, "study"),
    )


def _container(slide: Path) -> str:
    """Return the file's name without its ending, as a DICOM long string."""
    name = "".join(c if c.isprintable() and c != "\\" else "_" for c in slide.stem)
    return name[:64].strip() or "slide"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises
    ------
    IngestError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IngestError(
            "unreadable", f"{path} cannot be read ({error.strerror}): check path and rights."
        ) from error
