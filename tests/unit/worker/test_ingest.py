# SPDX-License-Identifier: Apache-2.0
"""Slide files on their way to DICOM: names, headers, the converter's process and its environment."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
import responses
from pydicom.encaps import generate_frames

from tests.support.odd_dicom import write_slide
from tests.support.shared_data import shared_path
from tests.support.slide_reading import real_slide
from tests.support.tiny_dicom import nested_sequences
from worker import cli
from worker.commands.ingest import environment_of_pip
from worker.ingest import convert
from worker.ingest.convert import run_converter
from worker.ingest.dicom_files import find_slides, is_dicom
from worker.ingest.environment import converter_python
from worker.ingest.errors import IngestError
from worker.ingest.headers import write_headers
from worker.ingest.identity import SlideOptions, identify
from worker.ingest.levels import complete_pyramid, needs_levels
from worker.ingest.pipeline import Ingest, check_readable
from worker.ingest.progress import Progress, Stage, silent
from worker.ingest.store import OrthancStore
from worker.ingest.stored_colours import photometric_interpretation

SLIDE = Path("S26-1.svs")
SHA = "ab" * 32


def test_the_help_says_that_a_worker_of_the_site_may_store_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ingest", "--help"])
    assert "ORTHANC_USER, who may store nothing where" in " ".join(capsys.readouterr().out.split())


def test_the_same_file_and_options_get_the_same_uids() -> None:
    one, two = (identify(SLIDE, SHA, SlideOptions(mpp=0.5)) for _ in range(2))
    assert one == two
    assert one.uid("level-0") == two.uid("level-0") != one.uid("level-1")


def test_a_corrected_resolution_makes_another_series() -> None:
    wrong, right = (identify(SLIDE, SHA, SlideOptions(mpp=mpp)) for mpp in (0.5, 0.25))
    assert wrong.series_uid != right.series_uid


def test_the_container_is_the_files_name_unless_said_otherwise() -> None:
    assert identify(SLIDE, SHA, SlideOptions()).container_id == "S26-1"
    assert identify(SLIDE, SHA, SlideOptions(container_id="A1")).container_id == "A1"
    assert identify(Path("a\\b\n.svs"), SHA, SlideOptions()).container_id == "a_b_"


def test_uids_are_valid() -> None:
    identity = identify(SLIDE, SHA, SlideOptions())
    for uid in (identity.study_uid, identity.series_uid, identity.uid("level-0")):
        assert pydicom.uid.UID(uid).is_valid


@pytest.mark.parametrize(
    ("encoding", "colours"), [("jpeg", "YBR_FULL_422"), ("jpeg-rgb", "RGB"), ("jpeg2000", None)]
)
def test_a_files_first_jpeg_frame_tells_the_colours_for_its_header(
    encoding: str, colours: str | None, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path, encoding=encoding)
    assert photometric_interpretation(path) == colours


@pytest.mark.parametrize(
    "options",
    [
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"patient_id": "a\\b"},
        {"patient_id": "x" * 65},
        {"accession_number": "x" * 17},
        {"study_uid": "1.2.x"},
        {"container_id": " "},
    ],
)
def test_options_that_dicom_cannot_hold_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(IngestError, match="--") as raised:
        SlideOptions(**options)  # type: ignore[arg-type]
    assert raised.value.code == "bad_option"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The real slide with all its levels and its headers written."""
    levels, headers = (tmp_path_factory.mktemp(name) for name in ("levels", "headers"))
    identity = identify(Path("CMU-1.svs"), SHA, SlideOptions(patient_id="P1", patient_name="Müller^Änne"))
    files = complete_pyramid(real_slide(), levels)
    return [file.path for file in write_headers(files, headers, identity)]


def test_a_single_large_level_gets_a_pyramid_of_whole_tiles(named: list[Path]) -> None:
    assert needs_levels(real_slide())
    assert not needs_levels(named)
    datasets = [pydicom.dcmread(path) for path in named]
    assert [item.TotalPixelMatrixColumns for item in datasets] == [139, 278, 555, 1110, 2220]
    for dataset in datasets:
        frames = generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames))
        assert {frame_size(frame) for frame in frames} == {(dataset.Rows, dataset.Columns)}


def frame_size(jpeg: bytes) -> tuple[int, int]:
    """Return (height, width) as a JPEG's frame header says."""
    start = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2") if marker in jpeg)
    return int.from_bytes(jpeg[start + 5 : start + 7], "big"), int.from_bytes(
        jpeg[start + 7 : start + 9], "big"
    )


def test_the_largest_level_is_stored_last_and_is_the_only_original(named: list[Path]) -> None:
    kinds = [list(pydicom.dcmread(path, stop_before_pixels=True).ImageType) for path in named]
    assert named[-1].stem == "level-0"
    assert kinds[-1] == ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    assert all(kind == ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] for kind in kinds[:-1])


def test_headers_say_whose_slide_it_is(named: list[Path]) -> None:
    for path in named:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert (header.PatientID, str(header.PatientName)) == ("P1", "Müller^Änne")
        assert (
            header.ContainerIdentifier == header.SpecimenDescriptionSequence[0].SpecimenIdentifier == "CMU-1"
        )
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PyramidUID"):
        assert len({pydicom.dcmread(path, stop_before_pixels=True)[keyword].value for path in named}) == 1


@pytest.mark.parametrize(
    ("scanned", "dated"),
    [
        ("20240305101112.000000", ("20240305", "101112")),
        ("20240305", ("20240305", "")),
        ("19700101000000", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_study_has_the_date_of_the_scan_or_none(
    tmp_path: Path, scanned: str, dated: tuple[str, str]
) -> None:
    dataset = pydicom.dcmread(real_slide()[0])
    dataset.AcquisitionDateTime = scanned
    dataset.save_as(tmp_path / "converted.dcm")
    out = tmp_path / "out"
    out.mkdir()
    identity = identify(Path("CMU-1.svs"), SHA, SlideOptions())
    (file,) = write_headers([tmp_path / "converted.dcm"], out, identity)
    header = pydicom.dcmread(file.path, stop_before_pixels=True)
    assert (header.StudyDate, header.StudyTime) == dated


def test_pixel_data_is_copied_as_it_is(named: list[Path]) -> None:
    before, after = pydicom.dcmread(real_slide()[0]), pydicom.dcmread(named[-1])
    assert list(generate_frames(after.PixelData, number_of_frames=130)) == list(
        generate_frames(before.PixelData, number_of_frames=130)
    )


def test_a_finished_slide_is_readable(named: list[Path]) -> None:
    check_readable(named)


ScriptedConverter = Callable[[str], None]


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedConverter:
    """Put a script of the test's in place of the converter's."""

    def install(text: str) -> None:
        script = tmp_path / "script.py"
        script.write_text("import json, os, sys\njob = json.load(sys.stdin)\n" + textwrap.dedent(text))
        monkeypatch.setattr(convert, "SCRIPT", script)

    return install


URL = "http://127.0.0.1:8042"


def cut_off(folder: Path) -> Path:
    """Return a DICOM slide whose copy ended early."""
    (whole,) = write_slide(folder, encoding="jpeg")
    path = folder / "cut.dcm"
    path.write_bytes(whole.read_bytes()[:-20_000])
    return path


def accept_slides(http: responses.RequestsMock) -> None:
    """Let Orthanc take whatever it is sent."""
    stored = {"ID": "i1", "ParentSeries": "s1", "ParentStudy": "p1", "Status": "Success"}
    http.get(f"{URL}/system", json={})
    http.post(f"{URL}/instances", json=stored)


def test_a_damaged_slide_is_a_sentence_and_does_not_keep_the_next_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORTHANC_URL", URL)
    damaged, (good,) = cut_off(tmp_path), write_slide(tmp_path, encoding="jpeg")
    with responses.RequestsMock() as http:
        accept_slides(http)
        assert cli.main(["ingest", "--json", str(damaged), str(good)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [slide["path"] for slide in printed["slides"]] == [str(good)]
    (failed,) = printed["failed"]
    assert (failed["path"], failed["code"]) == (str(damaged), "unreadable")
    assert "cut.dcm cannot be read" in failed["error"]
    assert "copy or export it again" in failed["error"]


def test_damage_that_shows_only_while_levels_are_added_names_the_users_file(
    converter: ScriptedConverter, tmp_path: Path
) -> None:
    content = bytearray(real_slide()[0].read_bytes())
    holes = tmp_path / "holes.dcm"
    holes.write_bytes(content[:300_000] + bytes(100_000) + content[400_000:])
    converter(f"print(json.dumps({{'event': 'done', 'files': [{str(holes)!r}]}}))")
    slide = tmp_path / "S26-1.svs"
    slide.write_bytes(b"a slide")
    ingest = Ingest(OrthancStore(URL, None), lambda: Path(sys.executable), silent)
    with responses.RequestsMock() as http:
        http.get(f"{URL}/system", json={})
        http.post(f"{URL}/tools/lookup", json=[])
        with pytest.raises(
            IngestError, match=r"S26-1\.svs cannot be read .*copy or export it again"
        ) as raised:
            ingest.run(slide, SlideOptions())
    assert raised.value.code == "unreadable"


def test_a_file_that_is_nested_deeper_than_python_goes_is_called_damaged(tmp_path: Path) -> None:
    (path,) = write_slide(tmp_path, encoding="jpeg")
    content = path.read_bytes()
    at = content.index(b"\x48\x00\x01\x00FL")
    path.write_bytes(content[:at] + nested_sequences(2000, ends=True) + content[at:])
    ingest = Ingest(OrthancStore(URL, None), lambda: Path(sys.executable), silent)
    with responses.RequestsMock() as http:
        http.get(f"{URL}/system", json={})
        with pytest.raises(IngestError, match="is damaged DICOM") as raised:
            ingest.run(path, SlideOptions())
    assert raised.value.code == "unreadable"


def test_a_file_that_orthanc_cannot_read_is_called_damaged(tmp_path: Path) -> None:
    (path,) = write_slide(tmp_path, encoding="jpeg")
    ingest = Ingest(OrthancStore(URL, None), lambda: Path(sys.executable), silent)
    with responses.RequestsMock() as http:
        http.get(f"{URL}/system", json={})
        http.post(f"{URL}/instances", status=400, json={"Details": "Bad file format"})
        with pytest.raises(IngestError, match=r"as DICOM \(Bad file format\): it is damaged") as raised:
            ingest.run(path, SlideOptions())
    assert raised.value.code == "unreadable"


@pytest.mark.parametrize(("kind", "is_told"), [("DERIVED", True), ("ORIGINAL", False)])
def test_of_a_slide_that_cannot_be_analysed_since_it_is_derived_ingest_says_so(
    tmp_path: Path, kind: str, is_told: bool
) -> None:
    (path,) = write_slide(tmp_path, encoding="jpeg")
    dataset = pydicom.dcmread(path)
    dataset.ImageType = [kind, "PRIMARY", "VOLUME", "NONE"]
    dataset.save_as(path)
    told: list[Progress] = []
    stored = {"ID": "i", "ParentSeries": "s", "ParentStudy": "t", "Status": "Success"}
    ingest = Ingest(OrthancStore(URL, None), lambda: Path(sys.executable), told.append)
    with responses.RequestsMock() as http:
        http.get(f"{URL}/system", json={})
        http.post(f"{URL}/instances", json=stored)
        ingest.run(path, SlideOptions())
    assert any("cannot be analysed" in progress.note for progress in told) is is_told


def test_labels_and_thumbnails_of_dicom_slides_stay_out_unless_asked_for() -> None:
    folder = shared_path("slides/dicom-cmu-1-small-region")
    (plain,) = find_slides(folder, labels=False)
    (full,) = find_slides(folder, labels=True)
    assert (len(plain.files), plain.left_out) == (1, 3)
    assert (len(full.files), full.left_out) == (3, 1)


@pytest.mark.parametrize(
    "name", ["label_only_volume_missing", "hd_sm_annotations", "slide_coordinates_not_wsi"]
)
def test_dicom_without_a_slide_is_refused(name: str) -> None:
    with pytest.raises(IngestError) as raised:
        find_slides(shared_path(f"slides/dicom-misc/{name}.dcm"), labels=False)
    assert raised.value.code == "not_a_slide"


def test_dicom_is_told_by_its_content(tmp_path: Path) -> None:
    assert is_dicom(shared_path("slides/dicom-cmu-1-small-region"))
    assert not is_dicom(shared_path("slides/CMU-1-Small-Region.svs"))
    assert not is_dicom(tmp_path)


def run(tmp_path: Path, report: Callable[[Progress], None] = silent) -> convert.Conversion:
    return run_converter(
        Path(sys.executable), tmp_path / "slide.svs", tmp_path, mpp=0.5, labels=False, report=report
    )


def test_the_converters_progress_is_passed_on(converter: ScriptedConverter, tmp_path: Path) -> None:
    converter(
        """
        print('{"event": "opened", "reader": "opentile", "mpp": 0.5, "levels": [[1, 1]], "tiles": 4}')
        print("a library's chatter")
        print('{"event": "progress", "done": 4, "total": 4}')
        print(json.dumps({"event": "done", "files": [job["out"] + "/a.dcm"]}))
        """
    )
    seen: list[Progress] = []
    conversion = run(tmp_path, seen.append)
    assert conversion.files == (tmp_path / "a.dcm",)
    assert [(item.stage, item.done, item.total) for item in seen] == [
        (Stage.CONVERT, 0, 4),
        (Stage.CONVERT, 4, 4),
    ]


def test_the_converters_error_is_ours(converter: ScriptedConverter, tmp_path: Path) -> None:
    converter('print(json.dumps({"event": "error", "code": "no_mpp", "message": "Give --mpp."}))')
    with pytest.raises(IngestError, match="Give --mpp") as raised:
        run(tmp_path)
    assert raised.value.code == "no_mpp"


@pytest.mark.parametrize(
    ("name", "content", "code", "sentence"),
    [
        ("a.svs", b"II*\0 cut off", "unreadable", "a.svs is damaged or incomplete: compare its size"),
        ("a.ndpi", b"", "unreadable", "a.ndpi is empty: compare its size"),
        ("a.tif", b"II*\0 a photograph", "unreadable", "or it is a picture without tiles"),
        ("a.txt", b"notes", "unknown_format", "no known format"),
    ],
)
def test_a_slide_that_no_reader_takes_is_called_damaged_and_another_file_is_not(
    converter: ScriptedConverter, tmp_path: Path, name: str, content: bytes, code: str, sentence: str
) -> None:
    error = {"event": "error", "code": "unknown_format", "message": "It is of no known format."}
    converter(f"print(json.dumps({error}))")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IngestError, match=re.escape(sentence)) as raised:
        run_converter(Path(sys.executable), tmp_path / name, tmp_path, mpp=None, labels=False, report=silent)
    assert raised.value.code == code


def test_a_converter_that_dies_is_a_sentence(converter: ScriptedConverter, tmp_path: Path) -> None:
    converter("os.kill(os.getpid(), 9)")
    with pytest.raises(IngestError, match="signal 9, often too little memory"):
        run(tmp_path)
    converter("sys.exit('boom')")
    with pytest.raises(IngestError, match=r"code 1 on slide.svs \(boom\)"):
        run(tmp_path)


def test_a_chosen_interpreter_without_the_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="lacks wsidicomizer"):
        converter_python(Path(sys.executable), silent)
    with pytest.raises(IngestError, match="cannot be run"):
        converter_python(tmp_path / "nothing", silent)


@pytest.mark.slow
def test_packages_that_cannot_be_installed_are_a_sentence_and_leave_nothing(tmp_path: Path) -> None:
    requirements = tmp_path / "converter.txt"
    requirements.write_text("./no-such-package\n")
    folder = tmp_path / "cache"
    with pytest.raises(IngestError, match=r"cannot be installed.*CONVERTER_PYTHON") as raised:
        converter_python(None, silent, folder=folder, requirements=requirements)
    assert raised.value.code == "converter_unavailable"
    assert list(folder.iterdir()) == []


def test_the_hospitals_authority_is_not_pips() -> None:
    settings = {"REQUESTS_CA_BUNDLE": "/etc/hospital.pem", "HTTPS_PROXY": "http://proxy:3128"}
    assert environment_of_pip({"PATH": "/bin", **settings}, settings) == {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    for_all = {"REQUESTS_CA_BUNDLE": "/etc/all.pem"}
    assert environment_of_pip(for_all, settings) == for_all


@pytest.mark.slow
def test_the_environment_is_made_once(tmp_path: Path) -> None:
    requirements = tmp_path / "converter.txt"
    requirements.write_text("# nothing\n")
    notes: list[Progress] = []
    log = tmp_path / "pip.log"
    first = converter_python(
        None,
        notes.append,
        folder=tmp_path / "cache",
        requirements=requirements,
        environ={**os.environ, "PIP_LOG": str(log)},
    )
    second = converter_python(None, notes.append, folder=tmp_path / "cache", requirements=requirements)
    assert first == second
    assert first.exists()
    assert log.exists(), "pip did not get the environment"
    assert len(notes) == 1
