# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is left over of results: deleted at a start, and when the next worker begins anew."""

from __future__ import annotations

from orthanc_plugin.queue.series_state import SCHEMA
from orthanc_plugin.storage.codec import RECORD_HEAD
from orthanc_plugin.storage.numbering import named_numbers

from .core import Core


def delete_orphans(core: Core, series_id: str) -> None:
    """Delete the results of a series, or parts of them, that no request names.

    They are listed before the state is read: a number is reserved before its bytes are written, so what
    is listed and still wanted is named by then. Nothing is deleted where not all that is stored is known:
    where a damaged value was set aside, where the archive lacks requests, where a newer plugin wrote.

    Raises
    ------
    StorageError
        Where Orthanc fails.
    ApiError
        503, likewise.
    """
    gateway, first = core.gateway, core.settings.first_attachment
    listed = gateway.list_metadata(series_id)
    if core.settings.damaged_number in listed:
        return
    values = {number for number in listed if number >= first}
    files = {number for number in gateway.list_attachments(series_id) if number >= first}
    if not (values or files):
        return
    state = core.store.load(series_id)
    archived = core.index.archived(state)
    if len(archived) < state.folded or state.schema > SCHEMA:
        return
    named = named_numbers((*archived, *state.requests))
    orphans = {number for number in values | files if number not in named and number < state.next_number}
    for number in orphans & files:
        gateway.delete_attachment(series_id, number)
    for number in orphans & values:
        # Another value under such a number is a site's, from before these numbers were ours.
        if (gateway.get_metadata(series_id, number) or b"").startswith(RECORD_HEAD):
            gateway.delete_metadata(series_id, number)
