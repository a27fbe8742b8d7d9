# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker doctor``: say what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from worker.doctor.checks import Doctor
from worker.doctor.findings import Finding, Verdict
from worker.errors import WorkerError
from worker.settings import Settings
from worker.settings_reading import env_file_of


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("doctor", help="check settings, server, models and machine")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--round-trip",
        action="store_true",
        help="store a tiny drawn slide as SUBMIT_USER, have a running worker analyse it, and delete it again",
    )
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="of the round trip")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print the findings; 1 where a check failed, else 0."""
    failed = False
    findings = []
    for finding in _examine(arguments, settings):
        failed = failed or finding.verdict is Verdict.FAILED
        findings.append(
            {"check": finding.check, "verdict": finding.verdict.value.lower(), "message": finding.message}
        )
        if not arguments.json:
            sys.stdout.write(f"{finding.verdict.value:<8} {finding.check:<15} {finding.message}\n")
            sys.stdout.flush()
    if arguments.json:
        sys.stdout.write(json.dumps({"ok": not failed, "findings": findings}, indent=1) + "\n")
    return 1 if failed else 0


def _examine(arguments: argparse.Namespace, settings: Settings) -> Iterator[Finding]:
    # Late: they take seconds that `submit` need not wait.
    from worker.assembly import load_analyzer  # noqa: PLC0415 - see above
    from worker.gpu import free_gpu_memory  # noqa: PLC0415 - as above

    yield from Doctor(settings, load_analyzer, env_file_of(arguments.env_file), free_gpu_memory).examine()
    if arguments.round_trip:
        yield _round_trip(settings, arguments.timeout)


def _round_trip(settings: Settings, timeout_s: float) -> Finding:
    from worker.doctor.round_trip import round_trip  # noqa: PLC0415 - as above

    try:
        return Finding("round trip", Verdict.OK, round_trip(settings, timeout_s))
    except WorkerError as error:
        return Finding("round trip", Verdict.FAILED, str(error))
