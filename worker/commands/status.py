# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker status``: one request, the latest ones, or the workers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from worker.api.client import PluginClient
from worker.person.following import waiting_words, whole_id
from worker.person.report import Addresses, asked_to_cancel, describe
from worker.person.slide_names import slide_names
from worker.settings import Settings
from worker.stages import words


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("status", help="show one request, or a list of them (as SUBMIT_USER)")
    parser.add_argument(
        "request_id", nargs="?", help="one request, with its result: its id, or the beginning of it"
    )
    parser.add_argument("--workers", action="store_true", help="show the workers and what each is doing")
    parser.add_argument("--status", help="list only these: pending, processing, completed, failed, ...")
    parser.add_argument("--limit", type=int, default=20, help="list so many of the latest (default: 20)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Print what was asked for; 0 always, a refusal is an exception."""
    client = PluginClient(settings, settings.require_anybody())
    if arguments.request_id:
        request = client.get_request(whole_id(client, arguments.request_id))
        _say(json.dumps(request, indent=1) if arguments.json else _one(request, settings))
        return 0
    if arguments.workers:
        workers = client.list_workers()
        _say(
            json.dumps(workers, indent=1) if arguments.json else _several(map(worker_row, workers), "workers")
        )
        return 0
    filters = {"limit": str(arguments.limit), "order": "newest"}
    page = client.list_requests(filters | ({"status": arguments.status} if arguments.status else {}))
    if arguments.json:
        _say(json.dumps(page, indent=1))
        return 0
    listed = page.get("requests", [])
    names = slide_names(settings.orthanc_url, settings.require_anybody(), listed)
    rows = (row(request, names.get(str(request["series"]), "")) for request in reversed(listed))
    _say(_several(rows, "requests"))
    if page.get("next"):
        _say("Older ones are not shown; a higher --limit (up to 1000) shows them.")
    return 0


def row(request: Mapping[str, Any], name: str) -> str:
    """Return one line for a request of a list, with the name of its slide or, without one, its series."""
    text = f"{request['request_id']}  {request['status']:<10}  {request.get('created', ''):<24}"
    text += f"  {name or request['series']}  {request.get('model') or 'default model'}"
    if request["status"] == "processing":
        text += f"  {request.get('progress') or 0:.0%} {words(str(request.get('stage') or ''))}"
        text += f" on {request.get('worker_id')}"
        if request.get("cancel_requested"):
            who = asked_to_cancel(request)
            text += ", cancel asked for" + (f" by {who}" if who else "")
    if request["status"] == "pending":
        text += f"  {waiting_words(request)}"
        text += "".join(f"  {note['message']}" for note in request.get("notes") or [])
    error = request.get("error")
    return f"{text}  {error['message']}" if error else text


def worker_row(worker: Mapping[str, Any]) -> str:
    """Return one line for a worker: what it does, and what it has counted since its start."""
    doing = f"works on {worker['request_id']}" if worker.get("request_id") else "waits for requests"
    if not worker["alive"]:
        seen = worker.get("last_seen")
        doing = f"was last heard of at {seen}" if seen else "was not heard of since Orthanc's start"
    if worker.get("drain"):
        doing += ", is given nothing more"
    text = f"{worker['worker_id']:<24}  {worker.get('device') or '?':<24}  {doing}"
    counters = worker.get("counters") or {}
    if counters.get("encode_s"):
        rate = counters.get("tiles", 0) / counters["encode_s"]
        text += f"; {counters.get('tiles', 0):.0f} patches encoded, {rate:.0f} a second"
    if counters.get("memory_bytes"):
        text += f"; {counters['memory_bytes'] / 1024**3:.1f} GB of memory"
    return text


def _several(rows: Iterable[str], what: str) -> str:
    return "\n".join(rows) or f"No {what}."


def _one(request: Mapping[str, Any], settings: Settings) -> str:
    names = slide_names(settings.orthanc_url, settings.require_anybody(), [request])
    name = names.get(str(request["series"]), "")
    if request["status"] in {"pending", "processing", "publishing"}:
        return row(request, name)
    return describe(request, Addresses(settings.orthanc_url, settings.api_url), name)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
