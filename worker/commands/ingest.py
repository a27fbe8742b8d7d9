# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker ingest``: slide files in, DICOM series in Orthanc out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from clam_core.arguments import micrometres
from worker.ingest.environment import converter_python
from worker.ingest.errors import IngestError
from worker.ingest.identity import SlideOptions
from worker.ingest.progress import Progress, Report, Stage
from worker.ingest.store import OrthancStore
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.ingest.pipeline import IngestedSeries

_UNITS = {Stage.CONVERT: "tiles", Stage.UPLOAD: "B"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the worker's command line."""
    parser = subparsers.add_parser(
        "ingest",
        help="turn slides (SVS, NDPI, TIFF, DICOM) into DICOM series in Orthanc",
        description="Turn slides (SVS, NDPI, TIFF and what else OpenSlide reads, or DICOM files) into DICOM "
        "series in Orthanc. The same file with the same options is stored once. "
        "Acts as SUBMIT_USER, else as ORTHANC_USER, who may store nothing where the site has made that user "
        "a worker (Pathology.Workers).",
    )
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE", help="a slide file or DICOM folder")
    parser.add_argument("--mpp", type=micrometres, help="micrometres per pixel of the largest level")
    parser.add_argument("--patient-id", help="default: made from the file's content")
    parser.add_argument("--patient-name", help="default: the patient id")
    parser.add_argument("--accession-number")
    parser.add_argument("--study-description")
    parser.add_argument("--study-uid", help="StudyInstanceUID of the study that the slides belong to")
    parser.add_argument("--container-id", help="what stands on the glass; default: the file's name")
    parser.add_argument(
        "--labels", action="store_true", help="store the pictures of label and macro too: they may show names"
    )
    parser.add_argument("--scratch", type=Path, help="folder for temporary files, about twice a slide's size")
    parser.add_argument("--converter-python", type=Path, help="interpreter with wsidicomizer")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Ingest every slide named; a failing one does not keep the others out.

    Returns
    -------
    int
        0 when all are in Orthanc, else 1.
    """
    from worker.ingest.pipeline import Ingest  # noqa: PLC0415 - wsidicom takes a second that `submit` need not wait

    try:
        options = _options(arguments)
    except IngestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    store = OrthancStore(settings.orthanc_url, settings.person or settings.worker)
    bar = _Bar()
    report: Report = bar.show
    ingest = Ingest(
        store=store,
        converter=lambda: converter_python(
            _configured(arguments), report, environ=environment_of_pip(os.environ, settings.passed_on)
        ),
        report=report,
        scratch=arguments.scratch,
    )
    done: list[IngestedSeries] = []
    failed: list[dict[str, str]] = []
    for slide in arguments.slides:
        try:
            series = ingest.run(slide, options)
        except IngestError as error:
            bar.end()
            failed.append({"path": str(slide), "code": error.code, "error": str(error)})
            sys.stderr.write(f"{slide}: {error}\n")
            continue
        bar.end()
        done.extend(series)
        if not arguments.json:
            sys.stdout.write("".join(f"{_sentence(one, settings.orthanc_url)}\n" for one in series))
    store.close()
    if arguments.json:
        sys.stdout.write(json.dumps(_document(done, failed)) + "\n")
    return 1 if failed else 0


def _options(arguments: argparse.Namespace) -> SlideOptions:
    if arguments.container_id and len(arguments.slides) > 1:
        raise IngestError("bad_option", "--container-id names one glass slide: give one SLIDE with it.")
    return SlideOptions(
        mpp=arguments.mpp,
        patient_id=arguments.patient_id,
        patient_name=arguments.patient_name,
        accession_number=arguments.accession_number,
        study_description=arguments.study_description,
        container_id=arguments.container_id,
        study_uid=arguments.study_uid,
        labels=arguments.labels,
    )


def _document(done: list[IngestedSeries], failed: list[dict[str, str]]) -> dict[str, Any]:
    """Return what scripts read; a single slide's ids stand at the top as well."""
    first = {"series": done[0].series, "study": done[0].study} if done else {}
    return {**first, "slides": [dict(vars(one)) for one in done], "failed": failed}


def _configured(arguments: argparse.Namespace) -> Path | None:
    named = arguments.converter_python or os.environ.get("CONVERTER_PYTHON")
    return Path(named) if named else None


def _sentence(series: IngestedSeries, url: str) -> str:
    what = "was already there" if series.already_there else f"is stored ({series.instances} instances)"
    return (
        f"{series.path} {what}: series {series.series}, study {series.study}\n"
        f"  {url}/app/explorer.html#series?uuid={series.series}"
    )


def environment_of_pip(environ: Mapping[str, str], from_file: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the settings' file's authority: it vouches for Orthanc, not for PyPI."""
    authorities = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & from_file.keys()
    return {
        name: value for name, value in environ.items() if name not in authorities or value != from_file[name]
    }


class _Bar:
    """Progress on a terminal: one bar for each step, one line for each note."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._stage: Stage | None = None

    def show(self, progress: Progress) -> None:
        """Show the state of a step."""
        if progress.note:
            tqdm.write(progress.note, file=sys.stderr)
            return
        if self._bar is None or progress.stage is not self._stage:
            self.end()
            self._stage = progress.stage
            self._bar = tqdm(
                total=progress.total or None,
                desc=progress.stage.value,
                unit=_UNITS.get(progress.stage, "it"),
                unit_scale=progress.stage is Stage.UPLOAD,
                disable=None,
            )
        self._bar.update(progress.done - self._bar.n)

    def end(self) -> None:
        """Finish the step that is shown."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._stage = None
