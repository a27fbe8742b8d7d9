# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of DICOM results that are not part of a completed request (yet)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.values import AnalysisRequest

from .global_property import Form, GlobalProperty, compact, texts_of


@dataclass(frozen=True)
class Stored:
    """The series of a result that may lie in a study."""

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]


def _encoded(entries: Mapping[str, Stored]) -> str:
    return compact(
        {key: [item.study_instance_uid, *item.series_instance_uids] for key, item in entries.items()}
    )


def _decoded(value: Any) -> Mapping[str, Stored]:
    return {key: _stored(item) for key, item in value.items()}


def _stored(value: Any) -> Stored:
    study, *series = texts_of(value)
    return Stored(study, tuple(series))


_FORM: Form[Mapping[str, Stored]] = Form(
    encode=_encoded,
    decode=_decoded,
    empty={},
    loss="If Orthanc ended while it took DICOM results, some may lie in a study that belong to no completed "
    "request.",
)


class Unpublished:
    """DICOM series that may have been stored for requests which are not completed, in one global property.

    They are entered before the first of them is stored, and once more before a result is withdrawn, and taken
    off when the request is completed or they are deleted. What has to be deleted is thus known whatever
    happens in between to the process, and to the slide, with which the request itself goes.
    """

    def __init__(self, gateway: Gateway, number: int, warn: Callable[[str], None]) -> None:
        self._property = GlobalProperty(gateway, number, _FORM, warn)
        self._lock = threading.Lock()

    def add(self, request: AnalysisRequest) -> None:
        """Enter the DICOM series of a request's result, durably, beside those that were entered before.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            held = self._property.get()
            known = held.get(request.request_id, Stored(request.study_instance_uid, ()))
            uids = (output.series_instance_uid for output in request.outputs)
            series = tuple(dict.fromkeys((*known.series_instance_uids, *uids)))
            if series:
                self._property.put({**held, request.request_id: Stored(known.study_instance_uid, series)})

    def remove(self, request_id: str) -> None:
        """Take off what a request had entered.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            held = self._property.get()
            self._property.put({key: stored for key, stored in held.items() if key != request_id})

    def of(self, request_id: str) -> Stored | None:
        """Return what a request has entered, or None.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return self._property.get().get(request_id)

    def requests(self) -> tuple[str, ...]:
        """Return the ids of the requests that have entered anything.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return tuple(self._property.get())
