# SPDX-License-Identifier: Apache-2.0
"""The frames of one series by WADO-RS, in batches, in the form that wsidicom reads slides from.

wsidicom's own client asks for one frame at a time, and Orthanc before 1.12 reads the whole image for each.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
)
from wsidicom import WsiDicomWebClient

from worker.api.contract import InstanceRef
from worker.api.transport import unreachable
from worker.backoff import Wait, uninterrupted
from worker.quiet import unquoted
from worker.settings import Settings

from .errors import SourceError, WayMissingError
from .piece_cache import PieceCache
from .repeating import TryAgainError, orthanc_failure, repeat
from .shared_fetch import SharedFetch
from .source import Traffic

Answer = TypeVar("Answer")

FRAMES_AT_ONCE = 256
"""In one request: about 10 MB, and an address that proxies let through."""
_MAX_AT_ONCE = 4
_FRAMES_BOUND = 128 * 1024 * 1024

_ICC_PROFILE = "00282000"
_BYTES = ("application/octet-stream",)
_AS_STORED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
_LOSSY = {
    "ISO_10918_1": JPEGBaseline8Bit,
    "ISO_15444_1": JPEG2000,
    "ISO_14495_1": JPEGLSNearLossless,
}
"""Transfer syntax by LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1), of servers that do not say it."""


class DicomwebFrames(WsiDicomWebClient):  # type: ignore[misc]
    """A wsidicom client that knows the levels of one series, and keeps the frames that were fetched ahead.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    session
        An authenticated session.
    series
        Study and Series Instance UID.
    instances
        Its VOLUME images: no others are asked for.
    wait
        Waits between repeats.
    """

    def __init__(
        self,
        settings: Settings,
        session: requests.Session,
        series: tuple[str, str],
        instances: Sequence[InstanceRef],
        wait: Wait = uninterrupted,
    ) -> None:
        self._timeout = (settings.connect_timeout_s, settings.read_timeout_s)
        client = DICOMwebClient(settings.dicomweb_url, session, timeout=self._timeout, permissive_uid=True)
        client.set_http_retry_params(retry=False)
        super().__init__(client)
        self._address = settings.dicomweb_url
        self._session = session
        self._series = series
        self._instances = instances
        self._frames = PieceCache[tuple[str, int], bytes](_FRAMES_BOUND, len)
        self._wait = wait
        self._places = threading.BoundedSemaphore(_MAX_AT_ONCE)
        self._shared = SharedFetch(self._is_kept)
        self._headers: dict[str, Dataset] = {}
        self._syntaxes: dict[str, UID] = {}
        self.traffic = Traffic()

    def headers(self) -> list[Dataset]:
        """Return the headers of the levels, and find out how their frames are to be asked for.

        Raises
        ------
        WayMissingError
            If the server has no such series, or does not give its frames as they are stored.
        SourceError
            If the server fails.
        """
        for instance in self._instances:
            uid = instance.sop_instance_uid
            header = self._header(uid)
            self._syntaxes[uid] = self._stored_syntax(uid, header)
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = self._syntaxes[uid]
            self._headers[uid] = header
        return list(self._headers.values())

    def _header(self, uid: str) -> Dataset:
        try:
            found = self._asked(partial(self._client.retrieve_instance_metadata, *self._series, uid))
            # Servers send values that break the rules for their kind; pydicom's warnings would quote them.
            with unquoted():
                header = Dataset.from_json(found, bulk_data_uri_handler=self._bulk_value)
                deque(header.iterall(), maxlen=0)
                return header
        except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            raise _no_dicomweb() from error

    def _bulk_value(self, tag: str, _representation: str, address: str) -> bytes:
        """Return a value that lies beside the header: the colour profile alone is wanted."""
        _, _, path = address.partition("/studies/")
        if tag != _ICC_PROFILE or not path:
            return b""
        # At the address that was set, whatever host the server takes itself for: the password goes along.
        url = f"{self._address}/studies/{path}"
        try:
            return b"".join(self._asked(partial(self._client.retrieve_bulkdata, url, _BYTES)))
        except SourceError:
            return b""

    def get_wsi_instances(
        self, _study_uid: UID, _series_uids: Iterable[UID]
    ) -> Iterator[tuple[UID, UID, set[UID] | None]]:
        """Yield series, instance and the transfer syntax of each level."""
        for uid, syntax in self._syntaxes.items():
            yield UID(self._series[1]), UID(uid), {syntax}

    def get_annotation_instances(
        self, _study_uid: UID, _series_uids: Iterable[UID]
    ) -> Iterator[tuple[UID, UID, set[UID] | None]]:
        """Yield nothing: annotations are not read."""
        return iter(())

    def get_instance(self, _study_uid: UID, _series_uid: UID, instance_uid: UID) -> Dataset:
        """Return the header of a level."""
        return self._headers[str(instance_uid)]

    def get_frames(
        self,
        _study_uid: UID,
        _series_uid: UID,
        instance_uid: UID,
        frame_indices: list[int],
        _transfer_syntax: UID,
    ) -> Iterator[bytes]:
        """Yield frames, by their numbers from 1: those that are kept, else fetched now."""
        uid = str(instance_uid)
        self.fetch(uid, frame_indices)
        for number in frame_indices:
            frame = self._frames.get((uid, number))
            yield frame if frame is not None else self._retrieve(uid, [number])[0]

    def fetch(self, uid: str, numbers: Iterable[int]) -> None:
        """Fetch frames, by their numbers from 1, that are not kept yet."""
        self._shared.fetch([(uid, number) for number in numbers], self._fetch)

    def _is_kept(self, key: tuple[str, int]) -> bool:
        return self._frames.get(key) is not None

    def _fetch(self, keys: list[tuple[str, int]]) -> None:
        for start in range(0, len(keys), FRAMES_AT_ONCE):
            part = keys[start : start + FRAMES_AT_ONCE]
            frames = self._retrieve(part[0][0], [number for _, number in part])
            for (uid, number), frame in zip(part, frames, strict=True):
                self._frames.put((uid, number), frame)

    def _retrieve(self, uid: str, numbers: list[int]) -> list[bytes]:
        def ask() -> list[bytes]:
            frames = super(DicomwebFrames, self).get_frames(
                *map(UID, self._series), UID(uid), numbers, self._syntaxes[uid]
            )
            try:
                found = [bytes(frame) for frame in frames]
            except (ValueError, KeyError) as error:
                raise TryAgainError(
                    "The DICOMweb server sent tiles in a form that is not DICOM's."
                ) from error
            if len(found) != len(numbers):
                raise TryAgainError("The server sent fewer tiles of the slide than it was asked for.")
            return found

        with self._places:
            found = self._asked(ask)
        self.traffic.count(sum(map(len, found)))
        return found

    def _asked(self, call: Callable[[], Answer]) -> Answer:
        """Call, with faults of the network turned into those of a source."""

        def once() -> Answer:
            try:
                return call()
            except requests.exceptions.JSONDecodeError as error:
                raise _no_dicomweb() from error
            except requests.HTTPError as error:
                raise orthanc_failure(error.response, self._address) from error
            except requests.RequestException as error:
                raise TryAgainError(str(unreachable(self._address, error))) from error

        return repeat(once, self._wait)

    def _stored_syntax(self, uid: str, header: Dataset) -> UID:
        """Tell how the frames are stored; in another transfer syntax they may be lossy copies."""
        study, series = self._series
        address = f"{self._address}/studies/{study}/series/{series}/instances/{uid}/frames/1"

        def ask() -> UID | None:
            with self._session.get(
                address, headers=_AS_STORED, timeout=self._timeout, allow_redirects=False
            ) as answer:
                if answer.status_code == 500:
                    # Orthanc's answer where it knows the compression not at all; a repeat would not help.
                    raise WayMissingError("The DICOMweb server fails on the first tile.")
                answer.raise_for_status()
                self.traffic.count(len(answer.content))
                return stated_syntax(answer)

        syntax = self._asked(ask) or syntax_by_header(header)
        if syntax == ImplicitVRLittleEndian:
            # Implicit or explicit is a matter of headers; DICOMweb names uncompressed tiles explicit.
            return ExplicitVRLittleEndian
        if syntax is None:
            raise WayMissingError("The DICOMweb server does not say how the tiles are compressed.")
        return syntax


def _no_dicomweb() -> WayMissingError:
    return WayMissingError("What answers there is no DICOMweb server, or sends headers that cannot be read.")


def stated_syntax(answer: requests.Response) -> UID | None:
    """Return the transfer syntax that a multipart answer names, in its head or in its first part's."""
    first = answer.content[:2000].decode("latin-1").split("\r\n\r\n")[0]
    heads = f"{answer.headers.get('Content-Type', '')}\n{first}"
    found = re.search(r"transfer-syntax=\"?([0-9.]+)", heads)
    return None if found is None else UID(found[1])


def syntax_by_header(header: Dataset) -> UID | None:
    """Return the transfer syntax that a header lets conclude, or None."""
    if header.get("LossyImageCompression") != "01":
        return ExplicitVRLittleEndian
    methods = header.get("LossyImageCompressionMethod") or ()
    return _LOSSY.get(methods if isinstance(methods, str) else [*methods][-1])
