# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the plugin's Python takes for many requests; no Orthanc is needed."""

from __future__ import annotations

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from orthanc_plugin.application import Application
from orthanc_plugin.audit import FileAudit
from orthanc_plugin.clock import SystemClock
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import COMPLETED, AnalysisRequest, Event, Grant, Model
from orthanc_plugin.service.startup import load_all
from orthanc_plugin.settings import Settings
from orthanc_plugin.storage.codec import encode_state

REMEMBERED = 100_000


class _Remembered(MemoryGateway):
    """Series with ten finished requests each, made when they are read, so that only the plugin keeps them."""

    def list_series(self) -> tuple[str, ...]:
        return tuple(f"series-{number}" for number in range(REMEMBERED // 10))

    def get_metadata(self, series_id: str, number: int) -> bytes | None:  # noqa: ARG002 - a protocol's
        return encode_state(
            SeriesState(series_id, 5200, 1, tuple(_finished(series_id, n) for n in range(10)))
        )


def _finished(series_id: str, number: int) -> AnalysisRequest:
    names = ("submitted", "claimed", "confirmed", "delivered", "completed")
    grant = Grant(
        1, "lab-1", "worker", "0" * 64, Model("bench", "1", "0" * 64), "0" * 64, 1.0, confirmed=True
    )
    return AnalysisRequest(
        request_id=f"{series_id}-{number:020d}",
        series=series_id,
        study="study",
        series_instance_uid="1.2.3",
        study_instance_uid="1.2",
        model="bench",
        model_version=None,
        parameters="{}",
        priority=0,
        fingerprint="0" * 64,
        created=float(number),
        created_by="alice",
        updated=2.0,
        max_attempts=3,
        status=COMPLETED,
        fence=1,
        attempts=1,
        grants=(grant,),
        summary='{"predicted_class":"oscc","probabilities":{"normal":0.08,"oscc":0.92}}',
        history=tuple(Event(1.0, name, "alice") for name in names),
    )


def _memory() -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    audit = FileAudit(Path("/dev/null"), print)
    application = Application(Settings(), _Remembered(), SystemClock(), audit, print)
    load_all(application.core)
    assert len(application.core.index.snapshot()) == REMEMBERED
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory_mb() -> float:
    """Return what the plugin's Python takes for 100,000 requests, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_memory).result()
