# SPDX-License-Identifier: Apache-2.0
"""From a slide file to a series in Orthanc."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsidicom import WsiDicom

from clam_core.slides import DAMAGED

from .convert import run_converter
from .dicom_files import DicomSlide, find_slides, is_dicom
from .errors import IngestError
from .headers import NamedFile, write_headers
from .identity import DicomIdentity, SlideOptions, identify, sha256_of
from .levels import complete_pyramid, needs_levels
from .progress import Progress, Report, Stage
from .store import OrthancStore, StoredInstance

_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGED, AttributeError)
"""What opening and decoding raise on damaged or unusual DICOM."""


@dataclass(frozen=True)
class IngestedSeries:
    """A slide in Orthanc.

    Attributes
    ----------
    path
        The file or folder that it came from.
    series, study
        Orthanc's ids.
    series_instance_uid
        DICOM's.
    already_there
        Whether nothing had to be stored.
    instances
        Number of its files that were stored or found.
    """

    path: str
    series: str
    study: str
    series_instance_uid: str
    already_there: bool
    instances: int


@dataclass(frozen=True)
class Ingest:
    """How slides get into one Orthanc.

    Attributes
    ----------
    store
        Orthanc.
    converter
        Returns the converter's interpreter; asked only when something is to be converted.
    report
        Is told how far it is.
    scratch
        Folder for files in the making (about twice the slide's size), or None for the system's own.
    """

    store: OrthancStore
    converter: Callable[[], Path]
    report: Report
    scratch: Path | None = None

    def run(self, slide: Path, options: SlideOptions) -> tuple[IngestedSeries, ...]:
        """Store a slide: one series, or as many as a folder of DICOM holds.

        Raises
        ------
        IngestError
            If it cannot be read, converted or stored; the message says what to do.
        """
        if not slide.exists():
            raise IngestError("unreadable", f"There is no file {slide}: check the path.")
        try:
            self.store.check()
            if is_dicom(slide):
                return self._store_dicom(slide, options)
            return (self._convert_and_store(slide, options),)
        except OSError as error:
            raise _local_failure(error) from error

    def _store_dicom(self, path: Path, options: SlideOptions) -> tuple[IngestedSeries, ...]:
        require_as_it_is(path, options)
        with _damage_told(path.name):
            slides = find_slides(path, labels=options.labels)
        return tuple(self._store_series(path, slide) for slide in slides)

    def _store_series(self, path: Path, slide: DicomSlide) -> IngestedSeries:
        check_readable(slide.files)
        if not slide.is_original:
            self.report(Progress(Stage.UPLOAD, note=_of_derived(path.name)))
        if slide.left_out:
            self.report(
                Progress(
                    Stage.UPLOAD, note=f"{slide.left_out} label, overview or thumbnail images are left out."
                )
            )
        stored = self._upload(slide.files)
        return IngestedSeries(
            str(path),
            stored[-1].series,
            stored[-1].study,
            slide.series_uid,
            all(item.already_there for item in stored),
            len(stored),
        )

    def _convert_and_store(self, slide: Path, options: SlideOptions) -> IngestedSeries:
        require_file(slide)
        identity = identify(slide, sha256_of(slide), options)
        present = self._already_there(slide, identity)
        if present is not None:
            return present
        with tempfile.TemporaryDirectory(prefix="ingest-", dir=self.scratch) as folder:
            named = self._convert(slide, options, identity, Path(folder))
            stored = self._upload([file.path for file in named])
        return IngestedSeries(
            str(slide), stored[-1].series, stored[-1].study, identity.series_uid, already_there=False,
            instances=len(stored),
        )  # fmt: skip

    def _already_there(self, slide: Path, identity: DicomIdentity) -> IngestedSeries | None:
        """Look for the largest level, which is stored last: where it is, the whole series is."""
        found = self.store.find_instance(identity.uid("level-0"))
        if found is None:
            return None
        return IngestedSeries(
            str(slide), found.series, found.study, identity.series_uid, already_there=True, instances=0
        )

    def _convert(
        self, slide: Path, options: SlideOptions, identity: DicomIdentity, folder: Path
    ) -> tuple[NamedFile, ...]:
        converted, completed, named = (folder / name for name in ("converted", "completed", "named"))
        for step in (converted, completed, named):
            step.mkdir()
        conversion = run_converter(
            self.converter(), slide, converted, mpp=options.mpp, labels=options.labels, report=self.report
        )
        files: Sequence[Path] = conversion.files
        # The converter passes tiles through unseen: what is wrong with them shows here.
        with _damage_told(slide.name):
            if needs_levels(files):
                self.report(Progress(Stage.LEVELS))
                files = complete_pyramid(files, completed)
                _remove(conversion.files)
            result = write_headers(files, named, identity)
        _remove(files)
        check_readable([file.path for file in result], slide.name)
        return result

    def _upload(self, files: Sequence[Path]) -> list[StoredInstance]:
        total = sum(file.stat().st_size for file in files)
        done = 0

        def sent(count: int) -> None:
            nonlocal done
            done += count
            self.report(Progress(Stage.UPLOAD, done, total))

        return [self.store.store(file, sent) for file in files]


def require_as_it_is(path: Path, options: SlideOptions) -> None:
    """Raise where options would change what is DICOM already."""
    if options != SlideOptions(labels=options.labels):
        raise IngestError(
            "bad_option",
            f"{path.name} is DICOM already and is stored as it is: leave --mpp and the options about "
            "patient, study and container away.",
        )


def require_file(slide: Path) -> None:
    """Raise where there is no file to convert."""
    if not slide.is_file():
        raise IngestError("unreadable", f"{slide} is a folder without DICOM files: name a slide file.")


def _of_derived(name: str) -> str:
    return (
        f"{name} has derived images only (no ImageType ORIGINAL\\PRIMARY\\VOLUME): it is stored to "
        "be looked at, and cannot be analysed. Ingest the original slide for that."
    )


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Make a sentence of what readers and decoders raise on a damaged slide."""
    try:
        yield
    except _UNREADABLE as error:
        raise IngestError(
            "unreadable",
            f"{name} cannot be read ({error}); it is damaged or incomplete: copy or export it again from the "
            "scanner.",
        ) from error


def check_readable(files: Sequence[Path], name: str | None = None) -> None:
    """Open the slide the way a worker will, before anybody else meets what is wrong with it.

    Parameters
    ----------
    files
        DICOM files of one slide.
    name
        What the user calls it; by default the name of the last file.

    Raises
    ------
    IngestError
        ``not_a_slide`` where no level is found, ``no_mpp`` where its resolution is missing, ``unreadable``
        where its tiles cannot be decoded.
    """
    name = name or files[-1].name
    with _damage_told(name), WsiDicom.open(list(files)) as wsi:
        if not list(wsi.pyramids):
            raise IngestError("not_a_slide", f"{name} holds no level of a slide (ImageType VOLUME).")
        spacing = wsi.pyramids[0].base_level.pixel_spacing
        if spacing is None or spacing.width <= 0:
            raise IngestError(
                "no_mpp",
                f"{name} does not say its resolution (PixelSpacing): export it again with it.",
            )
        wsi.read_tile(0, (0, 0), as_array=True)


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _local_failure(error: OSError) -> IngestError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return IngestError(
            "disk_full",
            "The disk is full: an ingest needs about twice the slide's size in the folder for temporary "
            "files; free some, or name another folder with --scratch.",
        )
    return IngestError(
        "unreadable", f"A file cannot be read or written ({error}): check path, rights and disk."
    )
