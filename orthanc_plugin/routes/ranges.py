# SPDX-License-Identifier: AGPL-3.0-or-later
"""Byte ranges of stored slides, straight from Orthanc's storage folder.

Orthanc 1.10 itself serves whole files only, and frames at a second each. A route that reads ranges with
`pread` reaches the speed of local files.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.gateway import Gateway, InstanceInfo
from orthanc_plugin.http import Request, Response, json_response, parse_object
from orthanc_plugin.slides.eligibility import is_slide_image, is_volume
from orthanc_plugin.slides.frame_index import FrameIndexError, Reader, frame_index
from orthanc_plugin.slides.stored_file import open_stored

MAX_RANGES = 512
MAX_BYTES = 32 * 1024 * 1024
MAX_AT_ONCE = 8
_MAX_BODY = 64 * 1024
_MAX_OFFSET = 2**62
_KEPT_BYTES = 512 * 1024 * 1024

Range = tuple[int, int]


class RangeServer:
    """Answers ``POST /pathology/instances/{id}/ranges``; one for the whole plugin, used by many threads.

    Parameters
    ----------
    gateway
        Orthanc.
    max_at_once
        Requests read at the same time; one more is answered 429.
    kept_bytes
        Memory for files that are not stored plainly (compressed, or in another storage than the folder).
    """

    def __init__(
        self, gateway: Gateway, *, max_at_once: int = MAX_AT_ONCE, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._gateway = gateway
        self._places = threading.BoundedSemaphore(max_at_once)
        self._loaded = _LoadedFiles(gateway, kept_bytes)

    def serve(self, instance_id: str, request: Request, *, volume_only: bool = False) -> Response:
        """Return the bytes that the request's ranges name, one after the other.

        Parameters
        ----------
        instance_id
            Orthanc id of the instance.
        request
            ``{"ranges": [[offset, length], ...]}``; with ``If-Match`` a file that has changed is refused.
        volume_only
            True for workers: labels and overviews carry names of patients.

        Raises
        ------
        ApiError
            400 ``bad_range``, 403, 404, 409 ``changed_in_mid_read``, 413, 415, 422 ``not_a_slide``,
            429 ``too_busy``.
        StorageError
            Where Orthanc fails.
        """
        ranges = parse_ranges(parse_object(request, max_bytes=_MAX_BODY))
        with self._opened(instance_id, request, volume_only=volume_only) as (instance, read):
            return Response(200, read_ranges(read, ranges), "application/octet-stream", _headers(instance))

    def serve_frames(self, instance_id: str, request: Request, *, volume_only: bool = False) -> Response:
        """Return where the frames of an instance lie: ``GET /pathology/instances/{id}/frames``.

        Parameters and errors are those of `serve`; 422 ``no_frame_index`` where it cannot be told.
        """
        with self._opened(instance_id, request, volume_only=volume_only) as (instance, read):
            try:
                found = frame_index(read)
            except FrameIndexError as error:
                raise ApiError(422, "no_frame_index", str(error)) from error
            value = {
                "success": True,
                "transfer_syntax": found.transfer_syntax,
                "frames": len(found.offsets),
                "offsets": found.offsets,
                "lengths": found.lengths,
            }
            return json_response(200, value, _headers(instance))

    @contextmanager
    def _opened(
        self, instance_id: str, request: Request, *, volume_only: bool
    ) -> Iterator[tuple[InstanceInfo, Reader]]:
        with self._place():
            # Asked on every request: after an overwrite the same instance lies in another file.
            instance = self._instance(instance_id, volume_only=volume_only)
            _check_unchanged(request.headers.get("if-match"), instance)
            with self._reader(instance) as read:
                yield instance, read

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise ApiError(
                429,
                "too_busy",
                "Too many ranges are being read at once; ask again in a second.",
                headers={"Retry-After": "1"},
            )
        try:
            yield
        finally:
            self._places.release()

    def _instance(self, instance_id: str, *, volume_only: bool) -> InstanceInfo:
        instance = self._gateway.instance(instance_id)
        if instance is None:
            raise ApiError(404, "unknown_resource", "Orthanc holds no such instance (any more).")
        if not is_slide_image(instance):
            raise ApiError(
                422, "not_a_slide", "Ranges are served of VL Whole Slide Microscopy images only; use /file."
            )
        if volume_only and not is_volume(instance):
            raise ApiError(
                403, "forbidden_role", "A worker reads VOLUME images only: labels carry names of patients."
            )
        return instance

    @contextmanager
    def _reader(self, instance: InstanceInfo) -> Iterator[Reader]:
        with open_stored(self._gateway.storage_directory(), instance.uuid, instance.size) as descriptor:
            if descriptor is not None:
                yield lambda offset, length: os.pread(descriptor, length, offset)
                return
        content = memoryview(self._loaded.file(instance))
        yield lambda offset, length: bytes(content[offset : offset + length])


def _headers(instance: InstanceInfo) -> dict[str, str]:
    return {
        "ETag": f'"{instance.uuid}"',
        "X-Pathology-Size": str(instance.size),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def parse_ranges(value: dict[str, Any]) -> tuple[Range, ...]:
    """Return the ranges of a request's JSON object, checked.

    Raises
    ------
    ApiError
        400 ``bad_range`` where they are no pairs of whole numbers, 413 ``range_too_large`` where they are too
        many or too large together.
    """
    listed = value.get("ranges")
    if not isinstance(listed, list) or not listed:
        raise ApiError(
            400, "bad_range", "ranges must be a list such as [[0, 65536]]: [[offset, length], ...]."
        )
    if len(listed) > MAX_RANGES:
        raise ApiError(413, "range_too_large", f"Ask for at most {MAX_RANGES} ranges in one request.")
    ranges = tuple(_parse_range(position, pair) for position, pair in enumerate(listed))
    if sum(length for _, length in ranges) > MAX_BYTES:
        raise ApiError(413, "range_too_large", f"Ask for at most {MAX_BYTES} bytes in one request.")
    return ranges


def _parse_range(position: int, pair: Any) -> Range:
    if not isinstance(pair, list) or len(pair) != 2 or any(type(number) is not int for number in pair):
        raise ApiError(400, "bad_range", f"ranges[{position}] must be [offset, length] in whole bytes.")
    offset, length = pair
    if not 0 <= offset <= _MAX_OFFSET or length < 1:
        raise ApiError(400, "bad_range", f"ranges[{position}] must start at 0 or later and hold a byte.")
    return offset, length


def read_ranges(read: Reader, ranges: Sequence[Range]) -> bytes:
    """Return the ranges' bytes one after the other; what lies beyond the end of the file is left out.

    Parameters
    ----------
    read
        Returns up to `length` bytes at `offset`; none at the end of the file.
    ranges
        Offset and length of each, in bytes.
    """
    return b"".join(part for offset, length in ranges for part in _whole(read, offset, length))


def _whole(read: Reader, offset: int, length: int) -> Iterator[bytes]:
    while length > 0:
        part = read(offset, length)
        if not part:
            return
        yield part
        offset += len(part)
        length -= len(part)


def _check_unchanged(if_match: str | None, instance: InstanceInfo) -> None:
    if if_match is None or if_match.strip() in {"*", f'"{instance.uuid}"'}:
        return
    raise _changed()


def _changed() -> ApiError:
    return ApiError(
        409, "changed_in_mid_read", "The slide was overwritten while it was read; drop what was read of it."
    )


class _LoadedFiles:
    """Whole files that Orthanc had to fetch or decompress, the most recently used ones up to a sum of bytes.

    One is loaded at a time: several of a gigabyte at once would end the server.
    """

    def __init__(self, gateway: Gateway, kept_bytes: int) -> None:
        self._gateway = gateway
        self._kept_bytes = kept_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def file(self, instance: InstanceInfo) -> bytes:
        with self._lock:
            content = self._files.get(instance.uuid)
            if content is None:
                content = self._load(instance)
                self._files[instance.uuid] = content
            self._files.move_to_end(instance.uuid)
            while sum(map(len, self._files.values())) > self._kept_bytes:
                self._files.popitem(last=False)
            return content

    def _load(self, instance: InstanceInfo) -> bytes:
        if instance.size > self._kept_bytes:
            raise StorageError(
                f"An image of {instance.size} bytes is not stored as a plain file, and is too large to be "
                "held in memory; set StorageCompression to false, or keep slides in Orthanc's own folder."
            )
        content = self._gateway.dicom_file(instance.instance_id)
        now = self._gateway.instance(instance.instance_id)
        # The uuid was asked for before the file: what was overwritten in between must not go by its name.
        if now is None or now.uuid != instance.uuid:
            raise _changed()
        return content
