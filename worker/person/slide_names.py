# SPDX-License-Identifier: Apache-2.0
"""How Orthanc's lists call slides, by which a person knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import requests

from worker.api.transport import make_session
from worker.settings import Credentials

_TIMEOUT_S = (5.0, 30.0)


def slide_names(
    orthanc_url: str, user: Credentials | None, listed: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the descriptions of the series of some requests, by Orthanc's ids.

    An ingest writes there what stands on the glass. That itself Orthanc would have to read from the slide's
    files, which may take long. Whom Orthanc does not let look them up gets none: a name only helps to read.

    Parameters
    ----------
    orthanc_url
        Address of Orthanc.
    user
        Who asks.
    listed
        Requests as the plugin shows them.
    """
    uids = sorted({str(one["series_instance_uid"]) for one in listed if one.get("series_instance_uid")})
    if not uids:
        return {}
    question = {"Level": "Series", "Query": {"SeriesInstanceUID": "\\".join(uids)}, "Expand": True}
    try:
        with make_session(user) as session:
            answer = session.post(f"{orthanc_url}/tools/find", json=question, timeout=_TIMEOUT_S)
        found = answer.json() if answer.ok else []
    except (requests.RequestException, ValueError):
        return {}
    return {
        str(one["ID"]): str((one.get("MainDicomTags") or {}).get("SeriesDescription") or "").strip()
        for one in found
        if isinstance(one, dict) and "ID" in one
    }
