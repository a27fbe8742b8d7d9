# SPDX-License-Identifier: Apache-2.0
"""The daemon put together from its parts, as the settings say.

Importing this costs seconds (torch, highdicom, the slide readers): commands that need none of it do it late.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from clam_core.slides import Slide

from .api.client import PluginClient
from .api.contract import Claim
from .api.server_clock import ServerClock
from .api.transport import make_session
from .dicom_results import build_results
from .gpu import gpu_memory
from .jobs.analysis import ClamAnalyzer
from .jobs.dicom_step import DicomStep
from .jobs.job import Analyzer, Job
from .processes.apart import Apart
from .processes.shutdown import ShutdownRequest
from .progress import ProgressView, make_view
from .serving.daemon import Daemon
from .serving.outbox import Outbox
from .serving.spool import Spool, SpoolLimits
from .settings import LogFormat, Settings
from .sources import open_request_slide
from .telemetry import Telemetry, process_memory

_SWITCH_S = 0.0005
"""So long a thread may keep Python's lock from one that waits for it, in place of 5 ms: on an H100 a tenth
more patches were encoded beside the threads that read and write."""


def make_telemetry() -> Telemetry:
    """Return the counters of this process."""
    return Telemetry((process_memory, gpu_memory))


def load_analyzer(settings: Settings, telemetry: Telemetry | None = None) -> Analyzer:
    """Load the models that the settings name; what they compute is counted."""
    return ClamAnalyzer.load(settings, telemetry or make_telemetry())


def slide_opener(settings: Settings, telemetry: Telemetry) -> Callable[[Claim], Slide]:
    """Return what opens the slide of a claim, over connections that are kept from slide to slide."""
    session = telemetry.meter(make_session(settings.require_worker(), connections=16))
    return lambda claim: open_request_slide(settings, session, claim)


def build_daemon(
    settings: Settings,
    analyzer: Analyzer,
    shutdown: ShutdownRequest,
    open_slide: Callable[[Claim], Slide],
    telemetry: Telemetry | None = None,
    *,
    bars: bool = True,
    apart: Apart | None = None,
) -> Daemon:
    """Put the daemon together from its parts.

    Without `bars` progress is told in lines everywhere; with `apart` DICOM results are written there.
    """
    counted = telemetry or make_telemetry()
    server_clock = ServerClock()

    def make_client() -> PluginClient:
        return PluginClient(
            settings,
            settings.require_worker(),
            wait=shutdown.at_once.wait,
            counters=counted.counters,
            told_time=server_clock.told,
        )

    def view() -> ProgressView:
        return make_view(machine_readable=settings.log_format is LogFormat.JSON or not bars)

    spool = Spool(
        settings.spool_dir / settings.worker_id,
        SpoolLimits(settings.spool_max_bytes, settings.spool_max_age_s),
    )
    return Daemon(
        settings,
        analyzer,
        Job(settings.worker_id, analyzer, open_slide, _dicom_step(settings, apart)),
        Outbox(make_client(), spool, wait=shutdown.requested.wait),
        make_client=make_client,
        make_view=view,
        shutdown=shutdown,
    )


def _dicom_step(settings: Settings, apart: Apart | None) -> DicomStep:
    if apart is None or not settings.dicom_results:
        return DicomStep(settings.dicom_results)
    apart.start(build_results.__module__)
    return DicomStep(settings.dicom_results, build=apart.doing(build_results))


def beside_gpu(analyzer: Analyzer) -> AbstractContextManager[Apart | None]:
    """Return what works beside a process that feeds a GPU, and let threads wait less for Python's lock there.

    Encoding on a CPU has work enough for every core, and takes the lock seldom.
    """
    if not analyzer.device.startswith("cuda"):
        return nullcontext()
    sys.setswitchinterval(_SWITCH_S)
    return Apart()
