#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Remove from an Orthanc what the pathology plugin has stored: DICOM results, attachments, metadata.

Switch the plugin off first ("Pathology": {"Enabled": false}, restart): while it runs, nobody may touch these.
Python's standard library only; Orthanc 1.10.1 or newer. Without --yes it only says what it would remove::

    ORTHANC_PASSWORD=... ./remove_traces.py --url http://127.0.0.1:8042 --user admin [--yes]

Slides are left as they are. Run it again after an interruption; what is gone is passed over.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

STATE, DAMAGED = 5000, 5002
ARCHIVE, FIRST_ATTACHMENT = 5001, 5100


class RefusedError(Exception):
    """Orthanc did not do what it was asked to."""


class Orthanc:
    """The few routes of Orthanc that are needed, as one user."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url.rstrip("/")
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")

    def call(self, method: str, path: str) -> bytes | None:
        """Return the answer's body, or None where there is no such thing (any more)."""
        request = urllib.request.Request(self._url + path, method=method)  # noqa: S310 - the address is the admin's
        request.add_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise RefusedError(f"{method} {path} is answered {error.code}: {_advice(error.code)}") from error
        except urllib.error.URLError as error:
            raise RefusedError(f"{self._url} cannot be reached: {error.reason}.") from error

    def json(self, path: str) -> Any:
        """Return an answer that must be there, decoded."""
        content = self.call("GET", path)
        if content is None:
            raise RefusedError(f"{self._url}{path} is not there: check --url.")
        return json.loads(content)


def _advice(status: int) -> str:
    if status == 401:
        return "check --user and ORTHANC_PASSWORD."
    if status == 403:
        return 'the plugin still guards it: set "Pathology": {"Enabled": false} and restart Orthanc.'
    return "look at Orthanc's log."


def traces(orthanc: Orthanc, numbers: argparse.Namespace) -> Iterator[str]:
    """Yield the path of everything to delete, results first: the state that names them goes last."""
    for series in orthanc.json("/series"):
        values = {
            number: content
            for number in (numbers.state, numbers.damaged)
            if (content := orthanc.call("GET", f"/series/{series}/metadata/{number}")) is not None
        }
        archived = orthanc.call("GET", f"/series/{series}/attachments/{numbers.archive}/data")
        for content in (values.get(numbers.state), archived):
            for output in _dicom_results(content or b"", series):
                yield f"/series/{output}"
        if values or archived is not None:
            yield from _results_of(orthanc, series, numbers)
        yield from (f"/series/{series}/metadata/{number}" for number in values)


def _results_of(orthanc: Orthanc, series: str, numbers: argparse.Namespace) -> list[str]:
    """Return the paths of a series' results: files are attachments, full results mostly metadata."""
    ours = range(numbers.first_attachment, 65536)
    kinds = {"attachments": {numbers.archive, numbers.damaged, *ours}, "metadata": set(ours)}
    return [
        f"/series/{series}/{kind}/{name}"
        for kind, own in kinds.items()
        for name in json.loads(orthanc.call("GET", f"/series/{series}/{kind}") or b"[]")
        if name.isdigit()
        and int(name) in own
        and (kind == "attachments" or _is_record(orthanc, series, name))
    ]


def _is_record(orthanc: Orthanc, series: str, number: str) -> bool:
    """Tell a full result from a value that a site has written under a number of its own."""
    return (orthanc.call("GET", f"/series/{series}/metadata/{number}") or b"").startswith(b'{"schema":')


def _dicom_results(state: bytes, slide: str) -> set[str]:
    """Return the Orthanc ids of the series that a state names as its requests' DICOM results."""
    try:
        requests = json.loads(state)["requests"]
        outputs = {output["series"] for request in requests for output in request.get("outputs", [])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()  # damaged: nothing is deleted on a guess
    return outputs - {"", slide}


def main(arguments: Sequence[str] | None = None) -> int:
    """Say or remove what is there; 0 when done, 2 where Orthanc refuses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8042")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--yes", action="store_true", help="remove it; without, only say what it would be")
    for name, number in (("state", STATE), ("damaged", DAMAGED), ("archive", ARCHIVE)):
        parser.add_argument(
            f"--{name}", type=int, default=number, help="its number, where orthanc.json sets another"
        )
    parser.add_argument("--first-attachment", type=int, default=FIRST_ATTACHMENT)
    chosen = parser.parse_args(arguments)
    orthanc = Orthanc(chosen.url, chosen.user, os.environ.get("ORTHANC_PASSWORD", ""))
    try:
        count = 0
        for path in traces(orthanc, chosen):
            if chosen.yes:
                orthanc.call("DELETE", path)
            sys.stdout.write(f"{'removed' if chosen.yes else 'would remove'} {path}\n")
            count += 1
    except RefusedError as error:
        sys.stderr.write(f"remove_traces: {error}\n")
        return 2
    sys.stdout.write(f"{count} trace(s) {'removed' if chosen.yes else 'found; add --yes to remove them'}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
