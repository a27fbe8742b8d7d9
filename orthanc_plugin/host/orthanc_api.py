# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one module that imports `orthanc`: its functions and enumerations, with errors of the plugin's own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import orthanc

from orthanc_plugin.errors import CutOffError, FileRefusedError, StorageError, UnknownTagError

UNKNOWN_RESOURCE = "Unknown resource"
_UNKNOWN_CODES = frozenset({7, 17})
"""`OrthancPluginErrorCode_InexistentItem` and `_UnknownResource` (OrthancCPlugin.h): versions differ."""

_BAD_FILE = 15
"""`OrthancPluginErrorCode_BadFileFormat`: the file cannot be read as DICOM, or lacks what identifies it."""

_LONGEST_TEXT = 1024

_OUT_OF_RANGE = 3
"""`OrthancPluginErrorCode_ParameterOutOfRange`: in Orthanc 1.13 a stored file ends before it should."""

_UNKNOWN_TAG = 27
"""`OrthancPluginErrorCode_UnknownDicomTag`."""

_ABSENT = "orthanc-pathology: no such property"

METHODS = {
    orthanc.HttpMethod.GET: "GET",
    orthanc.HttpMethod.POST: "POST",
    orthanc.HttpMethod.PUT: "PUT",
    orthanc.HttpMethod.DELETE: "DELETE",
}
CHANGES = {
    orthanc.ChangeType.DELETED: "DELETED",
    orthanc.ChangeType.NEW_SERIES: "NEW_SERIES",
    orthanc.ChangeType.NEW_INSTANCE: "NEW_INSTANCE",
    orthanc.ChangeType.STABLE_SERIES: "STABLE_SERIES",
    orthanc.ChangeType.ORTHANC_STARTED: "ORTHANC_STARTED",
    orthanc.ChangeType.ORTHANC_STOPPED: "ORTHANC_STOPPED",
}
LEVELS = {
    orthanc.ResourceType.PATIENT: "patient",
    orthanc.ResourceType.STUDY: "study",
    orthanc.ResourceType.SERIES: "series",
    orthanc.ResourceType.INSTANCE: "instance",
}

log_warning = orthanc.LogWarning
log_error = orthanc.LogError
extend_explorer = orthanc.ExtendOrthancExplorer
register_route = orthanc.RegisterRestCallback
register_filter = orthanc.RegisterIncomingHttpRequestFilter
register_listener = orthanc.RegisterOnChangeCallback


_KINDS: Mapping[int, type[StorageError]] = {
    _BAD_FILE: FileRefusedError,
    _OUT_OF_RANGE: CutOffError,
    _UNKNOWN_TAG: UnknownTagError,
}


def _is_unknown(error: orthanc.OrthancException) -> bool:
    return bool(error.args) and error.args[0] in _UNKNOWN_CODES


def _failure(doing: str, error: orthanc.OrthancException) -> StorageError:
    reason = error.args[1] if len(error.args) > 1 else str(error)
    if _is_unknown(error):
        reason = UNKNOWN_RESOURCE
    kind = _KINDS.get(error.args[0], StorageError) if error.args else StorageError
    return kind(f"Orthanc could not {doing}: {reason}.")


def get(uri: str) -> bytes | None:
    """GET one of Orthanc's own resources; None where there is none."""
    try:
        return orthanc.RestApiGet(uri)
    except orthanc.OrthancException as error:
        if _is_unknown(error):
            return None
        raise _failure(f"read {uri}", error) from error


def get_json(uri: str) -> Any:
    """GET one of Orthanc's own resources as JSON; None where there is none.

    Raises
    ------
    StorageError
        Where Orthanc fails, or the answer is nested too deep.
    """
    content = get(uri)
    try:
        return None if content is None else json.loads(content)
    except RecursionError as error:  # tags of a file that came by C-STORE may be nested as deep as it likes
        raise StorageError(f"Orthanc's answer to {uri} is nested too deep to be read.") from error


def put(uri: str, value: bytes) -> None:
    """PUT bytes."""
    try:
        orthanc.RestApiPut(uri, value)
    except orthanc.OrthancException as error:
        raise _failure(f"write {uri}", error) from error


def post(uri: str, value: bytes) -> Any:
    """POST bytes; return the JSON of the answer.

    Raises
    ------
    FileRefusedError
        Where they are a file that Orthanc cannot read.
    UnknownTagError
        Where they name a DICOM tag that Orthanc does not know.
    StorageError
        Where it fails otherwise.
    """
    try:
        return json.loads(orthanc.RestApiPost(uri, value))
    except orthanc.OrthancException as error:
        raise _failure(f"take POST {uri}", error) from error


def delete(uri: str) -> None:
    """DELETE; nothing happens where there is nothing."""
    try:
        orthanc.RestApiDelete(uri)
    except orthanc.OrthancException as error:
        if not _is_unknown(error):
            raise _failure(f"delete {uri}", error) from error


def get_property(number: int) -> str | None:
    """Return a global property of the database, or None."""
    try:
        value = orthanc.GetGlobalProperty(number, _ABSENT)
    except orthanc.OrthancException as error:
        raise _failure(f"read global property {number}", error) from error
    return None if value == _ABSENT else value


def set_property(number: int, value: str) -> None:
    """Write a global property of the database."""
    try:
        orthanc.SetGlobalProperty(number, value)
    except orthanc.OrthancException as error:
        raise _failure(f"write global property {number}", error) from error


def dicom_file(instance_id: str) -> bytes:
    """Return the stored DICOM file of an instance."""
    try:
        return orthanc.GetDicomForInstance(instance_id)
    except orthanc.OrthancException as error:
        raise _failure(f"read instance {instance_id}", error) from error


def dicom_tags(content: bytes) -> dict[str, Any]:
    """Return the tags of a DICOM file by ``gggg,eeee``, as Orthanc reads them; long texts are None.

    Raises
    ------
    FileRefusedError
        Where it cannot be read.
    """
    try:
        text = orthanc.DicomBufferToJson(content, orthanc.DicomToJsonFormat.SHORT, 0, _LONGEST_TEXT)
    except orthanc.OrthancException as error:
        raise FileRefusedError("Orthanc could not read the DICOM file: Bad file format.") from error
    tags: dict[str, Any] = json.loads(text)
    return tags


def configuration() -> Mapping[str, Any]:
    """Return Orthanc's whole configuration."""
    value: dict[str, Any] = json.loads(orthanc.GetConfiguration())
    return value


def configuration_folder() -> str:
    """Return the folder that the configuration's relative paths start from."""
    path = orthanc.GetConfigurationPath()
    return path if os.path.isdir(path) else os.path.dirname(path)  # noqa: PTH112, PTH120 - plain strings
