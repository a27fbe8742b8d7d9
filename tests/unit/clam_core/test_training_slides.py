# SPDX-License-Identifier: Apache-2.0
"""Training straight from slides: read as an analysis reads them, extracted once, refused by name."""

from pathlib import Path

import numpy as np
import pytest

from clam_core.cli import main
from clam_core.errors import ParameterError
from clam_core.model import LoadedModel, load_model
from clam_core.options import AnalysisOptions
from clam_core.package import demo_package_path, load_package
from clam_core.pipeline import analyze_slide
from clam_core.slides import open_slide
from clam_core.training import extraction
from clam_core.training.dataset import LabelledSlide, read_features
from clam_core.training.extraction import Extraction, extracted, find_slide
from tests.support.shared_data import shared_path


@pytest.fixture(scope="module")
def slide() -> Path:
    return shared_path("slides/CMU-1-Small-Region.svs")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(load_package(demo_package_path()), "cpu")


def test_features_are_those_of_an_analysis_and_are_extracted_once(
    slide: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Extraction(model.package, model.encoder, AnalysisOptions())
    rows = [LabelledSlide("p", "small", 0, slide)]
    first = extracted(rows, tmp_path, how)[0]
    with open_slide(slide) as opened:
        wanted = analyze_slide(opened, model).features
    np.testing.assert_array_equal(read_features(first.path), wanted)
    monkeypatch.setattr(extraction, "open_slide", lambda _: pytest.fail("the slide was read again"))
    assert extracted(rows, tmp_path, how)[0] == first


def test_other_patches_are_other_features(slide: Path, model: LoadedModel) -> None:
    plain = Extraction(model.package, model.encoder, AnalysisOptions())
    finer = Extraction(model.package, model.encoder, AnalysisOptions(mpp=0.25))
    assert plain.identity(slide) != finer.identity(slide)


def test_a_file_that_is_no_slide_is_refused_by_its_name(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "s1.svs").write_bytes(b"no slide")
    how = Extraction(model.package, model.encoder, AnalysisOptions())
    with pytest.raises(ParameterError, match=r"s1\.svs cannot be learnt from"):
        extracted([LabelledSlide("p", "s1", 0, tmp_path / "s1.svs")], tmp_path / "features", how)


def test_a_slide_is_found_by_its_name_with_or_without_ending(tmp_path: Path) -> None:
    for name in ("a.svs", "b.svs", "b.tiff"):
        (tmp_path / name).touch()
    assert find_slide(tmp_path, "a") == find_slide(tmp_path, "a.svs") == tmp_path / "a.svs"
    with pytest.raises(ParameterError, match=r"several slides b \(b\.svs, b\.tiff\)"):
        find_slide(tmp_path, "b")
    with pytest.raises(ParameterError, match="no slide c"):
        find_slide(tmp_path, "c")


def test_a_folder_of_slides_becomes_a_package_bound_to_its_encoder(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    rows = ["patient,slide,label"]
    for number in range(4):
        (tmp_path / "slides" / f"s{number}.svs").symlink_to(slide.resolve())
        rows.append(f"P{number},s{number},{['normal', 'tumour'][number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    code = main(
        [
            "train", "--slides", str(tmp_path / "slides"), "--labels", str(tmp_path / "labels.csv"),
            "--out", str(tmp_path / "model"), "--classes", "normal,tumour", "--aggregator", "abmil",
            "--encoder", "efficientnet-lite0", "--patch-px", "224", "--mpp", "1.0", "--device", "cpu",
            "--tissue-preset", "bwh_biopsy", "--intended-use", "Tests.", "--licence-checkpoint", "MIT",
            "--licence-data", "MIT", "--folds", "2", "--max-epochs", "1", "--min-epochs", "1",
        ]
    )  # fmt: skip
    assert code == 0
    package = load_package(tmp_path / "model")
    assert package.encoder.sha256 == package.load_encoder().sha256
    assert "ABMIL on features of efficientnet-lite0" in (tmp_path / "model" / "MODEL_CARD.md").read_text()
