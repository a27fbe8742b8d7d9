# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which files a result may bring: names, types, sizes and first bytes. Nothing that a browser runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orthanc_plugin.errors import ApiError

_MB = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    """A kind of artifact; `magic` are the bytes at `magic_at` that every file of it has."""

    name: re.Pattern[str]
    content_type: str
    most_bytes: int
    magic: bytes
    magic_at: int = 0


KINDS = (
    Kind(re.compile(r"(?:heatmap|thumbnail|overlay)\.png"), "image/png", 32 * _MB, b"\x89PNG\r\n\x1a\n"),
    Kind(re.compile(r"patch-[0-9]{3}\.jpg"), "image/jpeg", _MB, b"\xff\xd8\xff"),
    Kind(re.compile(r"attention\.npz"), "application/octet-stream", 64 * _MB, b"PK\x03\x04"),
    Kind(re.compile(r"attention\.h5"), "application/x-hdf5", 64 * _MB, b"\x89HDF\r\n\x1a\n"),
    Kind(re.compile(r"[a-z0-9-]{1,64}\.dcm"), "application/dicom", 64 * _MB, b"DICM", 128),
)
DICOM_TYPE = "application/dicom"
MOST_ARTIFACTS = 120


def kind_of(name: str) -> Kind:
    """Return the kind that a name belongs to.

    Raises
    ------
    ApiError
        400 where no result may have an artifact of this name.
    """
    for kind in KINDS:
        if kind.name.fullmatch(name):
            return kind
    raise ApiError(
        400,
        "bad_request",
        "The artifact's name must be heatmap.png, thumbnail.png, overlay.png, patch-NNN.jpg, attention.npz, "
        "attention.h5 or NAME.dcm (lower-case letters, digits and -).",
        details={"field": "name"},
    )


def check_content(kind: Kind, content_type: str, content: bytes) -> None:
    """Check what was sent against its kind.

    Raises
    ------
    ApiError
        415 where the type or the first bytes are another file's, 413 where there are too many bytes.
    """
    if content_type.split(";", 1)[0].strip().lower() != kind.content_type:
        raise ApiError(415, "wrong_content_type", f"Send this artifact as {kind.content_type}.")
    if len(content) > kind.most_bytes:
        raise ApiError(
            413, "artifact_too_large", f"This artifact may have at most {kind.most_bytes // _MB} MB."
        )
    if not content.startswith(kind.magic, kind.magic_at):
        raise ApiError(
            415, "wrong_content_type", f"The bytes are not those of a file of type {kind.content_type}."
        )
