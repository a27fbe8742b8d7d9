# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc holds of a series' requests, read: what is damaged is set aside, and begun afresh."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, replaced
from orthanc_plugin.settings import Settings

from .archive import Archive
from .codec import DamagedError, decode_state
from .damaged import set_aside
from .numbering import roomiest_number


class StateReader:
    """Reads the state of a series, with its archive."""

    def __init__(
        self, gateway: Gateway, settings: Settings, archive: Archive, warn: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._archive = archive
        self._warn = warn

    def decoded(
        self, series_id: str, content: bytes | None
    ) -> tuple[SeriesState, tuple[AnalysisRequest, ...]]:
        """Return the state of a series by the value of its metadata, and what has left it for the archive.

        Raises
        ------
        StorageError
            Where Orthanc fails.
        NewerError
            Where a newer version wrote what this one cannot read.
        """
        if content is None:
            return SeriesState(series_id, self._settings.first_attachment), ()
        try:
            state = decode_state(series_id, content)
        except DamagedError as error:
            self._set_aside(series_id, content, error)
            return self._begun_afresh(series_id)
        # A site may have set a larger first number since.
        state = replaced(state, next_number=max(state.next_number, self._settings.first_attachment))
        if not state.folded:
            return state, ()
        archived, schema = self._archive.read(state)
        return replaced(state, schema=max(state.schema, schema)), archived

    def _begun_afresh(self, series_id: str) -> tuple[SeriesState, tuple[AnalysisRequest, ...]]:
        """Return a state without requests that uses no number again, and what the archive still holds."""
        taken = (*self._gateway.list_attachments(series_id), *self._gateway.list_metadata(series_id))
        state = SeriesState(series_id, roomiest_number(self._settings.first_attachment, taken))
        archived, schema = self._archive.read(state)
        return replaced(state, folded=len(archived), schema=schema), archived

    def _set_aside(self, series_id: str, content: bytes, error: DamagedError) -> None:
        number = self._settings.damaged_number
        set_aside(
            content,
            partial(self._gateway.get_metadata, series_id, number),
            partial(self._gateway.put_metadata, series_id, number),
        )
        self._warn(
            f"Metadata {self._settings.metadata_number} of series {series_id} is damaged ({error}). "
            f"It is kept as metadata {number}; the requests of this series start afresh, except those in its "
            "archive."
        )
