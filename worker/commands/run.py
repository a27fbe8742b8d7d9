# SPDX-License-Identifier: Apache-2.0
"""``worker run``: serve requests until told otherwise."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from worker import __version__
from worker.lock import hold_worker_id
from worker.settings import Settings
from worker.shutdown import ShutdownRequest

if TYPE_CHECKING:
    from worker.daemon import DaemonEnd

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
    settings.require_worker()
    # Late: it takes seconds, and the other commands need none of it.
    from worker.assembly import build_daemon, load_analyzer, slide_opener  # noqa: PLC0415 - see above
    from worker.daemon import Mode  # noqa: PLC0415 - as above

    mode = Mode.ONCE if arguments.once else Mode.UNTIL_EMPTY if arguments.drain_when_empty else Mode.FOREVER
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


def _leave_at_once(end: DaemonEnd) -> None:
    """End the process under a thread that is in a native call and would be waited for otherwise."""
    _log.warning("Ending while the dropped work is still in a native call (%d served).", end.served)
    logging.shutdown()
    os._exit(0)
