# SPDX-License-Identifier: Apache-2.0
"""On a GPU the numbers are the reference's, whatever does not fit is halved, and training goes on.

What is float32 differs from a CPU in the last digits only.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clam_core.device import describe_device, select_device
from clam_core.encoders import ENCODERS, Encoder, Precision, load_encoder
from clam_core.encoders.torch_network import TorchNetwork
from clam_core.encoders.transforms import IMAGENET, Framing, framed, normalised
from clam_core.encoders.vit import SMALL_16, VisionTransformer
from clam_core.encoding import FittingEncoder
from clam_core.errors import ParameterError
from clam_core.model import load_model
from clam_core.models import load_checkpoint
from clam_core.models.untrained import Blueprint
from clam_core.options import AnalysisOptions, Reference
from clam_core.package import BareCheckpoint, load_package
from clam_core.pipeline import analyze_slide
from clam_core.result import Analysis
from clam_core.slides import open_slide
from clam_core.training.engine import FixedBag, TrainingSettings, bag_logits, fit
from tests.support.recipe_weights import recipe_weights, with_counters
from tests.support.shared_data import shared_path

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")

GPU = torch.device("cuda:0")
E2E = "cmu1_small_sb_small_d1024_c2"


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(shared_path("golden/encoders/encoders.npz"))


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(with_counters(recipe_weights("resnet50_trunc")), path)
    return path


def resnet(weights: Path, precision: Precision = Precision.FLOAT32) -> Encoder:
    return load_encoder("resnet50-trunc", weights=weights, device=GPU, precision=precision)


def deviation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference as a share of the largest value, as golden/README.md counts."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_float32_is_the_reference_s_float32(golden: Any, resnet_weights: Path) -> None:
    found = resnet(resnet_weights).encode(golden["patches"])
    assert deviation(found, golden["resnet50_trunc"]) < 1e-5


def test_a_vision_transformer_equals_the_reference(golden: Any) -> None:
    network = VisionTransformer(SMALL_16).eval()
    network.load_state_dict(recipe_weights("vit_small_patch16"))
    encoder = TorchNetwork(network.to(GPU), IMAGENET, GPU, Precision.FLOAT32)
    found = encoder.encode(framed(golden["patches"][:4], Framing(224)))
    assert deviation(found, golden["vit_small_patch16"]) < 1e-5


@pytest.mark.parametrize(
    ("precision", "most"), [(Precision.FLOAT16, 5e-3), (Precision.BFLOAT16, 5e-2)], ids=str
)
def test_half_precision_is_near(precision: Precision, most: float, golden: Any, resnet_weights: Path) -> None:
    found = resnet(resnet_weights, precision).encode(golden["patches"])
    assert 1e-5 < deviation(found, golden["resnet50_trunc"]) < most


def test_the_same_patches_get_the_same_features(golden: Any, resnet_weights: Path) -> None:
    encoder = resnet(resnet_weights)
    np.testing.assert_array_equal(encoder.encode(golden["patches"]), encoder.encode(golden["patches"]))


def test_batches_of_all_sizes_give_each_patch_its_own_features(golden: Any, resnet_weights: Path) -> None:
    encoder, patches = resnet(resnet_weights), golden["patches"]
    for size in (3, 1, 8, 5, 8):
        found = encoder.encode(patches[8 - size :])
        assert deviation(found, golden["resnet50_trunc"][8 - size :]) < 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_is_recorded_and_gives_what_it_gives_step_by_step(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = ENCODERS[name]
    torch.manual_seed(0)
    with GPU:
        network = entry.build().eval().requires_grad_(requires_grad=False)
    encoder = TorchNetwork(network, entry.normalisation, GPU, Precision.FLOAT16)
    side = entry.input_px
    tiles = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    four = np.concatenate([tiles, np.zeros_like(tiles[:1])])
    batch = normalised(four, entry.normalisation, GPU).contiguous(memory_format=torch.channels_last)
    wanted = encoder.forward(batch).float().cpu().numpy()
    np.testing.assert_array_equal(encoder.encode(four), wanted)
    np.testing.assert_array_equal(encoder.encode(tiles), wanted[:3])
    assert not caplog.records


@pytest.mark.parametrize(
    "name",
    ["mb_small_d512_c3", "sb_small_d1024_c2", "mil_fc_d512", "mil_fc_mc_d512_c3", "sb_ungated_d512_c2"],
)
def test_aggregators_predict_what_the_reference_predicts(name: str) -> None:
    folder = shared_path("golden/models")
    bag = np.load(folder / "bags.npz")[json.loads((folder / "index.json").read_text())[name]["bag"]]
    outputs = np.load(folder / "outputs.npz")
    prediction = load_checkpoint(folder / f"{name}.pt", GPU).predict(bag)
    np.testing.assert_allclose(prediction.logits, outputs[f"{name}/logits"].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(prediction.probabilities, outputs[f"{name}/Y_prob"].reshape(-1), atol=1e-5)


@pytest.fixture(scope="module")
def analyses(resnet_weights: Path) -> list[Analysis]:
    bare = BareCheckpoint("resnet50-trunc", classes=("LUAD", "LSCC"), tissue_preset="bwh_biopsy")
    package = load_package(shared_path("golden/models/sb_small_d1024_c2.pt"), bare)
    options = AnalysisOptions(reference=Reference.HEATMAP, overlap=0.5, batch_size=32)
    model = load_model(package, "cuda", resnet_weights)
    with open_slide(shared_path("slides/CMU-1-Small-Region.svs")) as slide:
        return [analyze_slide(slide, model, options=options) for _ in range(2)]


def test_a_slide_s_answer_is_the_reference_s(analyses: list[Analysis]) -> None:
    expected = np.load(shared_path(f"golden/e2e/{E2E}.npz"))
    described = json.loads(shared_path(f"golden/e2e/{E2E}.json").read_text())["prediction"]
    found = analyses[0]
    assert np.array_equal(found.coordinates, expected["coords"])
    assert deviation(found.features, expected["features"]) < 2e-5
    assert np.allclose(found.prediction.attention, expected["block_attention_raw"][:, 0], atol=5e-5)
    assert found.to_result()["probabilities"]["LUAD"] == pytest.approx(described["p_0"], abs=1e-5)


def test_a_slide_analysed_twice_has_the_same_answer(analyses: list[Analysis]) -> None:
    first, second = analyses
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.prediction.probabilities, second.prediction.probabilities)
    assert first.artifacts() == second.artifacts()


def test_the_result_names_the_gpu(analyses: list[Analysis]) -> None:
    assert analyses[0].to_result()["software"]["device"] == f"cuda:0 {torch.cuda.get_device_name(0)}"
    assert describe_device(select_device("auto")).startswith("cuda:0 ")


def test_a_gpu_that_is_not_there_is_named() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ParameterError, match=f"cuda:{count} was asked for, and there are {count} GPUs"):
        select_device(f"cuda:{count}")


def test_batches_are_halved_until_they_fit_into_the_gpu_s_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(
        {k: v.contiguous() for k, v in ENCODERS["resnet50-trunc"].build().state_dict().items()}, weights
    )
    tiles = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), dtype=np.uint8)
    encoder = resnet(weights)
    wanted = encoder.encode_framed(tiles[:32])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(0) + 400e6) / total)
    try:
        fitting = FittingEncoder(encoder, 256)
        found = fitting.encode(tiles)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fitting.batch_size < 256
    assert found.shape == (256, 1024)
    assert deviation(found[:32], wanted) < 1e-5


def bags(seed: int) -> list[FixedBag]:
    rng = np.random.default_rng(seed)
    return [
        FixedBag(n % 2, rng.standard_normal((20, 16)).astype(np.float32) + 2 * (n % 2)) for n in range(12)
    ]


@pytest.mark.parametrize("kind", ["clam_sb", "clam_mb", "abmil"])
def test_training_learns_and_a_finished_one_is_not_trained_again(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Blueprint(kind, 16, 2, dropout=0.25).network().to(GPU)
    settings = TrainingSettings(learning_rate=1e-3, max_epochs=20)
    fit(network, bags(0), bags(1), settings, keep=tmp_path / "fold")
    held_out = bags(2)
    assert (bag_logits(network, held_out).argmax(axis=1) == [bag.label for bag in held_out]).all()
    again = Blueprint(kind, 16, 2, dropout=0.25).network().to(GPU)
    fit(again, bags(0), bags(1), settings, lambda _: pytest.fail("an epoch was run"), tmp_path / "fold")
    np.testing.assert_array_equal(bag_logits(again, held_out), bag_logits(network, held_out))


def test_what_cannot_be_recorded_is_computed_all_the_same() -> None:
    """In a process of its own: PyTorch frees no memory by itself after a recording that failed."""
    script = """
import numpy as np, torch
from clam_core.encoders.recorded import RecordedForward
def forward(tiles):
    return tiles.float().mean((1, 2)) * float(tiles.float().max().item() >= 0)
tiles = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
found = RecordedForward(forward, torch.device("cuda:0"))(tiles)
np.testing.assert_allclose(found, tiles.astype(np.float32).mean((1, 2)), rtol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be recorded" in done.stderr
