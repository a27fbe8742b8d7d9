# SPDX-License-Identifier: Apache-2.0
"""Aggregators give the reference's numbers from every layout of checkpoint, and refuse what is dangerous."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clam_core.errors import CheckpointError, ParameterError, UnsupportedCheckpointError
from clam_core.models import TorchAggregator, load_checkpoint
from clam_core.models.abmil import Abmil
from clam_core.models.clam import Clam, ClamShape
from clam_core.models.mil import MilFc
from clam_core.models.untrained import Blueprint
from tests.support.shared_data import shared_path

CHECKPOINTS = [
    "mb_small_d1536_c2",
    "mb_small_d512_c3",
    "mil_fc_d512",
    "mil_fc_mc_d512_c3",
    "old_mb_small_drop_c3_dataparallel",
    "old_mil_fc_drop",
    "old_mil_fc_mc_nodrop_c3",
    "old_sb_small_nodrop_c2",
    "sb_big_d1024_c2",
    "sb_small_d1024_c2",
    "sb_small_d512_c3_drop0",
    "sb_small_d768_c4",
    "sb_ungated_d512_c2",
]


@pytest.fixture(scope="module")
def golden() -> tuple[Path, dict[str, Any], Any, Any]:
    folder = shared_path("golden/models")
    index = json.loads((folder / "index.json").read_text())
    # In torch 2.13 the first multi-threaded tanh of a process is now and then wrong: a tiny one goes first.
    torch.tanh(torch.zeros(1))
    return folder, index, np.load(folder / "bags.npz"), np.load(folder / "outputs.npz")


def features(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_layout_predicts_what_the_reference_predicts(name: str, golden: Any) -> None:
    folder, index, bags, outputs = golden
    prediction = load_checkpoint(folder / f"{name}.pt").predict(bags[index[name]["bag"]])
    raw = outputs[f"{name}/A_raw"]
    raw = raw.T if "mil_fc" in name else raw
    np.testing.assert_allclose(prediction.logits, outputs[f"{name}/logits"].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(prediction.probabilities, outputs[f"{name}/Y_prob"].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(prediction.attention_raw, raw, atol=1e-5)
    assert prediction.predicted == int(outputs[f"{name}/Y_hat"].reshape(-1)[0])
    if f"{name}/features" in outputs:
        np.testing.assert_allclose(prediction.slide_vector, outputs[f"{name}/features"], atol=1e-5)


def test_a_safetensors_file_predicts_what_the_torch_file_predicts(tmp_path: Path) -> None:
    network = Clam(ClamShape(embed_dim=32, classes=2))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    bag = features(20, 32)
    np.testing.assert_array_equal(
        load_checkpoint(tmp_path / "a.pt").predict(bag).logits,
        load_checkpoint(tmp_path / "a.safetensors").predict(bag).logits,
    )


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(wrapper: str, tmp_path: Path) -> None:
    network = MilFc(16, 2, any_class=False)
    torch.save({wrapper: network.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").embed_dim == 16


class Malicious:
    """What a pickle does when nobody stops it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_pickle_is_refused_and_never_runs(save: Any, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    save({"attention_net.0.weight": Malicious(marker)}, tmp_path / "evil.pt")
    with pytest.raises(UnsupportedCheckpointError, match="run code"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not marker.exists()


def test_the_broken_multi_branch_layout_of_april_2024_is_refused_with_its_reason(tmp_path: Path) -> None:
    tensors = Clam(ClamShape(embed_dim=32, classes=3, multi_branch=True)).state_dict()
    broken = {key: value for key, value in tensors.items() if not key.startswith("classifiers.")}
    broken |= {"classifiers.weight": torch.zeros(3, 512), "classifiers.bias": torch.zeros(3)}
    save_file(broken, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match="April 2024"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pt"):
        load_checkpoint(tmp_path / "nothing.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_a_truncated_file_is_damaged(name: str, keep: int, tmp_path: Path) -> None:
    network = Clam(ClamShape(embed_dim=32, classes=2))
    path = tmp_path / name
    torch.save(network.state_dict(), path) if name == "a.pt" else save_file(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises((CheckpointError, UnsupportedCheckpointError), match=r"a\.(pt|safetensors)"):
        load_checkpoint(path)


def test_tensors_of_another_network_are_named(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match=r"conv1\.weight"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_of_a_training_that_diverged_says_so(value: float, tmp_path: Path) -> None:
    tensors = dict(Clam(ClamShape(embed_dim=32, classes=2)).state_dict())
    tensors["classifiers.bias"] = torch.tensor([0.0, value])
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors .*classifiers\.bias are NaN or infinite"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_a_checkpoint_that_lacks_a_tensor_says_which(tmp_path: Path) -> None:
    tensors = dict(Clam(ClamShape(embed_dim=32, classes=2)).state_dict())
    del tensors["attention_net.3.attention_b.0.bias"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match=r"attention_b\.0\.bias"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("abmil", "abmil.classifier.bias", r"lacks the tensor 'abmil\.classifier\.bias'"),
        ("abmil", "abmil.score.bias", r"abmil\.score\.bias"),
        ("clam_sb", "classifiers.bias", r"classifiers\.bias"),
        ("mil_fc", "classifiers.bias", r"classifier\.bias"),
        ("mil_fc", "classifiers.weight", r"classifier\.weight"),
    ],
)
def test_whichever_tensor_a_checkpoint_lacks_it_is_named(
    kind: str, name: str, reason: str, tmp_path: Path
) -> None:
    tensors = Blueprint(kind, 32, 3).network().packed()
    del tensors[name]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match=reason):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["abmil", "clam_sb", "clam_mb", "mil_fc"])
def test_tensors_of_any_shape_are_a_sentence(kind: str, tmp_path: Path) -> None:
    tensors = {name: value.reshape(-1) for name, value in Blueprint(kind, 32, 3).network().packed().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match=r"a\.safetensors looks like a checkpoint of"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    aggregator = TorchAggregator(Clam(ClamShape(embed_dim=32, classes=2)))
    with pytest.raises(ParameterError, match="encoder"):
        aggregator.predict(features(4, 33))


def test_a_single_patch_is_a_slide() -> None:
    prediction = TorchAggregator(Clam(ClamShape(embed_dim=32, classes=2))).predict(features(1, 32))
    assert prediction.attention_raw.shape == (1, 1)


@pytest.mark.parametrize(
    ("kind", "attends"), [("clam_sb", True), ("clam_mb", True), ("abmil", True), ("mil_fc", False)]
)
def test_a_prediction_says_whether_its_patches_share_an_attention(kind: str, attends: bool) -> None:
    prediction = TorchAggregator(Blueprint(kind, 32, 3).network()).predict(features(9, 32))
    assert prediction.attends is attends


def test_a_multi_branch_model_explains_the_class_it_predicts() -> None:
    network = Clam(ClamShape(embed_dim=32, classes=3, multi_branch=True))
    prediction = TorchAggregator(network).predict(features(9, 32))
    np.testing.assert_array_equal(prediction.attention, prediction.attention_raw[prediction.predicted])


def test_abmil_is_loaded_like_any_other(tmp_path: Path) -> None:
    network = Abmil(embed_dim=32, width=16, classes=2)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    bag = features(9, 32)
    prediction = load_checkpoint(tmp_path / "a.safetensors").predict(bag)
    weights = torch.softmax(torch.from_numpy(prediction.attention_raw[0]), dim=0).numpy()
    np.testing.assert_allclose(prediction.slide_vector[0], weights @ bag, atol=1e-5)
