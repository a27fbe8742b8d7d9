# SPDX-License-Identifier: Apache-2.0
"""The name of the file that Orthanc keeps of an instance: another one after every overwrite."""

from __future__ import annotations

import requests

from worker.api.contract import InstanceRef
from worker.backoff import Wait
from worker.settings import Settings

from .repeating import no_slide, orthanc_document, repeat


def stored_uuid(settings: Settings, session: requests.Session, instance: InstanceRef, wait: Wait) -> str:
    """Return the name of the file that is stored now.

    Raises
    ------
    SourceError
        If Orthanc does not say.
    """
    return repeat(lambda: _ask(settings, session, instance), wait)


def _ask(settings: Settings, session: requests.Session, instance: InstanceRef) -> str:
    path = f"/instances/{instance.id}/attachments/dicom/info"
    uuid = orthanc_document(settings, session, path).get("Uuid")
    if not isinstance(uuid, str):
        raise no_slide(settings.orthanc_url)
    return uuid
