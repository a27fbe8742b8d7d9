# SPDX-License-Identifier: Apache-2.0
"""Where slides are downloaded to whole: a folder of this worker's own, since a killed process leaves them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from .settings import Settings

_log = logging.getLogger(__name__)


def scratch_folder(settings: Settings) -> Path:
    """Return the folder; it lies on the spool's disk, for the system's own is often memory."""
    return settings.spool_dir / f"{settings.worker_id}.scratch"


def sweep_scratch(settings: Settings) -> None:
    """Remove what a killed process left: gigabytes, with a patient's header. Only under the worker's lock."""
    folder = scratch_folder(settings)
    if not folder.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _log.error(
            "A downloaded slide of an earlier run cannot be removed from %s: check its rights.", folder
        )
