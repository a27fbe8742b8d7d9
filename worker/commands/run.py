# SPDX-License-Identifier: Apache-2.0
"""``worker run``: serve requests until told otherwise."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker import __version__
from worker.client import PluginClient, make_session
from worker.contract import Claim
from worker.daemon import Daemon, DaemonEnd, Mode
from worker.dicom_results import parse_kinds
from worker.dicom_step import DicomStep
from worker.job import Analyzer, Job
from worker.lock import hold_worker_id
from worker.outbox import Outbox
from worker.progress import ProgressView, make_view
from worker.settings import LogFormat, Settings
from worker.shutdown import ShutdownRequest
from worker.spool import Spool, SpoolLimits

if TYPE_CHECKING:
    from clam_core.slides import Slide

_log = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("run", help="claim requests and analyse their slides")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="end after one request, or when none comes")
    when.add_argument("--drain-when-empty", action="store_true", help="end when nothing is waiting")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve requests; 0 after an orderly end."""
    mode = Mode.ONCE if arguments.once else Mode.UNTIL_EMPTY if arguments.drain_when_empty else Mode.FOREVER
    settings.require_worker()
    for warning in settings.warnings:
        _log.warning("%s", warning)
    shutdown = ShutdownRequest()
    with hold_worker_id(settings):
        analyzer = load_analyzer(settings)
        _log.info(
            "Worker %s %s on %s, models: %s, server: %s",
            settings.worker_id,
            __version__,
            analyzer.device,
            ", ".join(f"{offer.name} {offer.version}" for offer in analyzer.offers),
            settings.api_url,
        )
        # Not before: while models load there is nothing to finish, and a signal may simply end the process.
        shutdown.install()
        end = build_daemon(settings, analyzer, shutdown, slide_opener(settings)).run(mode)
    if end.work_abandoned:
        _leave_at_once(end)
    return 0


def load_analyzer(settings: Settings) -> Analyzer:
    """Load the models that the settings name."""
    from worker.analysis import ClamAnalyzer  # noqa: PLC0415 - torch takes seconds that `submit` need not wait

    return ClamAnalyzer.load(settings)


def slide_opener(settings: Settings) -> Callable[[Claim], Slide]:
    """Return what opens the slide of a claim, over connections that are kept from slide to slide."""
    from worker.sources import open_request_slide  # noqa: PLC0415 - as above

    session = make_session(settings.require_worker(), connections=16)
    return lambda claim: open_request_slide(settings, session, claim)


def build_daemon(
    settings: Settings,
    analyzer: Analyzer,
    shutdown: ShutdownRequest,
    open_slide: Callable[[Claim], Slide],
) -> Daemon:
    """Put the daemon together from its parts."""

    def make_client() -> PluginClient:
        return PluginClient(settings, settings.require_worker(), wait=shutdown.at_once.wait)

    def view() -> ProgressView:
        return make_view(machine_readable=settings.log_format is LogFormat.JSON)

    spool = Spool(
        settings.spool_dir / settings.worker_id,
        SpoolLimits(settings.spool_max_bytes, settings.spool_max_age_s),
    )
    return Daemon(
        settings,
        analyzer,
        Job(settings.worker_id, analyzer, open_slide, DicomStep(parse_kinds(settings.dicom_results))),
        Outbox(make_client(), spool),
        make_client=make_client,
        make_view=view,
        shutdown=shutdown,
    )


def _leave_at_once(end: DaemonEnd) -> None:
    """End the process under a thread that is in a native call and would be waited for otherwise."""
    _log.warning("Ending while the dropped work is still in a native call (%d served).", end.served)
    logging.shutdown()
    os._exit(0)
