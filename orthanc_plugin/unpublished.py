# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of DICOM results that are not part of a completed request (yet)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .gateway import Gateway
from .values import AnalysisRequest


@dataclass(frozen=True)
class Stored:
    """The series of a result that may lie in a study."""

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]


class Unpublished:
    """DICOM series that may have been stored for requests which are not completed, in one global property.

    They are entered before the first of them is stored, and once more before a result is withdrawn, and taken
    off when the request is completed or they are deleted. What has to be deleted is thus known whatever
    happens in between to the process, and to the slide, with which the request itself goes.
    """

    def __init__(self, gateway: Gateway, number: int, warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = number
        self._warn = warn
        self._lock = threading.Lock()
        self._held: Mapping[str, Stored] | None = None

    def add(self, request: AnalysisRequest) -> None:
        """Enter the DICOM series of a request's result, durably, beside those that were entered before.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            held = self._entries()
            known = held.get(request.request_id, Stored(request.study_instance_uid, ()))
            uids = (output.series_instance_uid for output in request.outputs)
            series = tuple(dict.fromkeys((*known.series_instance_uids, *uids)))
            if series != known.series_instance_uids:
                self._write({**held, request.request_id: Stored(known.study_instance_uid, series)})

    def remove(self, request_id: str) -> None:
        """Take off what a request had entered.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            held = self._entries()
            if request_id in held:
                self._write({key: stored for key, stored in held.items() if key != request_id})

    def of(self, request_id: str) -> Stored | None:
        """Return what a request has entered, or None.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return self._entries().get(request_id)

    def requests(self) -> tuple[str, ...]:
        """Return the ids of the requests that have entered anything.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return tuple(self._entries())

    def _entries(self) -> Mapping[str, Stored]:
        if self._held is None:
            self._held = self._decoded(self._gateway.get_global_property(self._number))
        return self._held

    def _decoded(self, text: str | None) -> Mapping[str, Stored]:
        try:
            return {} if text is None else {key: _stored(value) for key, value in json.loads(text).items()}
        except (AttributeError, TypeError, ValueError):
            self._warn(
                f"Global property {self._number} is damaged. If Orthanc ended while it took DICOM results, "
                "some may lie in a study that belong to no completed request."
            )
            return {}

    def _write(self, entries: Mapping[str, Stored]) -> None:
        written = {
            key: [item.study_instance_uid, *item.series_instance_uids] for key, item in entries.items()
        }
        self._gateway.set_global_property(self._number, json.dumps(written, separators=(",", ":")))
        self._held = entries


def _stored(value: Any) -> Stored:
    study, *series = value
    if not all(isinstance(uid, str) for uid in (study, *series)):
        raise TypeError("a UID is a text")
    return Stored(study, tuple(series))
