# SPDX-License-Identifier: AGPL-3.0-or-later
"""A gateway without an Orthanc behind it: a shipped testing aid that answers as the real one does.

The same contract test runs against both (tests/contract/test_gateway.py).
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from orthanc_plugin.errors import FileRefusedError, StorageError, UnknownTagError
from orthanc_plugin.gateway import Filed, InstanceInfo, SeriesInfo, stamp
from orthanc_plugin.slides.dicom_identity import Identity, UnreadableDicomError, orthanc_id, read_identity
from orthanc_plugin.slides.eligibility import VL_WHOLE_SLIDE_MICROSCOPY

_KEYWORDS = frozenset(
    {"PatientID", "StudyInstanceUID", "StudyDate", "SeriesInstanceUID", "Modality", "BodyPartExamined"}
)
VOLUME = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE")


@dataclass
class _Series:
    info: SeriesInfo
    instances: dict[str, InstanceInfo] = field(default_factory=dict)
    metadata: dict[int, bytes] = field(default_factory=dict)
    attachments: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Failure:
    operation: str
    after: bool


def _identity(content: bytes) -> Identity:
    try:
        return read_identity(content)
    except UnreadableDicomError as error:
        raise FileRefusedError("Orthanc could not take POST /instances: Bad file format.") from error


class MemoryGateway:
    """Orthanc's resources in dictionaries; see `gateway.Gateway`.

    Parameters
    ----------
    configuration
        What `configuration` returns.
    storage_directory
        What `storage_directory` returns; nothing is written there.
    """

    def __init__(
        self, configuration: Mapping[str, Any] | None = None, storage_directory: str = "/nonexistent"
    ) -> None:
        self._configuration = dict(configuration or {"AuthenticationEnabled": True})
        self._storage_directory = storage_directory
        self._series: dict[str, _Series] = {}
        self._files: dict[str, bytes] = {}
        self._properties: dict[int, str] = {}
        self._tags: dict[str, Mapping[str, Any]] = {}
        self._aets: dict[str, str] = {}
        self._failures: list[_Failure] = []
        self._lock = threading.RLock()
        self._clock = 0
        self.writes: list[tuple[str, str, int]] = []
        """Every write that took effect: operation, series (or ``""``), number."""

    # What a test does to the server.

    def add_slide(
        self,
        series_instance_uid: str = "1.2.3.4",
        study_instance_uid: str = "1.2.3",
        *,
        patient_id: str = "patient",
        modality: str = "SM",
        image_types: Iterable[tuple[str, ...]] = (VOLUME,),
        sop_class_uid: str = VL_WHOLE_SLIDE_MICROSCOPY,
        is_stable: bool = True,
    ) -> str:
        """Add a series with one instance for each of `image_types`; return its Orthanc id."""
        study_id = orthanc_id(patient_id, study_instance_uid)
        series_id = orthanc_id(patient_id, study_instance_uid, series_instance_uid)
        with self._lock:
            self._series[series_id] = _Series(
                SeriesInfo(
                    series_id=series_id,
                    study_id=study_id,
                    series_instance_uid=series_instance_uid,
                    study_instance_uid=study_instance_uid,
                    modality=modality,
                    instance_ids=(),
                    is_stable=is_stable,
                    last_update="",
                )
            )
            for number, image_type in enumerate(image_types, 1):
                self.add_instance(
                    series_id,
                    f"{series_instance_uid}.{number}",
                    image_type=image_type,
                    sop_class_uid=sop_class_uid,
                )
        return series_id

    def add_instance(
        self,
        series_id: str,
        sop_instance_uid: str,
        *,
        image_type: tuple[str, ...] = VOLUME,
        sop_class_uid: str = VL_WHOLE_SLIDE_MICROSCOPY,
        content: bytes | None = None,
    ) -> str:
        """Add an instance, or overwrite the one of this UID (with a new attachment); return its id."""
        held = self._held(series_id)
        stored = content if content is not None else b"\0" * 128 + b"DICM" + sop_instance_uid.encode("ascii")
        instance_id = orthanc_id(series_id, sop_instance_uid)
        with self._lock:
            held.instances[instance_id] = InstanceInfo(
                instance_id=instance_id,
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                image_type=image_type,
                uuid=str(uuid.uuid4()),
                size=len(stored),
                md5=hashlib.md5(stored, usedforsecurity=False).hexdigest(),
            )
            self._files[instance_id] = stored
            self._touch(held)
        return instance_id

    def delete_instance(self, instance_id: str) -> None:
        """Delete an instance, and its series with it where it was the only one, as Orthanc does."""
        with self._lock:
            series_id = self.parent_series(instance_id)
            if series_id is None:
                return
            held = self._held(series_id)
            del held.instances[instance_id], self._files[instance_id]
            self._touch(held)
            if not held.instances:
                del self._series[series_id]

    def describe(self, series_id: str, tags: Mapping[str, Any], *, remote_aet: str | None = None) -> None:
        """Give every instance of a series these tags, and the AE title that sent them."""
        with self._lock:
            self._tags[series_id] = dict(tags)
            if remote_aet is not None:
                self._aets[series_id] = remote_aet

    def date(self, series_id: str, at: float) -> None:
        """Set when a series was last stored to (seconds since the epoch)."""
        with self._lock:
            held = self._held(series_id)
            held.info = replace(held.info, last_update=stamp(at))

    def set_stable(self, series_id: str, *, is_stable: bool) -> None:
        """Make a series one that is still arriving, or one that is complete."""
        with self._lock:
            held = self._held(series_id)
            held.info = replace(held.info, is_stable=is_stable)

    def fail_next(self, operation: str, *, after: bool = False) -> None:
        """Let the next call of a method raise `StorageError`, before it takes effect or `after` it did.

        Several failures of one method are used up in order.
        """
        if not hasattr(self, operation):
            raise ValueError(f"the gateway has no method {operation!r}")
        with self._lock:
            self._failures.append(_Failure(operation, after))

    # The gateway.

    def configuration(self) -> Mapping[str, Any]:
        """Return the configuration given to the constructor."""
        return dict(self._configuration)

    def orthanc_version(self) -> str:
        """Return the version whose behaviour this class follows."""
        return "1.10.1"

    def list_series(self) -> Iterable[str]:
        """Return the Orthanc ids of all series."""
        with self._lock, self._failing("list_series"):
            return tuple(self._series)

    def series(self, series_id: str) -> SeriesInfo | None:
        """Return a series, or None where there is none (any more)."""
        with self._lock, self._failing("series"):
            held = self._series.get(series_id)
            return None if held is None else held.info

    def instances(self, series_id: str) -> tuple[InstanceInfo, ...]:
        """Return the instances of a series, sorted by SOPInstanceUID; empty where there is no such series."""
        with self._lock, self._failing("instances"):
            held = self._series.get(series_id)
            found = () if held is None else tuple(held.instances.values())
            return tuple(sorted(found, key=lambda instance: instance.sop_instance_uid))

    def instance(self, instance_id: str) -> InstanceInfo | None:
        """Return one instance with the attachment it has now, or None."""
        with self._lock, self._failing("instance"):
            for held in self._series.values():
                if instance_id in held.instances:
                    return held.instances[instance_id]
            return None

    def tags(self, instance_id: str) -> Mapping[str, Any]:
        """Return the tags that a test gave the instance's series."""
        with self._lock, self._failing("tags"):
            series_id = self.parent_series(instance_id)
            return {} if series_id is None else dict(self._tags.get(series_id, {}))

    def remote_aet(self, instance_id: str) -> str | None:
        """Return the AE title that a test gave the instance's series."""
        with self._lock, self._failing("remote_aet"):
            return self._aets.get(self.parent_series(instance_id) or "")

    def parent_series(self, instance_id: str) -> str | None:
        """Return the Orthanc id of an instance's series."""
        with self._lock, self._failing("parent_series"):
            for series_id, held in self._series.items():
                if instance_id in held.instances:
                    return series_id
            return None

    def study_series(self, study_id: str) -> tuple[str, ...]:
        """Return the Orthanc ids of a study's series; empty where there is no such study."""
        with self._lock, self._failing("study_series"):
            return tuple(key for key, held in self._series.items() if held.info.study_id == study_id)

    def lookup_series(self, series_instance_uid: str, study_instance_uid: str | None) -> tuple[str, ...]:
        """Return the Orthanc ids of all series with this UID."""
        with self._lock, self._failing("lookup_series"):
            return tuple(
                sorted(
                    key
                    for key, held in self._series.items()
                    if held.info.series_instance_uid == series_instance_uid
                    and study_instance_uid in {None, held.info.study_instance_uid}
                )
            )

    def find_series(self, query: Mapping[str, str], limit: int) -> tuple[str, ...]:
        """Return the series whose UIDs, modality and given tags fit; ``*`` and ``?`` are wildcards.

        Of DICOM's keywords it knows some, and those that a slide was given.
        """
        with self._lock, self._failing("find_series"):
            if not query.keys() <= _KEYWORDS.union(*self._tags.values()):
                raise UnknownTagError("Orthanc could not take POST /tools/find: Unknown DICOM tag.")
            found = (key for key, held in self._series.items() if self._fits(held.info, query))
            return tuple(islice(found, limit))

    def _fits(self, info: SeriesInfo, query: Mapping[str, str]) -> bool:
        known = {
            "SeriesInstanceUID": info.series_instance_uid,
            "StudyInstanceUID": info.study_instance_uid,
            "Modality": info.modality,
            **self._tags.get(info.series_id, {}),
        }
        return all(
            any(fnmatchcase(str(known.get(name, "")), part) for part in wanted.split("\\"))
            for name, wanted in query.items()
        )

    def get_metadata(self, series_id: str, number: int) -> bytes | None:
        """Return a metadata value of a series, or None."""
        with self._lock, self._failing("get_metadata"):
            held = self._series.get(series_id)
            return None if held is None else held.metadata.get(number)

    def put_metadata(self, series_id: str, number: int, value: bytes) -> None:
        """Write a metadata value."""
        with self._lock, self._failing("put_metadata"):
            self._held(series_id).metadata[number] = bytes(value)
            self.writes.append(("put_metadata", series_id, number))

    def delete_metadata(self, series_id: str, number: int) -> None:
        """Delete a metadata value; nothing happens where there is none."""
        with self._lock, self._failing("delete_metadata"):
            held = self._series.get(series_id)
            if held is not None and held.metadata.pop(number, None) is not None:
                self.writes.append(("delete_metadata", series_id, number))

    def list_metadata(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the metadata of a series."""
        with self._lock, self._failing("list_metadata"):
            held = self._series.get(series_id)
            return () if held is None else tuple(sorted(held.metadata))

    def get_attachment(self, series_id: str, number: int) -> bytes | None:
        """Return the bytes of an attachment of a series, or None."""
        with self._lock, self._failing("get_attachment"):
            held = self._series.get(series_id)
            return None if held is None else held.attachments.get(number)

    def put_attachment(self, series_id: str, number: int, content: bytes) -> None:
        """Write an attachment, replacing what was there."""
        with self._lock, self._failing("put_attachment"):
            self._held(series_id).attachments[number] = bytes(content)
            self.writes.append(("put_attachment", series_id, number))

    def delete_attachment(self, series_id: str, number: int) -> None:
        """Delete an attachment; nothing happens where there is none."""
        with self._lock, self._failing("delete_attachment"):
            held = self._series.get(series_id)
            if held is not None and held.attachments.pop(number, None) is not None:
                self.writes.append(("delete_attachment", series_id, number))

    def list_attachments(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the attachments of a series."""
        with self._lock, self._failing("list_attachments"):
            held = self._series.get(series_id)
            return () if held is None else tuple(sorted(held.attachments))

    def filed_as(self, content: bytes) -> Filed:
        """Return where a DICOM file would lie: all of them are of one patient here.

        Raises
        ------
        FileRefusedError
            Where its UIDs cannot be read.
        """
        with self._lock, self._failing("filed_as"):
            identity = _identity(content)
            study_id = orthanc_id("patient", identity.study_instance_uid)
            return Filed(study_id, identity.series_instance_uid, identity.sop_instance_uid)

    def store_instance(self, content: bytes) -> str:
        """Store a DICOM file, in place of another of its UIDs, and return its Orthanc instance id.

        Raises
        ------
        FileRefusedError
            Where its UIDs cannot be read.
        """
        with self._lock, self._failing("store_instance"):
            identity = _identity(content)
            series_uid, study_uid = identity.series_instance_uid, identity.study_instance_uid
            series_id = orthanc_id("patient", study_uid, series_uid)
            instance_id = orthanc_id(series_id, identity.sop_instance_uid)
            if self._files.get(instance_id) != content:
                if series_id not in self._series:
                    self.add_slide(series_uid, study_uid, modality=identity.modality, image_types=())
                self.add_instance(
                    series_id,
                    identity.sop_instance_uid,
                    image_type=(),
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                    content=content,
                )
                self.writes.append(("store_instance", series_id, 0))
            return instance_id

    def delete_series(self, series_id: str) -> None:
        """Delete a series with all it holds; nothing happens where there is none."""
        with self._lock, self._failing("delete_series"):
            held = self._series.pop(series_id, None)
            if held is not None:
                for instance_id in held.instances:
                    del self._files[instance_id]
                self.writes.append(("delete_series", series_id, 0))

    def get_global_property(self, number: int) -> str | None:
        """Return a global property, or None."""
        with self._lock, self._failing("get_global_property"):
            return self._properties.get(number)

    def set_global_property(self, number: int, value: str) -> None:
        """Write a global property."""
        with self._lock, self._failing("set_global_property"):
            self._properties[number] = value
            self.writes.append(("set_global_property", "", number))

    def dicom_file(self, instance_id: str) -> bytes:
        """Return the stored DICOM file."""
        with self._lock, self._failing("dicom_file"):
            if instance_id not in self._files:
                raise StorageError(f"Orthanc could not read instance {instance_id}: Unknown resource.")
            return self._files[instance_id]

    def storage_directory(self) -> str:
        """Return the folder given to the constructor."""
        return self._storage_directory

    def _held(self, series_id: str) -> _Series:
        if series_id not in self._series:
            raise StorageError(f"Orthanc could not write /series/{series_id}: Unknown resource.")
        return self._series[series_id]

    def _touch(self, held: _Series) -> None:
        self._clock += 1
        held.info = replace(
            held.info, instance_ids=tuple(held.instances), last_update=f"20260101T{self._clock:06d}"
        )

    def _failing(self, operation: str) -> _Injected:
        for position, failure in enumerate(self._failures):
            if failure.operation == operation:
                del self._failures[position]
                return _Injected(operation, "after" if failure.after else "before")
        return _Injected(operation, "never")


@dataclass(frozen=True)
class _Injected:
    """Raises the failure that a test asked for, before or after the block it surrounds."""

    operation: str
    when: str

    def __enter__(self) -> None:
        if self.when == "before":
            raise StorageError(f"Orthanc could not {self.operation}: a failure was injected.")

    def __exit__(self, exception_type: object, exception: object, traceback: object) -> None:
        if self.when == "after" and exception is None:
            raise StorageError(f"Orthanc could not {self.operation}: a failure was injected after the write.")
