# SPDX-License-Identifier: Apache-2.0
"""Slide files into a real Orthanc, by the real converter, and out again."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image
from wsidicom import WsiDicom

from clam_core.slides import WsiDicomSlide
from tests.support.orthanc_server import OrthancServer
from tests.support.shared_data import shared_path
from worker.cli import main
from worker.ingest import pipeline
from worker.ingest.environment import converter_python
from worker.ingest.errors import IngestError
from worker.ingest.identity import SlideOptions
from worker.ingest.pipeline import Ingest, IngestedSeries
from worker.ingest.progress import Progress, Stage, silent
from worker.ingest.store import OrthancStore
from worker.settings import Credentials

pytestmark = [pytest.mark.server, pytest.mark.slow]

CMU = "slides/CMU-1-Small-Region.svs"
TCGA = "slides/TCGA-CR-7395-01A-01-TS1.svs"


@pytest.fixture(scope="session")
def converter() -> Path:
    """The converter's environment, installed by the first test that needs it."""
    try:
        return converter_python(None, silent)
    except IngestError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server() -> Iterator[OrthancServer]:
    with OrthancServer() as running:
        yield running


@pytest.fixture
def ingest(server: OrthancServer, converter: Path) -> Iterator[Ingest]:
    store = OrthancStore(server.url, Credentials(*server.person))
    yield Ingest(store, lambda: converter, silent)
    store.close()


def files_of(server: OrthancServer, series: IngestedSeries, folder: Path) -> list[Path]:
    """Fetch the stored files of a series."""
    paths = []
    for instance in server.get(f"/series/{series.series}").json()["Instances"]:
        paths.append(folder / f"{instance}.dcm")
        paths[-1].write_bytes(server.get(f"/instances/{instance}/file").content)
    return paths


def difference(files: list[Path], slide: Path, place: tuple[int, int]) -> float:
    """Return the mean difference of a region as stored from the region that OpenSlide reads."""
    with WsiDicomSlide(WsiDicom.open(files)) as stored, openslide.OpenSlide(slide) as original:
        ours = stored.read_region(place, 0, (600, 600)).astype(np.int16)
        theirs = np.asarray(original.read_region(place, 0, (600, 600)).convert("RGB"), np.int16)
    return float(np.abs(ours - theirs).mean())


def differences_by_level(files: list[Path], slide: Path) -> list[float]:
    """Return, for each level as a whole, the mean difference from what OpenSlide's picture shrinks to."""
    with WsiDicomSlide.open(files) as stored, openslide.OpenSlide(slide) as original:
        picture = original.read_region((0, 0), 0, original.dimensions).convert("RGB")
        found = []
        for index, level in enumerate(stored.levels):
            size = (level.width, level.height)
            theirs = np.asarray(picture.resize(size, Image.Resampling.BOX), np.int16)
            ours = stored.read_region((0, 0), index, size).astype(np.int16)
            found.append(float(np.abs(ours - theirs).mean()))
        return found


def validator_errors(files: list[Path]) -> list[str]:
    """Return what an independent validator calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")
    found = [
        subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
        for path in files
    ]
    return [line for text in found for line in text.splitlines() if line.startswith("Error")]


def test_an_svs_keeps_its_pixels_and_gets_a_pyramid(
    server: OrthancServer, ingest: Ingest, tmp_path: Path
) -> None:
    slide = shared_path(CMU)
    (series,) = ingest.run(slide, SlideOptions())
    assert (series.already_there, series.instances) == (False, 5)
    files = files_of(server, series, tmp_path)
    assert difference(files, slide, (700, 900)) == 0
    # Added levels are another kind of JPEG than the scanner's; under the wrong header they look salmon.
    assert max(differences_by_level(files, slide)) < 10
    with WsiDicomSlide.open(files) as stored:
        assert [level.width for level in stored.levels] == [2220, 1110, 555, 278, 139]
        assert stored.mpp == (0.499, 0.499)
        assert stored.identity.container_id == "CMU-1-Small-Region"
    assert validator_errors(files) == []


def test_the_same_file_twice_is_one_series(server: OrthancServer, ingest: Ingest) -> None:
    (first,) = ingest.run(shared_path(CMU), SlideOptions())
    before = len(server.get("/instances").json())
    (second,) = ingest.run(shared_path(CMU), SlideOptions())
    assert second.already_there
    assert second.series == first.series
    assert len(server.get("/instances").json()) == before


def test_a_series_whose_largest_level_is_missing_is_completed(server: OrthancServer, ingest: Ingest) -> None:
    options = SlideOptions(patient_id="INTERRUPTED")
    (series,) = ingest.run(shared_path(CMU), options)
    instances = server.get(f"/series/{series.series}/instances").json()
    sizes = {
        item["ID"]: server.get(f"/instances/{item['ID']}/attachments/dicom/size").json() for item in instances
    }
    largest = max(sizes, key=lambda name: sizes[name])
    server.request("DELETE", f"/instances/{largest}").raise_for_status()
    (again,) = ingest.run(shared_path(CMU), options)
    assert again.series == series.series
    assert not again.already_there
    assert len(server.get(f"/series/{again.series}").json()["Instances"]) == 5


def test_labels_are_stored_only_when_asked_for(server: OrthancServer, ingest: Ingest) -> None:
    (series,) = ingest.run(shared_path(CMU), SlideOptions(labels=True))
    kinds = [
        server.get(f"/instances/{instance}/content/0008-0008").text.split("\\")[2]
        for instance in server.get(f"/series/{series.series}").json()["Instances"]
    ]
    assert sorted(kinds) == ["LABEL", "OVERVIEW", *["VOLUME"] * 5]


def test_a_file_without_resolution_is_refused_with_a_way_out(
    server: OrthancServer, ingest: Ingest, tmp_path: Path
) -> None:
    slide = shared_path(TCGA)
    with pytest.raises(IngestError, match=r"--mpp 0\.25 for a 40x scan") as raised:
        ingest.run(slide, SlideOptions())
    assert raised.value.code == "no_mpp"
    (series,) = ingest.run(slide, SlideOptions(mpp=0.5))
    files = files_of(server, series, tmp_path)
    assert difference(files, slide, (1500, 1500)) == 0
    with WsiDicomSlide.open(files) as stored:
        assert stored.mpp == (0.5, 0.5)
    assert validator_errors(files) == []


def test_a_tiff_that_only_openslide_reads_is_compressed_anew(
    server: OrthancServer, ingest: Ingest, tmp_path: Path
) -> None:
    slide = shared_path("slides/composite_a.tiff")
    (series,) = ingest.run(slide, SlideOptions())
    files = files_of(server, series, tmp_path)
    assert difference(files, slide, (2000, 2000)) < 3
    with WsiDicomSlide.open(files) as stored:
        assert [level.width for level in stored.levels] == [8200, 2050, 512, 128]
    assert validator_errors(files) == []


def test_a_folder_of_dicom_is_stored_as_it_is(server: OrthancServer, ingest: Ingest) -> None:
    folder = shared_path("slides/dicom-cmu-1-small-region")
    (series,) = ingest.run(folder, SlideOptions())
    assert series.instances == 1
    assert ingest.run(folder, SlideOptions())[0].already_there
    with pytest.raises(IngestError, match="is DICOM already"):
        ingest.run(folder, SlideOptions(patient_id="P1"))


def test_progress_reaches_its_end_in_every_stage(server: OrthancServer, converter: Path) -> None:
    seen: list[Progress] = []
    store = OrthancStore(server.url, Credentials(*server.person))
    Ingest(store, lambda: converter, seen.append).run(shared_path(CMU), SlideOptions(patient_id="PROGRESS"))
    store.close()
    for stage in (Stage.CONVERT, Stage.UPLOAD):
        last = [item for item in seen if item.stage is stage][-1]
        assert last.done == last.total > 0


@pytest.mark.parametrize(("name", "content"), [("notes.svs", b"no slide"), ("empty.tiff", b"")])
def test_what_is_no_slide_is_refused(name: str, content: bytes, ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IngestError, match=name) as raised:
        ingest.run(tmp_path / name, SlideOptions())
    assert raised.value.code in {"unknown_format", "unreadable"}


def test_a_cut_off_slide_is_refused(ingest: Ingest, tmp_path: Path) -> None:
    cut = tmp_path / "cut.svs"
    cut.write_bytes(shared_path(CMU).read_bytes()[:700_000])
    with pytest.raises(IngestError) as raised:
        ingest.run(cut, SlideOptions())
    assert raised.value.code in {"unknown_format", "unreadable", "converter_failed"}


def test_a_wrong_password_and_a_missing_server_are_sentences(server: OrthancServer, converter: Path) -> None:
    for url, password, code in (
        (server.url, "wrong", "orthanc_unauthorized"),
        ("http://127.0.0.1:9", server.person[1], "orthanc_unreachable"),
    ):
        store = OrthancStore(url, Credentials(server.person[0], password))
        with pytest.raises(IngestError) as raised:
            Ingest(store, lambda: converter, silent).run(shared_path(CMU), SlideOptions())
        assert raised.value.code == code
        store.close()


def test_a_worker_may_not_store_slides(server: OrthancServer, converter: Path) -> None:
    store = OrthancStore(server.url, Credentials(*server.worker))
    with pytest.raises(IngestError, match="person's user") as raised:
        Ingest(store, lambda: converter, silent).run(shared_path(CMU), SlideOptions(patient_id="WORKER"))
    assert raised.value.code == "orthanc_refused"
    store.close()


def test_a_full_disk_is_a_sentence(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipeline, "run_converter", full)
    with pytest.raises(IngestError, match="--scratch") as raised:
        ingest.run(shared_path(CMU), SlideOptions(patient_id="FULL"))
    assert raised.value.code == "disk_full"


def test_the_command_prints_what_scripts_need_and_goes_on_after_a_failure(
    server: OrthancServer,
    converter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORTHANC_URL", server.url)
    monkeypatch.setenv("SUBMIT_USER", server.person[0])
    monkeypatch.setenv("SUBMIT_PASSWORD", server.person[1])
    monkeypatch.setenv("CONVERTER_PYTHON", str(converter))
    code = main(["ingest", "--json", "missing.svs", str(shared_path(CMU))])
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert code == 1
    assert document["series"] == document["slides"][0]["series"]
    assert document["failed"][0]["code"] == "unreadable"
    assert "There is no file missing.svs" in output.err
