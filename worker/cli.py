# SPDX-License-Identifier: Apache-2.0
"""The command line: ``pathology-worker`` or ``python -m worker``.

Exit codes: 0 done, 1 an analysis or a check failed, 2 something must be set right first, 3 a fault of
the worker's own, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clam_core.arguments import OneSentenceParser

from . import __version__, logs
from .errors import WorkerError
from .settings_reading import env_file_of, load_settings

_log = logging.getLogger(__name__)

_NAME = "pathology-worker"
_COMMANDS = ("run", "doctor", "submit", "status", "decide", "ingest")
"""Modules of `worker.commands`: ``add_parser(subparsers)`` of each sets ``run(arguments, settings)``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the process' exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        settings = load_settings(os.environ, env_file_of(arguments.env_file))
        for name, value in settings.passed_on.items():
            os.environ.setdefault(name, value)
        logs.configure(
            settings.log_format, settings.log_level, settings.secrets(), worker_id=settings.worker_id
        )
        return int(arguments.run(arguments, settings))
    except WorkerError as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; a second write at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the boundary of the process: a traceback could quote a patient's data
        _log.critical("The worker met a fault of its own; please report this line.", exc_info=True)
        return 3


def build_parser() -> argparse.ArgumentParser:
    """Build the parser from the command modules."""
    parser = OneSentenceParser(
        prog=_NAME,
        description="AI analysis of whole-slide images for Orthanc. Settings: the environment or .env, "
        "see worker/env.example.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--env-file", type=Path, help="file of NAME=value lines; default: .env if it is there"
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        importlib.import_module(f"worker.commands.{name}").add_parser(subparsers)
    return parser
