# SPDX-License-Identifier: Apache-2.0
"""``worker doctor``: say what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import json
import sys

from worker.doctor import Doctor, Verdict
from worker.settings import Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("doctor", help="check settings, server, models and machine")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print the findings; 1 where a check failed, else 0."""
    from worker.assembly import load_analyzer  # noqa: PLC0415 - it takes seconds that `submit` need not wait

    failed = False
    findings = []
    for finding in Doctor(settings, load_analyzer).examine():
        failed = failed or finding.verdict is Verdict.FAILED
        findings.append(
            {"check": finding.check, "verdict": finding.verdict.value.lower(), "message": finding.message}
        )
        if not arguments.json:
            sys.stdout.write(f"{finding.verdict.value:<8} {finding.check:<14} {finding.message}\n")
            sys.stdout.flush()
    if arguments.json:
        sys.stdout.write(json.dumps({"ok": not failed, "findings": findings}, indent=1) + "\n")
    return 1 if failed else 0
