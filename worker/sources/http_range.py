# SPDX-License-Identifier: Apache-2.0
"""The second choice: Orthanc's own HTTP Range, from 1.12.5 on, where the plugin has no ranges route."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests

from clam_core.slides import Slide
from worker.api.contract import Claim, InstanceRef
from worker.api.transport import body_of, unreachable
from worker.backoff import Wait, uninterrupted
from worker.settings import Settings

from .errors import SourceBlockedError, SourceDeletedError, SourceRefusedError, WayMissingError
from .range_files import Range
from .ranges_slide import open_ranges_slide
from .repeating import TryAgainError, changed, orthanc_failure, repeat
from .source import SourceReport, Traffic
from .stored_uuid import stored_uuid
from .volumes import volumes_of

MAX_AT_ONCE = 4
"""Calls in flight, by all readers of a slide together."""
WIDEST_GAP = 16 * 1024
"""Bytes between two frames that are read along: cheaper than a call of their own at 13 MB/s and 1 ms."""
LONGEST_RUN = 8_000_000
"""Bytes of one call: what is lost where a connection is cut."""
_PROBED_BYTES = 132


@dataclass(frozen=True)
class Run:
    """Frames that lie close together and are read in one call.

    Attributes
    ----------
    offset, length
        The bytes to read.
    parts
        Of each frame its position in the list of frames, and where it lies in the bytes.
    """

    offset: int
    length: int
    parts: tuple[tuple[int, int, int], ...]


def runs_of(ranges: Sequence[Range]) -> list[Run]:
    """Join ranges that lie close together.

    Parameters
    ----------
    ranges
        Offsets and lengths in bytes, in any order.
    """
    runs: list[Run] = []
    for number, (offset, length) in sorted(enumerate(ranges), key=lambda item: item[1]):
        last = runs[-1] if runs else None
        if last is not None and _is_near(last, offset, length):
            end = max(last.offset + last.length, offset + length)
            parts = (*last.parts, (number, offset - last.offset, length))
            runs[-1] = Run(last.offset, end - last.offset, parts)
        else:
            runs.append(Run(offset, length, ((number, 0, length),)))
    return runs


def _is_near(run: Run, offset: int, length: int) -> bool:
    return offset <= run.offset + run.length + WIDEST_GAP and offset + length - run.offset <= LONGEST_RUN


class HttpRangeClient:
    """Single ranges of an instance's attachment; several threads may use one client.

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
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self.traffic = Traffic()

    def probe(self, instance: InstanceRef) -> None:
        """See that the server answers a range with a range.

        Raises
        ------
        WayMissingError
            If it does not. It may also hold no such instance: whoever is asked last says so.
        """
        try:
            repeat(lambda: self._get(instance, 0, _PROBED_BYTES), self._wait)
        except (SourceBlockedError, SourceDeletedError, SourceRefusedError) as error:
            raise WayMissingError(str(error)) from error

    def read(self, instance: InstanceRef, ranges: Sequence[Range]) -> list[memoryview]:
        """Read ranges of one instance, as `RangesClient.read` does.

        Raises
        ------
        SourceError
            If the bytes cannot be had, or the file is not the one that was claimed.
        """
        found = [memoryview(b"")] * len(ranges)
        runs = runs_of(ranges)
        with ThreadPoolExecutor(max(1, min(MAX_AT_ONCE, len(runs)))) as pool:
            bodies = pool.map(lambda run: self._run(instance, run), runs)
            for run, body in zip(runs, bodies, strict=True):
                for number, start, length in run.parts:
                    found[number] = memoryview(body)[start : start + length]
        # Asked afterwards: a name never comes back, so the bytes before it are of this very file.
        if stored_uuid(self._settings, self._session, instance, self._wait) != instance.uuid:
            raise changed()
        return found

    def _run(self, instance: InstanceRef, run: Run) -> bytearray:
        with self._places:
            return repeat(lambda: self._get(instance, run.offset, run.length), self._wait)

    def _get(self, instance: InstanceRef, offset: int, length: int) -> bytearray:
        address = self._settings.orthanc_url
        try:
            with self._session.get(
                f"{address}/instances/{instance.id}/attachments/dicom/data",
                headers={"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"},
                timeout=(self._settings.connect_timeout_s, self._settings.read_timeout_s),
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.status_code == 200:
                    # Not read: the whole image would come.
                    raise WayMissingError("The server sends whole files where a range is asked for.")
                if answer.status_code != 206:
                    raise orthanc_failure(answer, address)
                body = body_of(answer, length)
        except requests.RequestException as error:
            raise TryAgainError(str(unreachable(address, error))) from error
        if len(body) != length:
            raise TryAgainError("Orthanc sent fewer bytes of the slide than it was asked for.")
        self.traffic.count(length)
        return body


class HttpRangeSource:
    """Slides by Orthanc's own byte ranges.

    Parameters
    ----------
    client
        Reads the ranges.
    """

    name = "HTTP Range"
    cost = "one request for each run of tiles and one more for each batch; slow where Orthanc caches files"

    def __init__(self, client: HttpRangeClient) -> None:
        self._client = client

    def open(self, claim: Claim) -> Slide:
        """Open the slide; only headers are read now."""
        # The smallest, for a server that knows no ranges begins to send all of it.
        self._client.probe(min(volumes_of(claim), key=lambda instance: instance.size))
        return open_ranges_slide(claim, self._client.read, self._report)

    def _report(self, notes: tuple[str, ...]) -> SourceReport:
        traffic = self._client.traffic
        return SourceReport("http_range", traffic.requests, traffic.bytes, notes)
