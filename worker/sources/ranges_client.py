# SPDX-License-Identifier: Apache-2.0
"""Read byte ranges of stored DICOM files through the plugin (``docs/rest.md``, ranges route)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence

import requests

from worker.api.contract import InstanceRef
from worker.api.transport import body_of, unreachable
from worker.backoff import Wait, uninterrupted
from worker.settings import Settings

from .errors import SourceError, WayMissingError
from .range_files import Range
from .repeating import TryAgainError, no_slide, ranges_failure, repeat
from .source import Traffic

MAX_RANGES = 512
MAX_BYTES = 32_000_000
"""What the route takes in one call."""

MAX_AT_ONCE = 4
"""Calls in flight: enough to fill a line, and half of what the server grants to all workers together."""


class RangesClient:
    """The ranges route as a method; several threads may use one client.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    session
        An authenticated session.
    wait
        Waits between repeats.
    """

    def __init__(self, settings: Settings, session: requests.Session, wait: Wait = uninterrupted) -> None:
        self._settings = settings
        self._session = session
        self._wait = wait
        self._timeout = (settings.connect_timeout_s, settings.read_timeout_s)
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self.traffic = Traffic()

    def read(self, instance: InstanceRef, ranges: Sequence[Range]) -> list[memoryview]:
        """Read ranges of one instance.

        Parameters
        ----------
        instance
            The instance; its `uuid` must still be the stored file's.
        ranges
            Offsets and lengths, all within the file.

        Returns
        -------
        list of memoryview
            As many as `ranges`, in their order, each of its full length; parts of one answer, which lives as
            long as any of them.

        Raises
        ------
        WayMissingError
            If the server has no such route.
        SourceError
            If the bytes cannot be had, or the file is not the one that was claimed.
        """
        found: list[memoryview] = []
        for group in calls(ranges):
            body = memoryview(self._post(instance, group))
            position = 0
            for _, length in group:
                found.append(body[position : position + length])
                position += length
        return found

    def frames(self, instance: InstanceRef) -> list[Range] | None:
        """Return where the frames of an instance lie, as the server finds them; None where it cannot tell.

        Raises
        ------
        SourceError
            If the server fails, or the file is not the one that was claimed.
        """
        with self._places:
            try:
                return repeat(lambda: self._frames_once(instance), self._wait)
            except WayMissingError:
                return None

    def _frames_once(self, instance: InstanceRef) -> list[Range] | None:
        try:
            answer = self._session.get(
                f"{self._settings.api_url}/instances/{instance.id}/frames",
                headers={"If-Match": f'"{instance.uuid}"'},
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise TryAgainError(str(unreachable(self._settings.api_url, error))) from error
        if answer.status_code == 422:
            return None
        if answer.status_code != 200:
            raise ranges_failure(answer, self._settings.api_url)
        self.traffic.count(len(answer.content))
        try:
            return places_in(answer.json())
        except (ValueError, KeyError, TypeError) as error:
            raise no_slide(self._settings.api_url) from error

    def _post(self, instance: InstanceRef, group: Sequence[Range]) -> bytearray:
        body = json.dumps({"ranges": joined(group)}, separators=(",", ":")).encode()
        expected = sum(length for _, length in group)
        with self._places:
            return repeat(lambda: self._post_once(instance, body, expected), self._wait)

    def _post_once(self, instance: InstanceRef, body: bytes, expected: int) -> bytearray:
        try:
            answer = self._session.post(
                f"{self._settings.api_url}/instances/{instance.id}/ranges",
                data=body,
                headers={
                    "Content-Type": "application/json",
                    "If-Match": f'"{instance.uuid}"',
                    "Accept-Encoding": "identity",
                },
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            with answer:  # a refused one gives its connection back as well
                if answer.status_code != 200:
                    raise ranges_failure(answer, self._settings.api_url)
                content = body_of(answer, expected)
        except requests.RequestException as error:
            raise TryAgainError(str(unreachable(self._settings.api_url, error))) from error
        if answer.headers.get("ETag", "").strip('"') != instance.uuid:
            # The plugin refuses another file by its own code.
            raise no_slide(self._settings.api_url)
        if len(content) != expected:
            raise TryAgainError("Orthanc sent fewer bytes of the slide than it was asked for.")
        self.traffic.count(expected)
        return content


def places_in(document: Mapping[str, Sequence[int]]) -> list[Range]:
    """Return the ranges that an answer of the frames route names.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is no answer of that route.
    """
    offsets, lengths = map(int, document["offsets"]), map(int, document["lengths"])
    return list(zip(offsets, lengths, strict=True))


def calls(ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """Group ranges into calls that the route takes.

    Raises
    ------
    SourceError
        If one range alone is larger than a call may be.
    """
    group: list[Range] = []
    size = 0
    for offset, length in ranges:
        if length > MAX_BYTES:
            raise SourceError(
                f"One frame of the slide has {length} bytes, and {MAX_BYTES} is the most that is read at "
                "once: convert the slide with smaller tiles."
            )
        if group and (len(group) == MAX_RANGES or size + length > MAX_BYTES):
            yield group
            group, size = [], 0
        group.append((offset, length))
        size += length
    if group:
        yield group


def joined(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges of which one begins where the one before it ends: the same bytes in fewer reads.

    The frames of a row mostly lie so. Their places would otherwise cost as much as reading them.
    """
    found = [ranges[0]]
    for offset, length in ranges[1:]:
        begin, before = found[-1]
        if begin + before == offset:
            found[-1] = (begin, before + length)
        else:
            found.append((offset, length))
    return found
