# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one module that imports `orthanc`: its resources as a `Gateway`, its callbacks as plain functions."""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orthanc

from .dicom_header import HEAD_BYTES, image_type, split_values
from .errors import ApiError, StorageError
from .gateway import InstanceInfo, SeriesInfo
from .http import Request, Response, error_response
from .stored_file import open_stored

_UNKNOWN_RESOURCE = "Unknown resource"
_UNKNOWN_CODES = frozenset({7, 17})
"""`OrthancPluginErrorCode_InexistentItem` and `_UnknownResource` (OrthancCPlugin.h): versions differ."""

_FIRST_USER_NUMBER = 1024
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_ABSENT = "orthanc-pathology: no such property"
_CACHED_KINDS = 16384
_DICOM_ATTACHMENT = "/attachments/dicom/info"


def _is_unknown(error: orthanc.OrthancException) -> bool:
    return bool(error.args) and error.args[0] in _UNKNOWN_CODES


def _failure(doing: str, error: orthanc.OrthancException) -> StorageError:
    reason = error.args[1] if len(error.args) > 1 else str(error)
    if _is_unknown(error):
        reason = _UNKNOWN_RESOURCE
    return StorageError(f"Orthanc could not {doing}: {reason}.")


def _get(uri: str) -> bytes | None:
    """GET one of Orthanc's own resources; None where there is none."""
    try:
        return orthanc.RestApiGet(uri)
    except orthanc.OrthancException as error:
        if _is_unknown(error):
            return None
        raise _failure(f"read {uri}", error) from error


def _get_json(uri: str) -> Any:
    content = _get(uri)
    return None if content is None else json.loads(content)


def _resource(level: str, orthanc_id: str) -> Any:
    """Return a series, study or instance; None where there is none, or the text is no Orthanc id.

    The ids come from clients: ``ID/study`` or ``../system`` must not become another resource's address.
    """
    return _get_json(f"/{level}/{orthanc_id}") if _ORTHANC_ID.fullmatch(orthanc_id) else None


def _put(uri: str, value: bytes) -> None:
    try:
        orthanc.RestApiPut(uri, value)
    except orthanc.OrthancException as error:
        raise _failure(f"write {uri}", error) from error


def _post(uri: str, value: bytes) -> Any:
    try:
        return json.loads(orthanc.RestApiPost(uri, value))
    except orthanc.OrthancException as error:
        raise _failure(f"take POST {uri}", error) from error


def _delete(uri: str) -> None:
    try:
        orthanc.RestApiDelete(uri)
    except orthanc.OrthancException as error:
        if not _is_unknown(error):
            raise _failure(f"delete {uri}", error) from error


class _GoneError(Exception):
    """A study went while its series was read; raised so that nothing is kept of it."""


class OrthancGateway:
    """Orthanc's resources through its plugin interface; see `Gateway`.

    Reads and writes stay inside the process: a call over loopback HTTP would take a second HTTP thread each.
    """

    def __init__(self) -> None:
        # An attachment never changes under its uuid, so what was read of it stays true.
        self._kind = lru_cache(_CACHED_KINDS)(self._read_kind)
        # A study's Orthanc id is a digest of its UID (and its patient's id).
        self._study_uid = lru_cache(_CACHED_KINDS)(self._read_study_uid)
        self._storage_directory = _storage_directory()

    def configuration(self) -> Mapping[str, Any]:
        """Return Orthanc's whole configuration."""
        value: dict[str, Any] = json.loads(orthanc.GetConfiguration())
        return value

    def orthanc_version(self) -> str:
        """Return the server's version, such as ``1.10.1``."""
        return str(self._required("/system")["Version"])

    def list_series(self) -> Iterable[str]:
        """Return the Orthanc ids of all series."""
        return tuple(self._required("/series"))

    @staticmethod
    def _required(uri: str) -> Any:
        value = _get_json(uri)
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
        study = _get_json(f"/studies/{study_id}")
        if study is None:
            raise _GoneError
        return str(study["MainDicomTags"]["StudyInstanceUID"])

    def instances(self, series_id: str) -> tuple[InstanceInfo, ...]:
        """Return the instances of a series, sorted by SOPInstanceUID; empty where there is no such series."""
        expanded = _get_json(f"/series/{series_id}/instances") or []
        found = (self._instance(value) for value in expanded)
        return tuple(sorted(filter(None, found), key=lambda instance: instance.sop_instance_uid))

    def instance(self, instance_id: str) -> InstanceInfo | None:
        """Return one instance with the attachment it has now, or None."""
        value = _resource("instances", instance_id)
        return None if value is None else self._instance(value)

    def _instance(self, value: Mapping[str, Any]) -> InstanceInfo | None:
        instance_id = value["ID"]
        attachment = _get_json(f"/instances/{instance_id}{_DICOM_ATTACHMENT}")
        if attachment is None:
            return None
        size = int(attachment["UncompressedSize"])
        sop_class, kind = self._kind(instance_id, attachment["Uuid"], size)
        return InstanceInfo(
            instance_id=instance_id,
            sop_instance_uid=value["MainDicomTags"]["SOPInstanceUID"],
            sop_class_uid=sop_class,
            image_type=kind,
            uuid=attachment["Uuid"],
            size=size,
            md5=attachment.get("UncompressedMD5", ""),
        )

    def _read_kind(self, instance_id: str, uuid: str, size: int) -> tuple[str, tuple[str, ...]]:
        return self._sop_class(instance_id), self._read_image_type(instance_id, uuid, size)

    @staticmethod
    def _sop_class(instance_id: str) -> str:
        value = _get(f"/instances/{instance_id}/metadata/SopClassUid")
        if value is None:
            # Instances stored by an Orthanc before 0.9.6 carry no such metadata.
            value = _get(f"/instances/{instance_id}/content/0008-0016") or b""
        return value.decode("ascii", "replace").strip("\0 ")

    def _read_image_type(self, instance_id: str, uuid: str, size: int) -> tuple[str, ...]:
        with open_stored(self._storage_directory, uuid, size) as descriptor:
            head = b"" if descriptor is None else os.pread(descriptor, HEAD_BYTES, 0)
        found = image_type(head)
        if found is None:
            found = split_values(_get(f"/instances/{instance_id}/content/0008-0008") or b"")
        return found

    def tags(self, instance_id: str) -> Mapping[str, Any]:
        """Return an instance's DICOM tags by keyword, sequences as lists of the same; {} where it is gone."""
        value: dict[str, Any] = _get_json(f"/instances/{instance_id}/simplified-tags") or {}
        return value

    def remote_aet(self, instance_id: str) -> str | None:
        """Return the AE title that an instance came from; None where it did not come by DICOM's C-STORE."""
        value = _get(f"/instances/{instance_id}/metadata/RemoteAET")
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
        hits = _post("/tools/lookup", series_instance_uid.encode("ascii"))
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
        return tuple(str(series_id) for series_id in _post("/tools/find", json.dumps(asked).encode()))

    def get_metadata(self, series_id: str, number: int) -> bytes | None:
        """Return a metadata value of a series, or None."""
        return _get(f"/series/{series_id}/metadata/{number}")

    def put_metadata(self, series_id: str, number: int, value: bytes) -> None:
        """Write a metadata value in one transaction."""
        _put(f"/series/{series_id}/metadata/{number}", value)

    def delete_metadata(self, series_id: str, number: int) -> None:
        """Delete a metadata value; nothing happens where there is none."""
        _delete(f"/series/{series_id}/metadata/{number}")

    def get_attachment(self, series_id: str, number: int) -> bytes | None:
        """Return the bytes of an attachment of a series, or None."""
        return _get(f"/series/{series_id}/attachments/{number}/data")

    def put_attachment(self, series_id: str, number: int, content: bytes) -> None:
        """Write an attachment, replacing what was there.

        Orthanc takes an attachment of a series that does not exist without a word, hence the look afterwards.
        """
        uri = f"/series/{series_id}/attachments/{number}"
        _put(uri, content)
        if _get(f"{uri}/size") is None:
            raise StorageError(f"Orthanc could not write {uri}: {_UNKNOWN_RESOURCE}.")

    def delete_attachment(self, series_id: str, number: int) -> None:
        """Delete an attachment; nothing happens where there is none."""
        _delete(f"/series/{series_id}/attachments/{number}")

    def list_attachments(self, series_id: str) -> tuple[int, ...]:
        """Return the numbers of the attachments of a series that lie in the user's range (1024 and up)."""
        names = self.configuration().get("UserContentType", {})
        listed = _get_json(f"/series/{series_id}/attachments") or []
        numbers = (_attachment_number(name, names) for name in listed)
        return tuple(sorted(number for number in numbers if number >= _FIRST_USER_NUMBER))

    def store_instance(self, content: bytes) -> str:
        """Store a DICOM file and return its Orthanc instance id."""
        return str(_post("/instances", content)["ID"])

    def delete_series(self, series_id: str) -> None:
        """Delete a series with all it holds; nothing happens where there is none."""
        _delete(f"/series/{series_id}")

    def get_global_property(self, number: int) -> str | None:
        """Return a global property of the database, or None."""
        try:
            value = orthanc.GetGlobalProperty(number, _ABSENT)
        except orthanc.OrthancException as error:
            raise _failure(f"read global property {number}", error) from error
        return None if value == _ABSENT else value

    def set_global_property(self, number: int, value: str) -> None:
        """Write a global property."""
        try:
            orthanc.SetGlobalProperty(number, value)
        except orthanc.OrthancException as error:
            raise _failure(f"write global property {number}", error) from error

    def dicom_file(self, instance_id: str) -> bytes:
        """Return the stored DICOM file, decompressed by Orthanc where it is stored compressed."""
        try:
            return orthanc.GetDicomForInstance(instance_id)
        except orthanc.OrthancException as error:
            raise _failure(f"read instance {instance_id}", error) from error

    def storage_directory(self) -> str:
        """Return the folder of Orthanc's own file storage."""
        return self._storage_directory


def _storage_directory() -> str:
    """Return the configured folder; a relative one starts where the configuration lies, as in Orthanc."""
    configured = str(json.loads(orthanc.GetConfiguration()).get("StorageDirectory", "OrthancStorage"))
    path = orthanc.GetConfigurationPath()
    folder = path if os.path.isdir(path) else os.path.dirname(path)  # noqa: PTH112, PTH120 - plain strings
    return os.path.join(folder, configured)  # noqa: PTH118 - plain strings


def _attachment_number(name: str, names: Mapping[str, Any]) -> int:
    """Return the number behind an attachment's name; 0 for Orthanc's own, such as ``dicom``."""
    if name.isdigit():
        return int(name)
    entry = names.get(name, 0)
    # [number, MIME type] is the second form that UserContentType allows.
    return int(entry[0] if isinstance(entry, list) else entry)


# What follows are Orthanc's callbacks, wrapped so that no other module has to know them.

log_warning = orthanc.LogWarning
log_error = orthanc.LogError
extend_explorer = orthanc.ExtendOrthancExplorer

_METHODS = {
    orthanc.HttpMethod.GET: "GET",
    orthanc.HttpMethod.POST: "POST",
    orthanc.HttpMethod.PUT: "PUT",
    orthanc.HttpMethod.DELETE: "DELETE",
}
_CHANGES = {
    orthanc.ChangeType.DELETED: "DELETED",
    orthanc.ChangeType.NEW_SERIES: "NEW_SERIES",
    orthanc.ChangeType.NEW_INSTANCE: "NEW_INSTANCE",
    orthanc.ChangeType.STABLE_SERIES: "STABLE_SERIES",
    orthanc.ChangeType.ORTHANC_STARTED: "ORTHANC_STARTED",
    orthanc.ChangeType.ORTHANC_STOPPED: "ORTHANC_STOPPED",
}
_LEVELS = {
    orthanc.ResourceType.PATIENT: "patient",
    orthanc.ResourceType.STUDY: "study",
    orthanc.ResourceType.SERIES: "series",
    orthanc.ResourceType.INSTANCE: "instance",
}


def serve_route(
    pattern: str,
    serve: Callable[[Request], Response],
    user_of: Callable[[Mapping[str, str]], str],
) -> None:
    """Answer every request whose path matches the regular expression `pattern` with what `serve` returns.

    `user_of` gets the request's headers and returns the name that Orthanc accepted.
    """

    def callback(output: orthanc.RestOutput, uri: str, **request: Any) -> None:
        try:
            headers = request.get("headers", {})
            response = serve(
                Request(
                    method=request["method"],
                    path=uri,
                    query=_decoded(request.get("get", {})),
                    headers=headers,
                    body=request.get("body", b"") or b"",
                    user=user_of(headers),
                )
            )
        except Exception:  # noqa: BLE001 - the callback's boundary: beyond it is a bare 500
            orthanc.LogError(f"Pathology: {request.get('method')} {uri} failed:\n{traceback.format_exc()}")
            response = error_response(
                ApiError(
                    500, "internal_error", "The plugin met an error of its own; Orthanc's log says which."
                )
            )
        send(output, response)

    orthanc.RegisterRestCallback(pattern, callback)


def _decoded(query: Mapping[str, str]) -> dict[str, str]:
    """Return a query's values as they were meant: Orthanc 1.10 hands them over percent-encoded."""
    return {unquote(name): unquote(value) for name, value in query.items()}


def send(output: orthanc.RestOutput, response: Response) -> None:
    """Send an answer by the one of Orthanc's functions that can carry it.

    `SendHttpStatus` takes text only (and its length in 4.0, but not in every later version). 405 has its own
    function, which carries no body. On a status that Orthanc's enumeration lacks, such as 429, Orthanc 1.10
    drops the connection without an answer: 429 leaves as 503, which says "later" as well. Orthanc 1.12 adds a
    second Content-Type, text/plain, to whatever is not 200.
    """
    for name, value in response.headers.items():
        output.SetHttpHeader(name, value)
    if response.status == 200:
        output.AnswerBuffer(response.body, response.content_type)
    elif response.status == 405:
        output.SendMethodNotAllowed(response.headers.get("Allow", ""))
    elif not response.body:
        output.SendHttpStatusCode(response.status)
    else:
        output.SetHttpHeader("Content-Type", response.content_type)
        _send_text(output, 503 if response.status == 429 else response.status, response.body)


def _send_text(output: orthanc.RestOutput, status: int, body: bytes) -> None:
    text = body.decode("utf-8")
    try:
        output.SendHttpStatus(status, text, len(body))
    except TypeError:
        output.SendHttpStatus(status, text)


def filter_requests(
    allows: Callable[[str, str, str, Mapping[str, str]], bool] | None,
    before: Callable[..., bool] | None = None,
) -> None:
    """Let `allows` (method, path, address of the peer, headers) decide on every request; False is a 403.

    Orthanc asks after it has checked the password, with the path decoded and normalised and the method that
    counts: a GET with ``?_method=delete`` arrives here as DELETE, because Orthanc treats it as one.
    `before` is a site's own filter, called first with Orthanc's own arguments.
    """

    def callback(uri: str, **request: Any) -> bool:
        try:
            if before is not None and not before(uri, **request):
                return False
            if allows is None:
                return True
            method = _METHODS.get(request["method"], "")
            return allows(method, uri, request.get("ip", ""), request.get("headers", {}))
        except Exception:  # noqa: BLE001 - the callback's boundary: what cannot be judged is refused
            orthanc.LogError(f"Pathology: the filter failed on {uri}:\n{traceback.format_exc()}")
            return False

    orthanc.RegisterIncomingHttpRequestFilter(callback)


def listen(
    on_change: Callable[[str, str, str], None] | None,
    before: Callable[[int, int, str], None] | None = None,
) -> None:
    """Call `on_change` with the change's name, the resource's level and its Orthanc id.

    Only deleted, new and stable resources and the server's start and stop are passed on: every metadata write
    emits a change as well. `before` is a site's own callback; it gets every change, with Orthanc's own
    arguments, and what it raises is logged and keeps nothing from the plugin.
    """

    def callback(change: int, level: int, resource: str) -> None:
        if before is not None:
            _guarded(lambda: before(change, level, resource), "the site's own callback")
        name = _CHANGES.get(change)
        if name is not None and on_change is not None:
            _guarded(lambda: on_change(name, _LEVELS.get(level, ""), resource), f"{name} of {resource}")

    def _guarded(call: Callable[[], None], what: str) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 - the callback's boundary: Orthanc would only say that it failed
            orthanc.LogError(f"Pathology: handling {what} failed:\n{traceback.format_exc()}")

    orthanc.RegisterOnChangeCallback(callback)
