# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc's resources, through its plugin interface, as a `Gateway`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from orthanc_plugin.errors import CutOffError, FileRefusedError, StorageError
from orthanc_plugin.gateway import Filed, InstanceInfo, SeriesInfo
from orthanc_plugin.settings import names_of_numbers
from orthanc_plugin.slides.dicom_header import HEAD_BYTES, image_type, split_values
from orthanc_plugin.slides.dicom_identity import orthanc_id
from orthanc_plugin.slides.stored_file import open_stored, read_stored

from . import orthanc_api
from .orthanc_api import get, get_json

_FIRST_USER_NUMBER = 1024
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_IDENTIFYING = ("0010,0020", "0020,000d", "0020,000e", "0008,0018")
"""PatientID, StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID: of these Orthanc makes its ids."""
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_CACHED_FILES = 16384
_LOOK_AT_THE_DISK = "Is the disk of its storage full?"


def _resource(level: str, orthanc_id: str) -> Any:
    """Return a series, study or instance; None where there is none, or the text is no Orthanc id.

    The ids come from clients: ``ID/study`` or ``../system`` must not become another resource's address.
    """
    return get_json(f"/{level}/{orthanc_id}") if _ORTHANC_ID.fullmatch(orthanc_id) else None


class _GoneError(Exception):
    """A resource went while it was read; raised so that nothing is kept of it."""


class OrthancGateway:
    """Orthanc's resources through its plugin interface; see `Gateway`.

    Reads and writes stay inside the process: a call over loopback HTTP would take a second HTTP thread each.
    """

    def __init__(self) -> None:
        # A file never changes under its uuid, so what was read of it stays true.
        self._stored = lru_cache(_CACHED_FILES)(self._read_stored)
        # A study's Orthanc id is a digest of its UID (and its patient's id).
        self._study_uid = lru_cache(_CACHED_FILES)(self._read_study_uid)
        self._storage_directory = _storage_directory()
        configured = orthanc_api.configuration()
        self._metadata_names = names_of_numbers(configured.get("UserMetadata"))
        self._attachment_names = names_of_numbers(configured.get("UserContentType"))

    def configuration(self) -> Mapping[str, Any]:
        """Return Orthanc's whole configuration."""
        return orthanc_api.configuration()

    def orthanc_version(self) -> str:
        """Return the server's version, such as ``1.10.1``."""
        return str(self._required("/system")["Version"])

    def list_series(self) -> Iterable[str]:
        """Return the Orthanc ids of all series."""
        return tuple(self._required("/series"))

    @staticmethod
    def _required(uri: str) -> Any:
        value = get_json(uri)
        if value is None:
            raise StorageError(f"Orthanc does not know {uri}.")
        return value

    def series(self, series_id: str) -> SeriesInfo | None:
        """Return a series, or None where there is none (any more)."""
        found = _resource("series", series_id)
        if found is None:
            return None
        try:
            study_uid = self._study_uid(found["ParentStudy"])
        except _GoneError:
            return None
        tags = found["MainDicomTags"]
        return SeriesInfo(
            series_id=found["ID"],
            study_id=found["ParentStudy"],
            series_instance_uid=tags["SeriesInstanceUID"],
            study_instance_uid=study_uid,
            modality=tags.get("Modality", ""),
            instance_ids=tuple(found["Instances"]),
            is_stable=bool(found["IsStable"]),
            last_update=found["LastUpdate"],
        )

    @staticmethod
    def _read_study_uid(study_id: str) -> str:
        study = get_json(f"/studies/{study_id}")
        if study is None:
            raise _GoneError
        return str(study["MainDicomTags"]["StudyInstanceUID"])

    def instances(self, series_id: str) -> tuple[InstanceInfo, ...]:
        """Return the instances of a series, sorted by SOPInstanceUID; empty where there is no such series."""
        expanded = get_json(f"/series/{series_id}/instances") or []
        found = (self._instance(value) for value in expanded)
        return tuple(sorted(filter(None, found), key=lambda instance: instance.sop_instance_uid))

    def instance(self, instance_id: str) -> InstanceInfo | None:
        """Return one instance with the attachment it has now, or None."""
        value = _resource("instances", instance_id)
        return None if value is None else self._instance(value)

    def _instance(self, value: Mapping[str, Any]) -> InstanceInfo | None:
        try:
            return self._stored(value["ID"], value["MainDicomTags"]["SOPInstanceUID"], value["FileUuid"])
        except _GoneError:
            return None

    def _read_stored(self, instance_id: str, sop_instance_uid: str, _listed: str) -> InstanceInfo:
        """Read what an instance is stored as; `_listed` is the uuid that Orthanc has named its file by.

        Where it has been replaced since, this is the new file's: the old uuid is never listed again.
        """
        file = get_json(f"/instances/{instance_id}/attachments/dicom/info")
        if file is None:
            raise _GoneError
        size = int(file["UncompressedSize"])
        return InstanceInfo(
            instance_id=instance_id,
            sop_instance_uid=sop_instance_uid,
            sop_class_uid=self._sop_class(instance_id),
            image_type=self._image_type(instance_id, file["Uuid"], size),
            uuid=file["Uuid"],
            size=size,
            md5=file.get("UncompressedMD5", ""),
        )

    @staticmethod
    def _sop_class(instance_id: str) -> str:
        value = get(f"/instances/{instance_id}/metadata/SopClassUid")
        if value is None:
            # Instances stored by an Orthanc before 0.9.6 carry no such metadata.
            value = get(f"/instances/{instance_id}/content/0008-0016") or b""
        return value.decode("ascii", "replace").strip("\0 ")

    def _image_type(self, instance_id: str, uuid: str, size: int) -> tuple[str, ...]:
        with open_stored(self._storage_directory, uuid, size) as descriptor:
            head = b"" if descriptor is None else os.pread(descriptor, HEAD_BYTES, 0)
        found = image_type(head)
        if found is None:
            found = split_values(get(f"/instances/{instance_id}/content/0008-0008") or b"")
        return found

    def tags(self, instance_id: str) -> Mapping[str, Any]:
        """Return an instance's DICOM tags by keyword, sequences as lists of the same; {} where it is gone."""
        value: dict[str, Any] = get_json(f"/instances/{instance_id}/simplified-tags") or {}
        return value

    def remote_aet(self, instance_id: str) -> str | None:
        """Return the AE title that an instance came from; None where it did not come by DICOM's C-STORE."""
        value = get(f"/instances/{instance_id}/metadata/RemoteAET")
        return (value or b"").decode("utf-8", "replace").strip("\0 ") or None

    def parent_series(self, instance_id: str) -> str | None:
        """Return the Orthanc id of an instance's series."""
        value = _resource("instances", instance_id)
        return None if value is None else str(value["ParentSeries"])

    def study_series(self, study_id: str) -> tuple[str, ...]:
        """Return the Orthanc ids of a study's series; empty where there is no such study."""
        value = _resource("studies", study_id)
        return () if value is None else tuple(value["Series"])

    def lookup_series(self, series_instance_uid: str, study_instance_uid: str | None) -> tuple[str, ...]:
        """Return the Orthanc ids of all series with this UID (two patients may share one).

        `orthanc.LookupSeries` raises "Internal error" where two do, hence `/tools/lookup`; that one compares
        loosely and fails on what looks like a pattern, so the UID is checked before and the hits afterwards.
        """
        if _UID.fullmatch(series_instance_uid) is None:
            return ()
        hits = orthanc_api.post("/tools/lookup", series_instance_uid.encode("ascii"))
        found = [self.series(hit["ID"]) for hit in hits if hit["Type"] == "Series"]
        return tuple(
            sorted(
                series.series_id
                for series in found
                if series is not None
                and series.series_instance_uid == series_instance_uid
                and study_instance_uid in {None, series.study_instance_uid}
            )
        )

    def find_series(self, query: Mapping[str, str], limit: int) -> tuple[str, ...]:
        """Return the Orthanc ids of the series whose DICOM tags have these values, as `/tools/find` does."""
        asked = {"Level": "Series", "Query": dict(query), "Limit": limit}
        return tuple(
            str(series_id) for series_id in orthanc_api.post("/tools/find", json.dumps(asked).encode())
        )

    def get_metadata(self, series_id: str, number: int) -> bytes | None:
        """Return a metadata value of a series, or None."""
        return get(f"/series/{series_id}/metadata/{number}")

    def put_metadata(self, series_id: str, number: int, value: bytes) -> None:
        """Write a metadata value in one transaction."""
        orthanc_api.put(f"/series/{series_id}/metadata/{number}", value)

    def delete_metadata(self, series_id: str, number: int) -> None:
        """Delete a metadata value; nothing happens where there is none."""
        orthanc_api.delete(f"/series/{series_id}/metadata/{number}")

    def list_metadata(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the metadata of a series that lie in the user's range (1024 and up)."""
        return _user_numbers(f"/series/{series_id}/metadata", self._metadata_names)

    def get_attachment(self, series_id: str, number: int) -> bytes | None:
        """Return the bytes of an attachment of a series, or None; what is left of one that was cut off."""
        uri = f"/series/{series_id}/attachments/{number}"
        try:
            return get(f"{uri}/data")
        except CutOffError:
            info = get_json(f"{uri}/info")
            return None if info is None else read_stored(self._storage_directory, info["Uuid"])

    def put_attachment(self, series_id: str, number: int, content: bytes) -> None:
        """Write an attachment, replacing what was there.

        Orthanc takes an attachment of a series that does not exist without a word, and cuts one off that its
        disk has no room for: hence the look afterwards.
        """
        uri = f"/series/{series_id}/attachments/{number}"
        orthanc_api.put(uri, content)
        written = self.get_attachment(series_id, number)
        if written is None:
            raise StorageError(f"Orthanc could not write {uri}: {orthanc_api.UNKNOWN_RESOURCE}.")
        if written != content:
            raise StorageError(f"Orthanc could not write {uri} whole. {_LOOK_AT_THE_DISK}")

    def delete_attachment(self, series_id: str, number: int) -> None:
        """Delete an attachment; nothing happens where there is none."""
        orthanc_api.delete(f"/series/{series_id}/attachments/{number}")

    def list_attachments(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the attachments of a series that lie in the user's range (1024 and up)."""
        return _user_numbers(f"/series/{series_id}/attachments", self._attachment_names)

    def filed_as(self, content: bytes) -> Filed:
        """Return where Orthanc would put a DICOM file, as it reads it itself; nothing is stored.

        Raises
        ------
        FileRefusedError
            Where Orthanc cannot read it.
        """
        tags = orthanc_api.dicom_tags(content)
        patient, study, series, instance = (str(tags.get(tag) or "") for tag in _IDENTIFYING)
        return Filed(orthanc_id(patient, study), series, instance)

    def store_instance(self, content: bytes) -> str:
        """Store a DICOM file, in place of another of its UIDs, and return its Orthanc instance id.

        Without OverwriteInstances Orthanc keeps the other one, whoever sent it: that is deleted first. It
        cuts off a file that its disk has no room for without a word, and takes no other one in its
        place then: hence the look afterwards.

        Raises
        ------
        FileRefusedError
            Where Orthanc cannot read it, or a filter of the site's does not let it in.
        """
        status, instance_id = _store(content)
        if status == "AlreadyStored" and _file_of(instance_id) != content:
            orthanc_api.delete(f"/instances/{instance_id}")
            _, instance_id = _store(content)
        if not _is_whole(instance_id):
            orthanc_api.delete(f"/instances/{instance_id}")
            raise StorageError(f"Orthanc could not store instance {instance_id} whole. {_LOOK_AT_THE_DISK}")
        return instance_id

    def delete_series(self, series_id: str) -> None:
        """Delete a series with all it holds; nothing happens where there is none."""
        orthanc_api.delete(f"/series/{series_id}")

    def get_global_property(self, number: int) -> str | None:
        """Return a global property of the database, or None."""
        return orthanc_api.get_property(number)

    def set_global_property(self, number: int, value: str) -> None:
        """Write a global property."""
        orthanc_api.set_property(number, value)

    def dicom_file(self, instance_id: str) -> bytes:
        """Return the stored DICOM file, decompressed by Orthanc where it is stored compressed."""
        return orthanc_api.dicom_file(instance_id)

    def storage_directory(self) -> str:
        """Return the folder of Orthanc's own file storage."""
        return self._storage_directory


def _storage_directory() -> str:
    """Return the configured folder; a relative one starts where the configuration lies, as in Orthanc."""
    configured = str(orthanc_api.configuration().get("StorageDirectory", "OrthancStorage"))
    return os.path.join(orthanc_api.configuration_folder(), configured)  # noqa: PTH118 - plain strings


def _store(content: bytes) -> tuple[str, str]:
    """Give Orthanc a DICOM file; return what became of it and the instance's id."""
    answer = orthanc_api.post("/instances", content)
    if answer["Status"] == "FilteredOut":
        raise FileRefusedError("A filter of this Orthanc (ReceivedInstanceFilter) does not let the file in.")
    return str(answer["Status"]), str(answer["ID"])


def _file_of(instance_id: str) -> bytes | None:
    try:
        return get(f"/instances/{instance_id}/file")
    except StorageError:  # one that was cut off and is stored compressed cannot even be read
        return None


def _is_whole(instance_id: str) -> bool:
    """Tell whether the file of an instance is as long as Orthanc's database says."""
    size = get(f"/instances/{instance_id}/attachments/dicom/size")
    content = _file_of(instance_id)
    return size is not None and content is not None and len(content) == int(size)


def _user_numbers(uri: str, names: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers behind a list of names, of which a site may have given some itself."""
    # Orthanc's own, such as `dicom` and `LastUpdate`, have numbers below the user's range.
    numbers = (names.get(name, int(name) if name.isdigit() else 0) for name in get_json(uri) or [])
    return tuple(sorted(number for number in numbers if number >= _FIRST_USER_NUMBER))
