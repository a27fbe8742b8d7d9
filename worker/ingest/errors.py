# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while a slide is ingested."""

from __future__ import annotations

from worker.errors import WorkerError


class IngestError(WorkerError):
    """A slide cannot be ingested; the message says what to do.

    Parameters
    ----------
    code
        Stable identifier: ``unreadable``, ``unknown_format``, ``no_mpp``, ``not_a_slide``, ``bad_option``,
        ``converter_unavailable``, ``converter_failed``, ``disk_full``, ``orthanc_unreachable``,
        ``orthanc_unauthorized``, ``orthanc_refused``.
    message
        The sentence for the user.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
