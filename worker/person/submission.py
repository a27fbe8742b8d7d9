# SPDX-License-Identifier: Apache-2.0
"""Submitting an analysis as a person: what is meant, and the server's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.api.client import PluginClient
from worker.errors import RefusedError, SubmitError

_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Target:
    """What is to be analysed: one of Orthanc's ids, DICOM UIDs, or a cohort (see `series_of`, `find_of`)."""

    series: str | None = None
    study: str | None = None
    instance: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    cohort: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Submission:
    """Body of ``POST /pathology/analyze``."""

    target: Target
    model: str | None = None
    model_version: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    force: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the body; what is not set is left out, so that the server's defaults hold."""
        body: dict[str, Any] = self.target.as_json()
        optional = {
            "model": self.model,
            "model_version": self.model_version,
            "parameters": dict(self.parameters) or None,
            "priority": self.priority,
            "force": self.force or None,
        }
        body.update({name: value for name, value in optional.items() if value is not None})
        return body


def series_of(text: str) -> dict[str, list[str]]:
    """Return the cohort of the series whose Orthanc ids a text names, one a line; ``#`` begins a remark.

    Raises
    ------
    SubmitError
        If it names none.
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    series = [line for line in lines if line]
    if not series:
        raise SubmitError("The cohort is empty: give Orthanc ids of series, one a line.")
    return {"series": series}


def find_of(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the cohort of the series whose DICOM tags have the values given as ``Keyword=value``.

    Raises
    ------
    SubmitError
        If a text is no such pair.
    """
    query: dict[str, str] = {}
    for text in texts:
        keyword, equals, value = text.partition("=")
        if not equals or not keyword or not value:
            raise SubmitError(f"--find {text}: give a DICOM keyword and a value, as in StudyDate=20260101-.")
        query[keyword] = value
    return {"find": query}


def parse_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Read parameters given as one JSON object or as ``name=value``; values are JSON where they can be.

    Raises
    ------
    SubmitError
        If a text is neither.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            parameters.update(_json_object(text))
            continue
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SubmitError(f"--parameters {text}: give a JSON object, or name=value.")
        if _DECIMAL_COMMA.fullmatch(value):
            point = value.replace(",", ".")
            raise SubmitError(f"--parameters {text}: write the number with a point, {name}={point}.")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SubmitError(f"--parameters is no JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise SubmitError("--parameters is no JSON object.")
    return value


def submit(client: PluginClient, submission: Submission) -> dict[str, Any]:
    """Submit, and return the server's answer.

    Raises
    ------
    SubmitError
        If Orthanc has no such resource, or nothing in it can be analysed; the sentences name what and why.
    ServerError
        If it was refused otherwise, or no usable answer came.
    """
    try:
        return client.submit(submission.as_json())
    except RefusedError as error:
        if error.code == "unknown_resource":
            raise SubmitError(_not_there(submission.target)) from error
        if skipped := skipped_lines(error.details):
            raise SubmitError("\n".join(["None of these series can be analysed.", *skipped])) from error
        raise


def _not_there(target: Target) -> str:
    for kind in ("series", "study", "instance"):
        if named := getattr(target, kind):
            where = "copy it from Orthanc Explorer's address, behind uuid="
            return f"Orthanc has no {kind} with the id {named}: {where}."
    if target.cohort is not None:
        return "Orthanc has no such series: check the keywords and their values."
    return f"Orthanc has no series with the SeriesInstanceUID {target.series_instance_uid}: check the UID."


def skipped_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return a line for each series that a study or a cohort has and that cannot be analysed."""
    skipped = answer.get("skipped") or []
    return [f"Series {item.get('series')} was skipped: {item.get('error')}" for item in skipped]


def submitted_requests(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the requests of an answer to a submission: several for a study, one otherwise."""
    several = answer.get("requests")
    return list(several) if several else [answer["request"]]
