# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's copies of open requests, for slides that may take their requests along."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Union

from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.settings import COPY_SHARDS

from .codec import DamagedError, NewerError, decode_archive, encode_archive
from .global_property import Form, GlobalProperty

Part = Union[tuple[AnalysisRequest, ...], str]
"""The copies of one series, or their text where this version cannot read it."""


class Copies:
    """Open requests as they were submitted, in `COPY_SHARDS` global properties by their series.

    Storing a slide's only file again makes Orthanc delete the series, with its requests, and create it anew.
    Memory writes them again, unless Orthanc was killed in between or had not read them yet: what was accepted
    is then known by its copy. One is kept before its request is written, and dropped once it has ended.
    """

    def __init__(self, gateway: Gateway, number: int, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._announced: set[str] = set()
        self._shards = [
            GlobalProperty(gateway, number + shard, self._form(shard), warn) for shard in range(COPY_SHARDS)
        ]

    def _form(self, shard: int) -> Form[Mapping[str, Part]]:
        loss = "Open requests may go with slides of one file that are stored again."
        return Form(encode=_encoded, decode=partial(self._decoded, shard), empty={}, loss=loss)

    def of_series(self) -> dict[str, tuple[AnalysisRequest, ...]]:
        """Return the copies by Orthanc id of the series, without those whose request is yet to be written.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        found = {}
        with self._lock:
            for shard in self._shards:
                for series_id, part in shard.get().items():
                    found[series_id] = tuple(
                        copy for copy in _copies(part) if copy.request_id not in self._announced
                    )
        return {series_id: copies for series_id, copies in found.items() if copies}

    def keep(self, requests: Iterable[AnalysisRequest]) -> None:
        """Keep copies, durably, of requests that are about to be written; `release` them then.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        wanted: dict[int, list[AnalysisRequest]] = {}
        for request in requests:
            wanted.setdefault(_shard(request.series), []).append(request)
        with self._lock:
            for shard, copies in wanted.items():
                self._announced.update(copy.request_id for copy in copies)
                self._shards[shard].put(_with_copies(self._shards[shard].get(), copies))

    def release(self, request_ids: Iterable[str]) -> None:
        """Let copies be dropped again: their requests are written, or will not be."""
        with self._lock:
            self._announced.difference_update(request_ids)

    def prune(self, has_ended: Callable[[str], bool], series_ids: Iterable[str] | None = None) -> None:
        """Drop the copies of what has ended, on some series or on all; what is yet to be written stays.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        shards = range(COPY_SHARDS) if series_ids is None else {_shard(series_id) for series_id in series_ids}
        with self._lock:
            for shard in shards:
                self._shards[shard].put(self._left(self._shards[shard].get(), has_ended))

    def _left(self, parts: Mapping[str, Part], has_ended: Callable[[str], bool]) -> Mapping[str, Part]:
        def stays(copy: AnalysisRequest) -> bool:
            return copy.request_id in self._announced or not has_ended(copy.request_id)

        left = {
            series_id: part if isinstance(part, str) else tuple(filter(stays, part))
            for series_id, part in parts.items()
        }
        return {series_id: part for series_id, part in left.items() if part}

    def _decoded(self, shard: int, value: Any) -> Mapping[str, Part]:
        # A series that does not belong here was left there under another GlobalProperty.
        return {
            series_id: self._part(series_id, json.dumps(part))
            for series_id, part in value.items()
            if _shard(series_id) == shard
        }

    def _part(self, series_id: str, text: str) -> Part:
        try:
            return decode_archive(series_id, text.encode())[0]
        except (DamagedError, NewerError) as error:
            self._warn(f"The copies of series {series_id} cannot be read ({error}); they stay as they are.")
            return text


def _shard(series_id: str) -> int:
    return zlib.crc32(series_id.encode("utf-8", "replace")) % COPY_SHARDS


def _copies(part: Part) -> tuple[AnalysisRequest, ...]:
    return () if isinstance(part, str) else part


def _encoded(parts: Mapping[str, Part]) -> str:
    texts = (
        f"{json.dumps(series_id)}:{part if isinstance(part, str) else encode_archive(part).decode()}"
        for series_id, part in parts.items()
    )
    return "{" + ",".join(texts) + "}"


def _with_copies(parts: Mapping[str, Part], wanted: Iterable[AnalysisRequest]) -> Mapping[str, Part]:
    """Return parts with further copies; one that is held already stays as it is."""
    added = dict(parts)
    for copy in wanted:
        held = _copies(added.get(copy.series, ()))
        if all(known.request_id != copy.request_id for known in held):
            added[copy.series] = (*held, copy)
    return added
