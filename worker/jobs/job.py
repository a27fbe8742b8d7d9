# SPDX-License-Identifier: Apache-2.0
"""The work on one request: open its slide, analyse it, and put the result into the contract's shape."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from clam_core.errors import ClamCoreError, NonFiniteError
from clam_core.run import EncoderTurn
from clam_core.slides import Slide
from worker import __version__
from worker.api.contract import Claim, ModelOffer
from worker.dicom_results import Attention
from worker.errors import JobStoppedError, WorkerError
from worker.progress import ProgressView
from worker.sources import Reporting
from worker.sources.errors import SourceUnauthorizedError
from worker.stages import position_in

from .control import JobControl
from .delivery import Delivery, failure_delivery, result_delivery
from .dicom_step import DicomStep
from .failures import failure_of
from .turns import EncoderTurns

_log = logging.getLogger(__name__)


class StageReport(Protocol):
    """Tells how far the work is; raises where it must end."""

    def __call__(
        self, stage: str, fraction: float, detail: str = "", remaining_s: float | None = None
    ) -> None:
        """Report a stage, the share of it that is done, words for a person and the seconds it will take."""
        ...


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Attributes
    ----------
    result
        The contract's result without what the worker adds (artifacts, its own timings and software).
    artifacts
        Bytes of each artifact by name.
    attention
        Attention over the slide for DICOM results, or None.
    """

    result: Mapping[str, Any]
    artifacts: Mapping[str, bytes] = field(repr=False)
    attention: Attention | None = field(default=None, repr=False)


class Analyzer(Protocol):
    """Runs models on slides."""

    @property
    def offers(self) -> tuple[ModelOffer, ...]:
        """The models that can run here."""
        ...

    @property
    def default_model(self) -> str | None:
        """Name of the model for requests that name none."""
        ...

    @property
    def device(self) -> str:
        """The device, for people, such as ``cuda:0 NVIDIA H200``."""
        ...

    def analyze(
        self, slide: Slide, request: Mapping[str, Any], report: StageReport, turn: EncoderTurn
    ) -> Analysis:
        """Analyse an open slide as the request asks.

        Parameters
        ----------
        slide
            The open slide.
        request
            The request as the server described it.
        report
            Is told how far it is.
        turn
            Makes what is held while patches are encoded; other work goes on beside another slide's.

        Raises
        ------
        ClamCoreError, WorkerError
            If there is no result; the message is for the user.
        """
        ...


class Job:
    """Works on claimed requests; several may be in work, and one of them is encoded.

    Parameters
    ----------
    worker_id
        This worker's name.
    analyzer
        Runs the model.
    open_slide
        Opens the slide of a claim.
    dicom
        Writes the result's DICOM objects.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self,
        worker_id: str,
        analyzer: Analyzer,
        open_slide: Callable[[Claim], Slide],
        dicom: DicomStep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker_id = worker_id
        self._analyzer = analyzer
        self._open_slide = open_slide
        self._dicom = dicom
        self._clock = clock
        self._turns = EncoderTurns()

    def run(self, claim: Claim, control: JobControl, view: ProgressView) -> Delivery:
        """Work on a claim until there is a result or an error to send.

        Raises
        ------
        JobStoppedError
            If the work was stopped; nothing is to be sent then.
        SourceUnauthorizedError
            If Orthanc accepts this worker no more: nothing is to be sent, for the request is not at fault.
        """

        def report(stage: str, fraction: float, detail: str = "", remaining_s: float | None = None) -> None:
            position = position_in(stage, fraction, detail, remaining_s)
            view.show(position)
            control.report(position)

        try:
            return self._analyse(claim, report, lambda: self._turns.take(control))
        except (JobStoppedError, SourceUnauthorizedError):
            raise
        except Exception as error:  # noqa: BLE001 - one request's failure must not end the worker
            control.check()
            return self._failed(claim, error)

    def _analyse(self, claim: Claim, report: StageReport, turn: EncoderTurn) -> Delivery:
        report("open", 0.0, "")
        begun = self._clock()
        with self._open_slide(claim) as slide:
            opened = self._clock()
            report("open", 1.0, "")
            analysis = self._analyzer.analyze(slide, claim.request, report, turn)
            own_timings = {"queue": queue_seconds(claim.request), "open": round(opened - begun, 3)}
            result = complete_result(analysis, claim, own_timings, self._analyzer.device)
            _say_how_it_was_read(slide, result)
            report("dicom", 0.0, "")
            result, objects = self._write_dicom(slide, result, analysis, claim)
        _require_finite(result)
        # Not what was found: the line names the slide, and a log is read and kept by others than a result.
        _log.info("Analysed in %.1f s.", self._clock() - begun)
        return result_delivery(claim, self._worker_id, result, {**analysis.artifacts, **objects})

    def _write_dicom(
        self, slide: Slide, result: Mapping[str, Any], analysis: Analysis, claim: Claim
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        begun = self._clock()
        written, objects = self._dicom.write(slide, result, analysis.attention, claim)
        if objects:
            written["timings_s"] = {**written["timings_s"], "dicom": round(self._clock() - begun, 3)}
            written["artifacts"] = [*written["artifacts"], *objects]
        return written, objects

    def _failed(self, claim: Claim, error: Exception) -> Delivery:
        failure = failure_of(error)
        if isinstance(error, ClamCoreError | WorkerError):
            _log.warning("No result (%s): %s", failure.code, failure.message)
        else:
            _log.error("No result (%s): %s", failure.code, failure.message, exc_info=error)
        return failure_delivery(claim, self._worker_id, failure)


def _say_how_it_was_read(slide: Slide, result: dict[str, Any]) -> None:
    """Put into result and log what reading the slide cost."""
    if isinstance(slide, Reporting):
        report = slide.source_report()
        result["slide"]["source"] = report.as_json()
        _log.info("Read by %s: %d requests, %.1f MB.", report.kind, report.requests, report.bytes / 1e6)


def _require_finite(result: Mapping[str, Any]) -> None:
    """See that the result is JSON: the server refuses NaN and infinity, and a spool full of them."""
    try:
        json.dumps(result, allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(
            "The result holds a value that is no number: check the model on a slide that it was tested with."
        ) from error


def complete_result(
    analysis: Analysis, claim: Claim, own_timings: Mapping[str, float | None], device: str
) -> dict[str, Any]:
    """Add to an analysis what only the worker knows."""
    result = dict(analysis.result)
    slide = dict(result.get("slide") or {})
    slide["series_instance_uid"] = slide.get("series_instance_uid") or claim.request.get(
        "series_instance_uid"
    )
    slide["fingerprint"] = claim.fingerprint
    timings = {name: seconds for name, seconds in own_timings.items() if seconds is not None}
    return {
        **result,
        "slide": slide,
        "artifacts": list(analysis.artifacts),
        "dicom": list(result.get("dicom") or []),
        "timings_s": {**timings, **(result.get("timings_s") or {})},
        "software": {**(result.get("software") or {}), "worker": __version__, "device": device},
    }


def queue_seconds(request: Mapping[str, Any]) -> float | None:
    """Return the seconds that it has waited for this claim, by the server's clock alone, or None."""
    try:
        began = dt.datetime.fromisoformat(request.get("waiting_since") or request["created"])
        claimed = dt.datetime.fromisoformat(request["updated"])
    except (KeyError, TypeError, ValueError):
        return None
    return round(max(0.0, (claimed - began).total_seconds()), 3)
