# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the plugin needs of Orthanc, as a protocol that the real server and the one in memory implement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol


@dataclass(frozen=True)
class SeriesInfo:
    """A series as Orthanc knows it; `modality` is ``""`` where the tag is absent."""

    series_id: str
    study_id: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    instance_ids: tuple[str, ...]
    is_stable: bool
    last_update: str


def stamp(at: float) -> str:
    """Return seconds since the epoch as `SeriesInfo.last_update` has them, ``20261122T165403`` in UTC."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y%m%dT%H%M%S")


@dataclass(frozen=True)
class InstanceInfo:
    """An instance and the file it is stored in.

    `uuid`, `size` and `md5` describe the attachment ``dicom``; they change when the instance is overwritten.
    `md5` is ``""`` where Orthanc stores none (StoreMD5ForAttachments false).
    """

    instance_id: str
    sop_instance_uid: str
    sop_class_uid: str
    image_type: tuple[str, ...]
    uuid: str
    size: int
    md5: str


@dataclass(frozen=True)
class Filed:
    """Where Orthanc puts a DICOM file; `study_id` is Orthanc's, of the patient and the study's UID."""

    study_id: str
    series_instance_uid: str
    sop_instance_uid: str


class Gateway(Protocol):
    """Orthanc's own resources; every method may raise `StorageError` where Orthanc fails."""

    def configuration(self) -> Mapping[str, Any]:
        """Return Orthanc's whole configuration."""

    def orthanc_version(self) -> str:
        """Return the server's version, such as ``1.10.1``."""

    def list_series(self) -> Iterable[str]:
        """Return the Orthanc ids of all series."""

    def series(self, series_id: str) -> SeriesInfo | None:
        """Return a series, or None where there is none (any more)."""

    def instances(self, series_id: str) -> tuple[InstanceInfo, ...]:
        """Return the instances of a series, sorted by SOPInstanceUID; empty where there is no such series."""

    def instance(self, instance_id: str) -> InstanceInfo | None:
        """Return one instance with the attachment it has now, or None."""

    def tags(self, instance_id: str) -> Mapping[str, Any]:
        """Return an instance's DICOM tags by keyword, sequences as lists of the same; {} where it is gone."""

    def remote_aet(self, instance_id: str) -> str | None:
        """Return the AE title that an instance came from; None where it did not come by DICOM's C-STORE."""

    def parent_series(self, instance_id: str) -> str | None:
        """Return the Orthanc id of an instance's series."""

    def study_series(self, study_id: str) -> tuple[str, ...]:
        """Return the Orthanc ids of a study's series; empty where there is no such study."""

    def lookup_series(self, series_instance_uid: str, study_instance_uid: str | None) -> tuple[str, ...]:
        """Return the Orthanc ids of all series with this UID (two patients may share one)."""

    def find_series(self, query: Mapping[str, str], limit: int) -> tuple[str, ...]:
        """Return the Orthanc ids of the series whose DICOM tags have these values, as `/tools/find` does.

        Raises
        ------
        UnknownTagError
            Where a keyword is none of DICOM's.
        """

    def get_metadata(self, series_id: str, number: int) -> bytes | None:
        """Return a metadata value of a series, or None."""

    def put_metadata(self, series_id: str, number: int, value: bytes) -> None:
        """Write a metadata value in one transaction."""

    def delete_metadata(self, series_id: str, number: int) -> None:
        """Delete a metadata value; nothing happens where there is none."""

    def list_metadata(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the metadata of a series that lie in the user's range (1024 and up)."""

    def get_attachment(self, series_id: str, number: int) -> bytes | None:
        """Return the bytes of an attachment of a series, or None."""

    def put_attachment(self, series_id: str, number: int, content: bytes) -> None:
        """Write an attachment, replacing what was there."""

    def delete_attachment(self, series_id: str, number: int) -> None:
        """Delete an attachment; nothing happens where there is none."""

    def list_attachments(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the attachments of a series that lie in the user's range (1024 and up)."""

    def filed_as(self, content: bytes) -> Filed:
        """Return where Orthanc would put a DICOM file, as it reads it itself; nothing is stored.

        Raises
        ------
        FileRefusedError
            Where Orthanc cannot read it.
        """

    def store_instance(self, content: bytes) -> str:
        """Store a DICOM file, in place of another of its UIDs, and return its Orthanc instance id.

        Raises
        ------
        FileRefusedError
            Where the file is such that Orthanc never takes it.
        """

    def delete_series(self, series_id: str) -> None:
        """Delete a series with all it holds; nothing happens where there is none."""

    def get_global_property(self, number: int) -> str | None:
        """Return a global property of the database, or None."""

    def set_global_property(self, number: int, value: str) -> None:
        """Write a global property."""

    def dicom_file(self, instance_id: str) -> bytes:
        """Return the stored DICOM file, decompressed by Orthanc where it is stored compressed."""

    def storage_directory(self) -> str:
        """Return the folder of Orthanc's own file storage."""
