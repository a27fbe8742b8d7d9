# SPDX-License-Identifier: Apache-2.0
"""Encoders give the reference's features; wrong weights are told apart from missing and damaged ones."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clam_core.encoders import ENCODERS, load_encoder, loading, precision
from clam_core.encoders.efficientnet_lite import SamePaddedConv2d
from clam_core.encoders.fold import fold_batch_norms
from clam_core.encoders.precision import Precision, require_supported
from clam_core.encoders.torch_network import numerics
from clam_core.encoders.transforms import IMAGENET, Framing, resized, to_input
from clam_core.encoders.vit import SMALL_16, VisionTransformer
from clam_core.errors import EncoderWeightsError, ParameterError
from tests.support.recipe_weights import recipe_weights, with_counters
from tests.support.shared_data import shared_path

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(shared_path("golden/encoders/encoders.npz"))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("fold", "compiled", "numerics"),
    [(False, False, "torch"), (True, False, "torch"), (True, True, "openvino")],
)
def test_truncated_resnet50_equals_the_reference(
    fold: bool, compiled: bool, numerics: str, golden: Any, tmp_path: Path
) -> None:
    pytest.importorskip(numerics)
    save_file(with_counters(recipe_weights("resnet50_trunc")), tmp_path / "w.safetensors")
    encoder = load_encoder("resnet50-trunc", weights=tmp_path / "w.safetensors", fold=fold, compiled=compiled)
    assert_close(encoder.encode(golden["patches"]), golden["resnet50_trunc"])
    assert numerics in encoder.numerics.lower()


def test_uni_equals_the_reference_on_the_small_model_of_its_layout(golden: Any) -> None:
    network = VisionTransformer(SMALL_16).eval()
    network.load_state_dict(recipe_weights("vit_small_patch16"))
    with torch.inference_mode():
        at_224 = network(to_input(golden["patches"][:4], Framing(224), IMAGENET, CPU)).numpy()
        at_256 = network(to_input(golden["patches"][:2], Framing(256), IMAGENET, CPU)).numpy()
    assert_close(at_224, golden["vit_small_patch16"])
    assert_close(at_256, golden["vit_small_patch16_256px"])


@pytest.mark.slow
def test_uni_equals_the_reference(golden: Any, tmp_path: Path) -> None:
    save_file(recipe_weights("uni_v1"), tmp_path / "w.safetensors")
    encoder = load_encoder("uni", weights=tmp_path / "w.safetensors")
    assert_close(encoder.encode(golden["patches"][:2]), golden["uni_v1"])


def test_the_transform_equals_the_reference_bit_for_bit(golden: Any) -> None:
    batch = to_input(golden["patches"][:1], Framing(224), IMAGENET, CPU)
    np.testing.assert_array_equal(
        batch.numpy().reshape(3, 224, 224), golden["transformed_first"].reshape(3, 224, 224)
    )


@pytest.mark.parametrize(
    ("shape", "wanted"), [((100, 50), (448, 224)), ((50, 100), (224, 448)), ((224, 300), (224, 300))]
)
def test_the_short_side_is_resized(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert resized(np.zeros((*shape, 3), np.uint8), 224).shape[:2] == wanted


def test_the_middle_is_cut_out_where_an_encoder_was_trained_so() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Framing(224, 256).apply(tile), tile[16:240, 38:262])


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 4)])
def test_tiles_that_are_not_rgb_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match="RGB"):
        to_input(np.zeros(shape, np.uint8), Framing(224), IMAGENET, CPU)


@pytest.mark.parametrize(("size", "kernel"), [(7, 3), (8, 3), (9, 5), (14, 5)])
def test_same_padding_puts_the_odd_pixel_right_and_below(size: int, kernel: int) -> None:
    convolution = SamePaddedConv2d(1, 1, kernel, 2, bias=False)
    picture = torch.rand(1, 1, size, size)
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = nn.functional.pad(picture, (total // 2, total - total // 2) * 2)
    wanted = nn.functional.conv2d(padded, convolution.weight, stride=2)
    torch.testing.assert_close(convolution(picture), wanted)


def test_folded_batch_norms_change_nothing() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
    )
    for module in network:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    network.eval()
    picture = torch.rand(2, 3, 9, 9)
    before = network(picture)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fold_batch_norms(network).modules())
    torch.testing.assert_close(network(picture), before)


@pytest.fixture(scope="module")
def lite() -> Any:
    return load_encoder("efficientnet-lite0")


def test_efficientnet_lite0_is_found_in_its_installed_package_and_verified(lite: Any) -> None:
    assert lite.sha256 == ENCODERS["efficientnet-lite0"].sha256
    assert (lite.dim, lite.input_px) == (1280, 224)


def test_features_of_one_kind_of_gpu_are_not_taken_for_those_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on(gpu: str) -> str:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: gpu)
        return numerics(Precision.FLOAT32, torch.device("cuda"))

    assert on("NVIDIA H200") != on("NVIDIA L4")


def test_bfloat16_moves_the_features_by_some_hundredths_and_says_so(lite: Any) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    half = load_encoder("efficientnet-lite0", precision=Precision.BFLOAT16)
    wanted, found = lite.encode(tiles), half.encode(tiles)
    assert found.dtype == np.float32
    assert 1e-3 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.1
    assert half.numerics.startswith("bfloat16 on cpu")


def test_openvino_is_left_alone_where_bfloat16_is_asked_for() -> None:
    half = load_encoder("efficientnet-lite0", compiled=True, precision=Precision.BFLOAT16)
    assert "torch" in half.numerics


def test_float16_on_a_cpu_is_refused_with_what_to_do() -> None:
    with pytest.raises(ParameterError, match="use float32 or bfloat16 on a CPU"):
        load_encoder("efficientnet-lite0", precision=Precision.FLOAT16)


def test_bfloat16_on_a_gpu_without_units_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda _device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    with pytest.raises(ParameterError, match="Tesla T4 does not compute in bfloat16: use float16"):
        require_supported(Precision.BFLOAT16, torch.device("cuda"))


@pytest.fixture(scope="module")
def compiled_lite() -> Any:
    pytest.importorskip("openvino")
    return load_encoder("efficientnet-lite0", compiled=True)


@pytest.fixture(params=["lite", "compiled_lite"])
def each_lite(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_the_fast_paths_of_efficientnet_lite0_agree_with_the_plain_one(each_lite: Any) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    assert_close(each_lite.encode(tiles), load_encoder("efficientnet-lite0", fold=False).encode(tiles))


def test_a_tile_has_the_same_vector_to_the_last_bit_whatever_batch_it_is_in(each_lite: Any) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    alone = np.concatenate([each_lite.encode(tile[None]) for tile in tiles])
    np.testing.assert_array_equal(alone, each_lite.encode(tiles))
    np.testing.assert_array_equal(alone[2:8], each_lite.encode(tiles[2:8]))


def test_without_openvino_the_encoder_runs_on_pytorch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_available", lambda: False)
    assert "torch" in load_encoder("efficientnet-lite0", compiled=True).numerics


def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    program = (
        "import socket, sys\n"
        "def watch(event, arguments):\n"
        "    if event in {'socket.getaddrinfo', 'socket.connect'}: print('asked for', arguments)\n"
        "sys.addaudithook(watch)\n"
        "from clam_core.encoders import load_encoder\n"
        "print(load_encoder('efficientnet-lite0', compiled=True).numerics)"
    )
    # Its reports begin with an identifier in the home folder, and are left out where CI is set.
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "OpenVINO" in done.stdout
    assert "asked for" not in done.stdout
    assert list(tmp_path.glob("intel*")) == []


def test_no_tiles_give_no_features(lite: Any) -> None:
    assert lite.encode(np.empty((0, 64, 64, 3), np.uint8)).shape == (0, 1280)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EncoderWeightsError, match="efficientnet-lite0"):
        load_encoder("efficientnet-lite9")


def test_missing_weights_of_the_demo_encoder_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderWeightsError, match=r"requirements/demo-encoder\.txt\.$"):
        load_encoder("efficientnet-lite0")


def test_missing_weights_that_are_downloaded_by_hand_say_how_to_name_the_file() -> None:
    with pytest.raises(EncoderWeightsError, match="--encoder-weights FILE, or by ENCODER_WEIGHTS"):
        load_encoder("uni")


def test_weights_that_are_not_the_pinned_file_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError, match="SHA-256"):
        load_encoder("efficientnet-lite0", weights=tmp_path / "w.safetensors")


def test_weights_of_another_encoder_say_which_tensors_differ(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2, 2), "other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError) as caught:
        load_encoder("resnet50-trunc", weights=tmp_path / "w.safetensors")
    assert "lacks bn1.bias" in str(caught.value)
    assert "has besides other" in str(caught.value)
    assert "conv1.weight (2, 2) (not (64, 3, 7, 7))" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    tensors = {
        name: torch.zeros_like(tensor)
        for name, tensor in ENCODERS["resnet50-trunc"].build().state_dict().items()
    }
    tensors["bn1.bias"][-1] = value
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError, match=r"w\.safetensors cannot be used: .* in bn1\.bias\."):
        load_encoder("resnet50-trunc", weights=tmp_path / "w.safetensors")


def test_damaged_weights_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(EncoderWeightsError, match=r"w\.pt"):
        load_encoder("uni", weights=tmp_path / "w.pt")
