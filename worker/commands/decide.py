# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker cancel`` and ``retry``: what a person decides about a request."""

from __future__ import annotations

import argparse
import json
import sys

from worker.api.client import PluginClient
from worker.person.following import whole_id
from worker.settings import Settings

_DECISIONS = {
    "cancel": "take a request back, or have its worker stop",
    "retry": "give a failed or cancelled request new attempts",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line."""
    for decision, what in _DECISIONS.items():
        parser = subparsers.add_parser(decision, help=f"{what} (as SUBMIT_USER)")
        parser.add_argument("request_id", help="its id, or the beginning of it")
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
        parser.set_defaults(run=run, decision=decision)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Decide, and print how the request stands; a refusal is an exception."""
    client = PluginClient(settings, settings.require_person())
    request = client.decide(whole_id(client, arguments.request_id), arguments.decision)
    if arguments.json:
        sys.stdout.write(json.dumps(request, indent=1) + "\n")
        return 0
    asked = ", and its worker is asked to stop" if request.get("cancel_requested") else ""
    sys.stdout.write(f"Request {request['request_id']} is {request['status']}{asked}.\n")
    for note in request.get("notes") or []:
        sys.stdout.write(f"Note: {note['message']}\n")
    return 0
