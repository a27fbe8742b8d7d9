# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker run``: serve requests until told otherwise."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from worker import __version__
from worker.api.transport import passwords_in_clear
from worker.errors import ServerError
from worker.processes.lock import hold_worker_id
from worker.processes.notify import take_from_environment
from worker.processes.posts import posts
from worker.processes.pulse import Pulse
from worker.processes.shutdown import ShutdownRequest
from worker.processes.supervisor import Supervisor, start_worker
from worker.scratch import sweep_scratch
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.serving.daemon import DaemonEnd

_log = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("run", help="claim requests and analyse their slides")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="end after one request, or when none comes")
    when.add_argument("--drain-when-empty", action="store_true", help="end when nothing is waiting")
    parser.add_argument(
        "--devices",
        metavar="all|LIST",
        help="a process for each GPU, or for each device of a list such as cuda:0,cuda:1",
    )
    parser.add_argument("--until-input-ends", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve requests; 0 after an orderly end.

    Raises
    ------
    ServerError
        If the server turns this worker away; the sentence names who finds out why.
    """
    settings.require_worker()
    try:
        return (
            _run_one(arguments, settings) if arguments.devices is None else _run_several(arguments, settings)
        )
    except ServerError as error:
        raise ServerError(f"{error} `pathology-worker doctor` finds out what is wrong.") from error


def _run_several(arguments: argparse.Namespace, settings: Settings) -> int:
    supervision = take_from_environment()
    found = posts(arguments.devices, settings.worker_id, _count_gpus, os.cpu_count() or 1)
    shutdown = ShutdownRequest()
    shutdown.install()
    return Supervisor(found, start_worker(_own_arguments(arguments)), shutdown, supervision).run()


def _count_gpus() -> int:
    # Late: it takes seconds, and only `--devices all` needs it.
    import torch  # noqa: PLC0415 - see above

    return torch.cuda.device_count()


def _own_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the command line of one of several workers."""
    file = [] if arguments.env_file is None else ["--env-file", str(arguments.env_file)]
    when = [
        f"--{name.replace('_', '-')}" for name in ("once", "drain_when_empty") if getattr(arguments, name)
    ]
    return [*file, "run", *when]


def _run_one(arguments: argparse.Namespace, settings: Settings) -> int:
    # Late: it takes seconds, and the other commands need none of it.
    from worker.assembly import (  # noqa: PLC0415 - see above
        beside_gpu,
        build_daemon,
        load_analyzer,
        make_telemetry,
        slide_opener,
    )
    from worker.serving.daemon import Mode  # noqa: PLC0415 - as above

    mode = Mode.ONCE if arguments.once else Mode.UNTIL_EMPTY if arguments.drain_when_empty else Mode.FOREVER
    for warning in (*settings.warnings, *passwords_in_clear(settings)):
        _log.warning("%s", warning)
    pulse = Pulse(take_from_environment())
    shutdown = ShutdownRequest()
    if arguments.until_input_ends:
        threading.Thread(
            target=_ask_when_it_ends, args=(_taken_input(), shutdown), name="input", daemon=True
        ).start()
    with hold_worker_id(settings):
        sweep_scratch(settings)
        telemetry = make_telemetry()
        analyzer = load_analyzer(settings, telemetry)
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
        with beside_gpu(analyzer) as apart:
            daemon = build_daemon(
                settings,
                analyzer,
                shutdown,
                slide_opener(settings, telemetry),
                telemetry,
                bars=not arguments.until_input_ends,
                apart=apart,
            )
            end = daemon.run(mode, pulse)
    if end.work_abandoned:
        _leave_at_once(end)
    return 0


def _taken_input() -> int:
    """Take the standard input away from processes that this one starts, and return it.

    On Windows a Python that inherits a pipe does not begin while another process waits for what comes by it
    (https://github.com/python/cpython/issues/78961).
    """
    given = sys.stdin.fileno()
    taken = os.dup(given)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, given)
    os.close(nothing)
    return taken


def _ask_when_it_ends(pipe: int, shutdown: ShutdownRequest) -> None:
    """End in good order when whoever started this process, and holds the pipe's other end, is gone."""
    while os.read(pipe, 1):
        pass
    shutdown.ask()


def _leave_at_once(end: DaemonEnd) -> None:
    """End the process under a thread that is in a native call and would be waited for otherwise."""
    _log.warning("Ending while the dropped work is still in a native call (%d served).", end.served)
    logging.shutdown()
    os._exit(0)
