# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker submit``: ask for an analysis as a person, follow it, print the result."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clam_core.errors import ParameterError
from worker.api.client import PluginClient
from worker.errors import SubmitError
from worker.person.following import follow, waiting_words
from worker.person.report import Addresses, describe
from worker.person.slide_names import slide_names
from worker.person.submission import (
    Submission,
    Target,
    find_of,
    parse_parameters,
    series_of,
    skipped_lines,
    submit,
    submitted_requests,
)
from worker.progress import make_view
from worker.settings import LogFormat, Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("submit", help="ask for an analysis (as SUBMIT_USER)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("series_id", nargs="?", metavar="SERIES", help="Orthanc id of a series")
    what.add_argument("--series", help="the same")
    what.add_argument("--study", help="Orthanc id of a study: every slide in it")
    what.add_argument("--instance", help="Orthanc id of an instance: its series")
    what.add_argument("--series-uid", help="SeriesInstanceUID")
    what.add_argument(
        "--cohort", metavar="FILE", help="file with Orthanc ids of series, one a line ('-': standard input)"
    )
    what.add_argument(
        "--find", action="append", metavar="KEYWORD=VALUE", help="every series with these DICOM tags (repeat)"
    )
    parser.add_argument("--study-uid", help="StudyInstanceUID, where a SeriesInstanceUID is not unique")
    parser.add_argument("--model", help="name of the model; default: the worker's")
    parser.add_argument("--model-version")
    parser.add_argument(
        "--parameters", action="append", default=[], metavar="JSON|NAME=VALUE", help="such as mpp=0.25"
    )
    parser.add_argument("--priority", type=int, help="-100 to 100, higher first")
    parser.add_argument("--force", action="store_true", help="analyse again although there is a result")
    parser.add_argument("--wait", action="store_true", help="follow the analysis and print its result")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="with --wait: at most this long")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Submit; 0 for a result (or, without --wait, for an accepted request), 1 for an analysis without one."""
    client = PluginClient(settings, settings.require_person())
    answer = submit(client, _submission(arguments))
    requests = submitted_requests(answer)
    if not arguments.json:
        _print_accepted(answer, requests)
    if arguments.wait:
        requests = [_followed(client, request, arguments, settings) for request in requests]
    if arguments.json:
        _say(json.dumps(requests[0] if len(requests) == 1 else requests, indent=1))
    elif arguments.wait:
        names = slide_names(settings.orthanc_url, settings.require_person(), requests)
        addresses = Addresses(settings.orthanc_url, settings.api_url)
        for request in requests:
            _say("\n" + describe(request, addresses, names.get(str(request["series"]), "")))
    succeeded = all(request["status"] == "completed" for request in requests)
    return 0 if succeeded or not arguments.wait else 1


def _submission(arguments: argparse.Namespace) -> Submission:
    return Submission(
        target=Target(
            series=arguments.series or arguments.series_id,
            study=arguments.study,
            instance=arguments.instance,
            series_instance_uid=arguments.series_uid,
            study_instance_uid=arguments.study_uid,
            cohort=_cohort(arguments),
        ),
        model=arguments.model,
        model_version=arguments.model_version,
        parameters=_parameters(arguments.parameters),
        priority=arguments.priority,
        force=arguments.force,
    )


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Return the parameters, looked at as the worker does that would refuse them later."""
    parameters = parse_parameters(texts)
    if not parameters:
        return {}
    # It takes a second to load, which a submission without parameters need not wait.
    from clam_core.options import AnalysisOptions  # noqa: PLC0415

    try:
        AnalysisOptions.from_parameters(parameters)
    except ParameterError as error:
        raise SubmitError(f"--parameters: {error}") from error
    return parameters


def _cohort(arguments: argparse.Namespace) -> dict[str, Any] | None:
    if arguments.cohort is not None:
        return series_of(_text_of(arguments.cohort))
    return find_of(arguments.find) if arguments.find else None


def _text_of(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SubmitError(f"There is no file {path}: correct --cohort.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SubmitError(f"{path} cannot be read as text: check the path and its rights.") from error


def _print_accepted(answer: dict[str, Any], requests: list[dict[str, Any]]) -> None:
    summary = answer.get("summary")
    known = "" if summary or answer.get("created", True) else ", submitted before"
    for request in requests:
        waiting = f", {waiting_words(request)}" if request["status"] == "pending" else ""
        _say(f"Request {request['request_id']} is {request['status']}{known}{waiting}.")
    for line in skipped_lines(answer):
        _say(line)
    if summary:
        _say(
            f"{summary['created']} submitted, {summary['existing']} submitted before, "
            f"{summary['skipped']} skipped."
        )
    for warning in answer.get("warnings") or []:
        _say(f"Note: {warning}")


def _followed(
    client: PluginClient, request: dict[str, Any], arguments: argparse.Namespace, settings: Settings
) -> dict[str, Any]:
    view = make_view(machine_readable=arguments.json or settings.log_format is LogFormat.JSON)
    try:
        return follow(client, request, view, timeout_s=arguments.timeout)
    finally:
        view.close()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
