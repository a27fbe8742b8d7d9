# SPDX-License-Identifier: Apache-2.0
"""The way from a slide to a result, with a model that has no weights; then with the reference's own."""

import io
import json
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from clam_core.device import select_device
from clam_core.encoders import Precision
from clam_core.encoding import BATCHES_AHEAD, FittingEncoder, encode_patches, read_ahead
from clam_core.errors import (
    AnalysisStopped,
    ClamCoreError,
    FramesMissingError,
    MissingMppError,
    NonFiniteError,
    NoTissueError,
    OutOfMemoryError,
    ParameterError,
    SlideError,
)
from clam_core.explanation import attention_shares, overlay_side
from clam_core.heatmap.picture import MARGIN
from clam_core.model import load_model
from clam_core.models.prediction import prediction_from
from clam_core.options import AnalysisOptions, Reference
from clam_core.patches import PatchFile, PatchPlan
from clam_core.pipeline import STAGES, analyze_slide
from clam_core.quality import Quality
from tests.support.core_fakes import (
    ArraySlide,
    FakeModel,
    MeanColourEncoder,
    RednessPredictor,
    blank,
    glass_with_tissue,
)

OF_AN_UNKNOWN_SLIDE = [stage for stage in STAGES if stage != "known"]


@pytest.fixture(scope="module")
def analysis() -> Any:
    return analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(), device="cpu")


def test_result_has_the_agreed_shape(analysis: Any) -> None:
    result = json.loads(json.dumps(analysis.to_result(), allow_nan=False))
    assert result["predicted_class"] == "red"
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["patches"] == {
        "count": len(analysis.coordinates),
        "size_px": 128,
        "level_mpp": 0.5,
        "tissue_mm2": pytest.approx(np.pi * (2048 // 3) * (1536 // 3) * 0.25e-6, rel=0.03),
    }
    assert set(result["slide"]) >= {"series_instance_uid", "frame_of_reference_uid", "container_id"}
    assert (result["slide"]["width"], result["slide"]["height"], result["slide"]["mpp"]) == (
        2048,
        1536,
        [0.5, 0.5],
    )
    assert result["model"]["encoder"] == {"name": "mean-colour", "sha256": "0" * 64}
    assert result["model"]["use"] == "demonstration"
    assert result["quality"] == {"status": "ok", "flags": [], "reason": ""}
    assert list(result["timings_s"]) == OF_AN_UNKNOWN_SLIDE
    assert result["software"]["device"] == "cpu"
    assert result["parameters"] == {}


def test_every_patch_has_its_features_and_share(analysis: Any) -> None:
    count = len(analysis.coordinates)
    assert analysis.features.shape == (count, 3)
    assert analysis.attention.shape == (count,)
    assert analysis.attention.sum() == pytest.approx(1)
    assert analysis.percentiles.max() == 100


def test_top_patches_come_most_attended_first_and_the_first_few_as_pictures(analysis: Any) -> None:
    attention = [patch.attention for patch in analysis.top_patches]
    assert attention == sorted(attention, reverse=True)
    assert len(attention) == min(100, len(analysis.coordinates))
    pictures = [patch.picture is not None for patch in analysis.top_patches]
    assert pictures == [True] * 8 + [False] * (len(pictures) - 8)
    assert analysis.top_patches[0].percentile == 100


def test_artifacts_are_those_that_the_result_names(analysis: Any) -> None:
    artifacts = analysis.artifacts()
    assert list(artifacts) == analysis.to_result()["artifacts"]
    named = ["heatmap.png", "overlay.png", "thumbnail.png", "attention.npz", "attention.h5"]
    assert list(artifacts)[:5] == named
    overlay = Image.open(io.BytesIO(artifacts["overlay.png"]))
    assert (overlay.mode, overlay.info["transparency"][0], overlay.size) == ("P", 0, (2048, 1536))
    assert Image.open(io.BytesIO(artifacts["patch-001.jpg"])).size == (128, 128)
    held = np.load(io.BytesIO(artifacts["attention.npz"]))
    assert np.array_equal(held["coords"], analysis.coordinates)
    assert np.array_equal(held["attention"], analysis.attention)


def test_the_thumbnail_is_the_slide_as_it_stands_on_the_page(analysis: Any) -> None:
    shown = np.asarray(Image.open(io.BytesIO(analysis.artifacts()["thumbnail.png"])))
    assert shown.shape == (825, 1100, 3)
    page = np.asarray(analysis.heatmap)[MARGIN:, MARGIN:][:825, :1100]
    # The page has a scale bar at the lower left.
    assert np.array_equal(shown[:700], page[:700])


@pytest.mark.parametrize(
    ("side", "patch", "pixels"), [(15_872, 448, 2268), (100_000, 512, 4096), (3_000, 448, 2200)]
)
def test_the_overlay_is_as_fine_as_its_patches_and_the_page_need(side: int, patch: int, pixels: int) -> None:
    assert overlay_side((side, side // 2), (patch, patch), AnalysisOptions()) == pixels


def test_the_raw_attention_is_kept_in_the_layout_that_clam_has(analysis: Any) -> None:
    with h5py.File(io.BytesIO(analysis.artifacts()["attention.h5"])) as file:
        assert set(file) == {"attention_scores", "coords"}
        assert file["coords"].dtype == np.int64
        assert np.array_equal(file["coords"][:], analysis.coordinates)
        assert file["attention_scores"].shape == (len(analysis.coordinates), 1)
        assert np.array_equal(file["attention_scores"][:, 0], analysis.prediction.attention)


def test_saving_writes_result_and_artifacts(analysis: Any, tmp_path: Path) -> None:
    written = analysis.save(tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["result.json", *analysis.artifacts()]
    assert json.loads(written[0].read_text())["predicted_class"] == "red"


def test_same_slide_twice_gives_the_same_bytes(analysis: Any) -> None:
    again = analyze_slide(
        ArraySlide(glass_with_tissue()), FakeModel(), device="cpu", options=AnalysisOptions(readers=1)
    )
    assert again.artifacts() == analysis.artifacts()
    first, second = analysis.to_result(), again.to_result()
    assert {**first, "timings_s": None} == {**second, "timings_s": None}


def test_batch_size_does_not_change_the_result(analysis: Any) -> None:
    options = AnalysisOptions(batch_size=7)
    again = analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(), device="cpu", options=options)
    assert np.array_equal(again.features, analysis.features)


def test_loaded_model_serves_many_slides() -> None:
    encoder = MeanColourEncoder()
    loaded = load_model(FakeModel(encoder=encoder), "cpu")
    for _ in range(2):
        assert analyze_slide(ArraySlide(glass_with_tissue()), loaded).predicted_class == "red"
    assert encoder.batches[: len(encoder.batches) // 2] * 2 == encoder.batches


def test_progress_goes_through_all_stages_to_their_ends() -> None:
    seen: list[tuple[str, int, int]] = []
    analyze_slide(
        ArraySlide(glass_with_tissue()),
        FakeModel(),
        device="cpu",
        options=AnalysisOptions(batch_size=16),
        progress=lambda *step: seen.append(step),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == OF_AN_UNKNOWN_SLIDE
    for stage in OF_AN_UNKNOWN_SLIDE:
        done = [d for s, d, _ in seen if s == stage]
        total = {t for s, _, t in seen if s == stage}
        assert done == sorted(done)
        assert {done[-1]} == total


def test_caller_can_stop_it_and_nobody_reads_the_slide_afterwards() -> None:
    slide = ArraySlide(glass_with_tissue())
    encoder = MeanColourEncoder()
    with pytest.raises(AnalysisStopped) as caught, slide:
        analyze_slide(
            slide,
            FakeModel(encoder=encoder),
            device="cpu",
            options=AnalysisOptions(batch_size=8),
            should_stop=lambda: len(encoder.batches) >= 2,
        )
    assert caught.value.code == "stopped"
    assert len(encoder.batches) == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patches")]


class SparseSlide(ArraySlide):
    """A slide whose level 0 lacks all tiles from a column on, and whose smaller levels are whole."""

    def __init__(self, pixels: np.ndarray, stored_up_to: int) -> None:
        super().__init__(pixels, levels=4)
        self._pixels[0] = self._pixels[0].copy()
        self._pixels[0][:, stored_up_to:] = 255
        self._end = stored_up_to

    def is_stored(self, location: tuple[int, int], level: int, _size: tuple[int, int]) -> bool:
        return level > 0 or location[0] < self._end


def test_tissue_without_tiles_is_no_glass_but_a_part_that_is_missing() -> None:
    with pytest.raises(FramesMissingError, match=r"\d+ of \d+ patches have no tile on level 0: .* again"):
        analyze_slide(SparseSlide(glass_with_tissue(), 1024), FakeModel(), device="cpu")


def test_tiles_that_only_bare_glass_lacks_are_not_missed() -> None:
    slide = SparseSlide(glass_with_tissue(), 2048 * 7 // 8)
    assert analyze_slide(slide, FakeModel(), device="cpu").predicted_class == "red"


def test_blank_slide_is_reported_as_no_tissue() -> None:
    with pytest.raises(NoTissueError, match="preset"):
        analyze_slide(ArraySlide(blank(2000, 1500)), FakeModel(), device="cpu")


@pytest.mark.parametrize(("tried", "advised"), [("bwh_biopsy", "tcga"), ("tcga", "bwh_biopsy")])
def test_where_no_tissue_is_found_another_preset_is_advised(tried: str, advised: str) -> None:
    options = AnalysisOptions(tissue_preset=tried)
    with pytest.raises(NoTissueError, match=f"'{tried}'.* such as {advised} .*tissue_preset={advised};"):
        analyze_slide(ArraySlide(blank(2000, 1500)), FakeModel(), device="cpu", options=options)


def test_slide_without_spacing_is_refused_and_with_the_users_goes_on() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=None)
    with pytest.raises(MissingMppError):
        analyze_slide(slide, FakeModel(), device="cpu")
    found = analyze_slide(slide, FakeModel(), device="cpu", options=AnalysisOptions(mpp=0.5))
    assert found.to_result()["slide"]["mpp"] == [0.5, 0.5]
    assert found.to_result()["parameters"] == {"mpp": 0.5}
    assert found.flags == ()


def test_users_spacing_wins_over_the_slides_and_is_flagged() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=(0.5, 0.5))
    found = analyze_slide(slide, FakeModel(), device="cpu", options=AnalysisOptions(mpp=0.4))
    assert found.flags == ("mpp_overridden",)
    assert found.slide.mpp == (0.4, 0.4)


@pytest.mark.parametrize(
    ("mpp", "flags"), [((0.5, 0.5), ()), ((0.456, 0.455), ()), ((0.438, 0.569), ("pixels_not_square",))]
)
def test_pixels_that_are_not_square_are_flagged(mpp: tuple[float, float], flags: tuple[str, ...]) -> None:
    found = analyze_slide(ArraySlide(glass_with_tissue(), mpp=mpp), FakeModel(), device="cpu")
    assert found.flags == flags


def test_reference_mode_goes_on_without_spacing_and_says_so() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=None)
    options = AnalysisOptions(reference=Reference.PATCHING)
    found = analyze_slide(slide, FakeModel(), device="cpu", options=options)
    assert found.flags == ("mpp_unknown",)
    assert found.to_result()["patches"]["tissue_mm2"] is None


def test_patches_of_another_size_than_the_models_are_flagged() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=(0.5, 0.5))
    given = PatchFile("laid.h5", np.array([[256, 256]]), 256, 0, None)
    found = analyze_slide(slide, FakeModel(), device="cpu", options=AnalysisOptions(patches=given))
    assert found.flags == ("patch_size_mismatch",)
    assert found.plan.footprint == (256, 256)


def test_half_precision_is_flagged() -> None:
    encoder = MeanColourEncoder()
    encoder.precision = Precision.BFLOAT16
    found = analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(encoder=encoder), device="cpu")
    assert found.flags == ("half_precision",)


def test_reference_mode_flags_another_magnification_than_the_models() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=(0.25, 0.25))
    options = AnalysisOptions(reference=Reference.PATCHING)
    found = analyze_slide(slide, FakeModel(), device="cpu", options=options)
    assert found.flags == ("mpp_mismatch",)
    assert found.plan.footprint == (128, 128)


def test_coarse_slide_is_flagged() -> None:
    slide = ArraySlide(glass_with_tissue(), mpp=(0.9, 0.9))
    found = analyze_slide(slide, FakeModel(), device="cpu")
    assert found.flags == ("mpp_coarser_than_model",)


def test_what_the_model_thinks_of_the_slide_is_in_the_result() -> None:
    doubtful = Quality("abstained", ("little_tissue",), "The model abstains: too little tissue.")
    found = analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(quality=doubtful), device="cpu")
    assert found.to_result()["quality"] == {
        "status": "abstained",
        "flags": ["little_tissue"],
        "reason": "The model abstains: too little tissue.",
    }


def test_finer_heatmap_encodes_no_patch_twice_and_leaves_the_prediction_alone(analysis: Any) -> None:
    encoder = MeanColourEncoder()
    found = analyze_slide(
        ArraySlide(glass_with_tissue()),
        FakeModel(encoder=encoder),
        device="cpu",
        options=AnalysisOptions(overlap=0.5),
    )
    assert np.array_equal(found.prediction.probabilities, analysis.prediction.probabilities)
    assert found.fine is not None
    assert len(found.fine.coordinates) > 3 * len(found.coordinates)
    assert sum(encoder.batches) == len(found.fine.coordinates), "the blocky patches are among the fine ones"
    ranks = {tuple(c): r for c, r in zip(found.fine.coordinates, found.fine.percentiles, strict=True)}
    known = [ranks[tuple(corner)] for corner in found.coordinates]
    assert np.allclose(known, found.percentiles)


class Overflowing(MeanColourEncoder):
    """An encoder that fits `room` tiles."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error

    def encode_framed(self, tiles: Any) -> Any:
        if len(tiles) > self.room:
            raise self.error
        return super().encode_framed(tiles)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Any, analysis: Any) -> None:
    encoder = Overflowing(5, error)
    found = analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(encoder=encoder), device="cpu")
    assert np.array_equal(found.features, analysis.features)
    assert max(encoder.batches) == 4


def test_batches_stay_small_once_they_were_halved() -> None:
    encoder = Overflowing(8, MemoryError())
    fitting = FittingEncoder(encoder, 32)
    for _ in range(2):
        fitting.encode(np.zeros((32, 4, 4, 3), dtype=np.uint8))
    assert encoder.batches == [8] * 8


def test_not_even_one_patch_is_an_error_with_advice() -> None:
    encoder = Overflowing(0, MemoryError())
    with pytest.raises(OutOfMemoryError, match="device cpu"):
        analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(encoder=encoder), device="cpu")


def test_other_failures_of_the_encoder_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="kernel"):
        FittingEncoder(Overflowing(0, RuntimeError("no kernel image")), 4).encode(
            np.zeros((4, 4, 4, 3), dtype=np.uint8)
        )


class NotNumbers(MeanColourEncoder):
    """An encoder gone wrong."""

    def encode_framed(self, tiles: Any) -> Any:
        return super().encode_framed(tiles) * np.float32("nan")


def test_features_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(NonFiniteError, match="mean-colour"):
        analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(encoder=NotNumbers()), device="cpu")


class Infinite(RednessPredictor):
    """An aggregator gone wrong."""

    def predict(self, features: Any) -> Any:
        attention = torch.full((1, len(features)), float("inf"))
        return prediction_from(torch.zeros(2), attention, torch.zeros(1, 2))


def test_attention_that_is_no_number_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="redness"):
        analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(predictor=Infinite()), device="cpu")


class Broken(ArraySlide):
    """A slide with a damaged tile."""

    def read_region(self, location: Any, level: Any, size: Any) -> Any:
        if size == (128, 128) and location[0] > 1000:
            raise SlideError("The slide cannot be read there.")
        return super().read_region(location, level, size)


def test_tile_that_cannot_be_read_fails_the_analysis_and_leaves_no_thread() -> None:
    with pytest.raises(SlideError):
        analyze_slide(Broken(glass_with_tissue()), FakeModel(), device="cpu")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patches")]


def test_reading_goes_on_while_the_encoder_works_and_never_too_far() -> None:
    read: list[int] = []

    def start(_batch: Any) -> Future[None]:
        return Future()

    def slow(batch: Any, _here: Future[None]) -> Any:
        read.append(int(batch[0, 0]))
        return batch

    batches = [np.array([[index, 0]]) for index in range(20)]
    with read_ahead(batches, start, slow, readers=2) as results:
        first = next(results)
        deadline = time.monotonic() + 5
        while len(read) < 3 + BATCHES_AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first[0, 0] == 0
        assert sorted(read) == list(range(2 + BATCHES_AHEAD)), "read while nobody asked for more"
        assert [int(batch[0, 0]) for batch in results] == list(range(1, 20)), "in order"


class Distant(ArraySlide):
    """A slide that must be fetched; reading waits until somebody lets it."""

    def __init__(self, picture: Any) -> None:
        super().__init__(picture)
        self.fetched: list[tuple[int, int]] = []
        self.may_read = threading.Event()

    def prefetch(self, level: int, locations: Any, size: tuple[int, int]) -> None:
        self.fetched.extend(locations)

    def read_region(self, location: Any, level: Any, size: Any) -> Any:
        self.may_read.wait(10)
        return super().read_region(location, level, size)


def test_further_batches_are_fetched_while_the_first_is_still_decoded() -> None:
    slide = Distant(glass_with_tissue())
    coordinates = np.array([[x, 0] for x in range(0, 1000, 50)])
    plan = PatchPlan(level=0, read_px=(64, 64), patch_px=64, footprint=(64, 64), mpp=0.5)
    encoding = encode_patches(slide, plan, coordinates, MeanColourEncoder(), batch_size=2, readers=1)
    features: list[Any] = []
    consumer = threading.Thread(target=lambda: features.extend(encoding))
    consumer.start()
    deadline = time.monotonic() + 10
    while len(slide.fetched) < 2 * (1 + BATCHES_AHEAD) and time.monotonic() < deadline:
        time.sleep(0.01)
    fetched_before_anything_was_read = len(slide.fetched)
    slide.may_read.set()
    consumer.join()
    assert fetched_before_anything_was_read == 2 * (1 + BATCHES_AHEAD)
    assert sorted(slide.fetched) == [(int(x), 0) for x, _ in coordinates], "each once"
    assert len(features) == 10


def test_models_without_attention_give_each_patchs_own_probability() -> None:
    probabilities = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]])
    logits = torch.tensor([0.0, 1.0])
    prediction = prediction_from(logits, probabilities, torch.zeros(1, 2), attends=False)
    assert attention_shares(prediction).tolist() == pytest.approx([0.1, 0.8, 0.5])


def test_attention_is_the_softmax_over_patches_of_the_predicted_class() -> None:
    raw = torch.tensor([[5.0, 5.0], [0.0, np.log(3.0)]])
    prediction = prediction_from(torch.tensor([0.0, 1.0]), raw, torch.zeros(2, 2))
    assert attention_shares(prediction).tolist() == pytest.approx([0.25, 0.75])


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(ParameterError, match="nvidia-smi"):
        select_device("cuda:1")
    for wrong in ("gpu", "cpu:1", "cuda:x", ""):
        with pytest.raises(ParameterError, match="auto, cpu, cuda"):
            select_device(wrong)


def test_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert select_device("auto") == torch.device("cuda:0")
    with pytest.raises(ParameterError, match="cuda:1 was asked for, and there are 1"):
        select_device("cuda:1")


def test_parameters_of_a_request_become_options() -> None:
    found = AnalysisOptions.from_parameters(
        {"mpp": 0.25, "reference": True, "patch_level": 1, "overlap": 0.5, "tissue_preset": None}
    )
    assert (found.mpp, found.reference, found.patch_level, found.overlap) == (
        0.25,
        Reference.PATCHING,
        1,
        0.5,
    )
    assert AnalysisOptions.from_parameters(found.as_parameters()) == found


@pytest.mark.parametrize(
    "parameters",
    [
        {"mmp": 0.25},
        {"mpp": "0.25"},
        {"mpp": True},
        {"mpp": 0},
        {"mpp": float("nan")},
        {"overlap": 1},
        {"patch_level": 1.5},
        {"patch_level": -1},
        {"reference": "yes"},
        {"reference": []},
        {"tissue_preset": 3},
    ],
)
def test_bad_parameters_are_named(parameters: Any) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        AnalysisOptions.from_parameters(parameters)


def test_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="bwh_biopsy"):
        analyze_slide(
            ArraySlide(glass_with_tissue()),
            FakeModel(),
            device="cpu",
            options=AnalysisOptions(tissue_preset="nope"),
        )


def test_every_error_of_the_package_has_a_code_of_its_own() -> None:
    errors = _descendants(ClamCoreError)
    # The worker's own are of other packages, and a special case of one may share its code.
    codes = [error.code for error in errors if error.__module__.startswith("clam_core.")]
    assert len(codes) == len(set(codes))


def _descendants(error: type[ClamCoreError]) -> list[type[ClamCoreError]]:
    return [error, *(found for child in error.__subclasses__() for found in _descendants(child))]


def test_working_directory_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    analyze_slide(ArraySlide(glass_with_tissue()), FakeModel(), device="cpu")
    assert list(tmp_path.iterdir()) == []
