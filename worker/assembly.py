# SPDX-License-Identifier: Apache-2.0
"""The daemon put together from its parts, as the settings say.

Importing this costs seconds (torch, highdicom, the slide readers): commands that need none of it do it late.
"""

from __future__ import annotations

from collections.abc import Callable

from clam_core.slides import Slide
from worker.analysis import ClamAnalyzer
from worker.client import PluginClient
from worker.contract import Claim
from worker.daemon import Daemon
from worker.dicom_step import DicomStep
from worker.job import Analyzer, Job
from worker.outbox import Outbox
from worker.progress import ProgressView, make_view
from worker.settings import LogFormat, Settings
from worker.shutdown import ShutdownRequest
from worker.sources import open_request_slide
from worker.spool import Spool, SpoolLimits
from worker.transport import make_session


def load_analyzer(settings: Settings) -> Analyzer:
    """Load the models that the settings name."""
    return ClamAnalyzer.load(settings)


def slide_opener(settings: Settings) -> Callable[[Claim], Slide]:
    """Return what opens the slide of a claim, over connections that are kept from slide to slide."""
    session = make_session(settings.require_worker(), connections=16)
    return lambda claim: open_request_slide(settings, session, claim)


def build_daemon(
    settings: Settings,
    analyzer: Analyzer,
    shutdown: ShutdownRequest,
    open_slide: Callable[[Claim], Slide],
    *,
    bars: bool = True,
) -> Daemon:
    """Put the daemon together from its parts; without `bars` progress is told in lines everywhere."""

    def make_client() -> PluginClient:
        return PluginClient(settings, settings.require_worker(), wait=shutdown.at_once.wait)

    def view() -> ProgressView:
        return make_view(machine_readable=settings.log_format is LogFormat.JSON or not bars)

    spool = Spool(
        settings.spool_dir / settings.worker_id,
        SpoolLimits(settings.spool_max_bytes, settings.spool_max_age_s),
    )
    return Daemon(
        settings,
        analyzer,
        Job(settings.worker_id, analyzer, open_slide, DicomStep(settings.dicom_results)),
        Outbox(make_client(), spool),
        make_client=make_client,
        make_view=view,
        shutdown=shutdown,
    )
