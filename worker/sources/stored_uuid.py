# SPDX-License-Identifier: Apache-2.0
"""The name of the file that Orthanc keeps of an instance: another one after every overwrite."""

from __future__ import annotations

import requests

from worker.backoff import Wait
from worker.contract import InstanceRef
from worker.settings import Settings
from worker.sources.repeating import TryAgainError, no_slide, orthanc_failure, repeat
from worker.transport import unreachable


def stored_uuid(settings: Settings, session: requests.Session, instance: InstanceRef, wait: Wait) -> str:
    """Return the name of the file that is stored now.

    Raises
    ------
    SourceError
        If Orthanc does not say.
    """
    return repeat(lambda: _ask(settings, session, instance), wait)


def _ask(settings: Settings, session: requests.Session, instance: InstanceRef) -> str:
    address = settings.orthanc_url
    try:
        answer = session.get(
            f"{address}/instances/{instance.id}/attachments/dicom/info",
            timeout=(settings.connect_timeout_s, settings.read_timeout_s),
            allow_redirects=False,
        )
        if answer.status_code != 200:
            raise orthanc_failure(answer, address)
        document = answer.json()
    except requests.RequestException as error:
        raise TryAgainError(str(unreachable(address, error))) from error
    uuid = document.get("Uuid") if isinstance(document, dict) else None
    if not isinstance(uuid, str):
        raise no_slide(address)
    return uuid
