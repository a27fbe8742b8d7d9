# SPDX-License-Identifier: Apache-2.0
"""The vision transformers have the tensors of the published ones and compute what timm computes.

The figures were recorded from timm 1.0.31 with the arguments that the model cards give: the layout of the
whole network, and the output of one shrunk to two blocks of 32 values on a picture of 18 x 16 patches.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clam_core.encoders import ENCODERS, dinov2, load_encoder
from clam_core.encoders.vit import (
    GIANT_14_REG4,
    GIANT_16,
    LARGE_16,
    UNI2_H,
    VIRCHOW,
    VIRCHOW2,
    VisionTransformer,
    ViTShape,
)
from clam_core.errors import EncoderWeightsError

LAYOUTS = {
    "uni": "fbc5f9f93c2511478fe0425c6e86dd2901dfdcc79965b61cf7a12b64795f7625",
    "uni2-h": "c2f78be648988da892199188af7926cff0b3239613f2848cec7f8ef51cf8c781",
    "virchow": "ce6d024edb2552078d89afc561cb62ef2abc3f9dc3e76220d67a3df99cca9020",
    "virchow2": "2d1df959aa26bed510f28fd6ccbd2596e5f1bde6652f6dbd4b0cbbc0fcb21e95",
    "h-optimus-0": "1e1b7f1a50fe09f91646e2493f77003f57d09a36cbfb9c4e798200adab5e762e",
    "h-optimus-1": "1e1b7f1a50fe09f91646e2493f77003f57d09a36cbfb9c4e798200adab5e762e",
    "phikon-v2": "fbc5f9f93c2511478fe0425c6e86dd2901dfdcc79965b61cf7a12b64795f7625",
    "gigapath": "bd50de323c5cb8ea18676dcf945cbb39044f06c193c13f96c222f8d71712dc78",
}

OUTPUTS = [
    pytest.param(
        replace(LARGE_16, hidden=128), [-0.79486, 0.9742, -0.51105, -0.57921, -0.65814, 2.25388], id="uni"
    ),
    pytest.param(UNI2_H, [-1.85811, 1.48833, 0.09323, -1.89464, -0.7652, -0.54899], id="uni2-h"),
    pytest.param(VIRCHOW, [-1.63688, 1.4858, 0.08617, -0.26296, -0.13944, -0.0519], id="virchow"),
    pytest.param(VIRCHOW2, [-1.64329, 1.4859, 0.08591, -0.26295, -0.13879, -0.05243], id="virchow2"),
    pytest.param(GIANT_14_REG4, [-1.85258, 1.48788, 0.09369, -1.89647, -0.76826, -0.54699], id="h-optimus"),
    pytest.param(GIANT_16, [-1.90089, 1.68143, 0.29706, -1.84331, -0.46664, -0.49151], id="gigapath"),
]


def shrunk(shape: ViTShape) -> ViTShape:
    return replace(shape, width=32, depth=2, heads=4, hidden=128 if shape.hidden == 128 else 32)


def filled(network: VisionTransformer) -> VisionTransformer:
    random = np.random.RandomState(7)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({key: drawn(key, shapes[key], random) for key in sorted(shapes)})
    return network.eval()


def drawn(key: str, shape: tuple[int, ...], random: np.random.RandomState) -> torch.Tensor:
    if len(shape) == 4:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) >= 2:
        values = random.standard_normal(shape) * 0.02
    elif key.endswith(("weight", "gamma")):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = random.uniform(-0.1, 0.1, shape)
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_and_shapes_are_those_of_the_published_weights(name: str) -> None:
    with torch.device("meta"):
        tensors = ENCODERS[name].build().state_dict()
    lines = [f"{key} {tuple(value.shape)}" for key, value in sorted(tensors.items())]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == LAYOUTS[name]


@pytest.mark.parametrize(("shape", "wanted"), OUTPUTS)
def test_the_output_is_that_of_timm(shape: ViTShape, wanted: list[float]) -> None:
    network = filled(VisionTransformer(shrunk(shape)))
    picture = np.random.RandomState(8).standard_normal((1, 3, 18 * shape.patch, 16 * shape.patch))
    with torch.inference_mode():
        output = network(torch.from_numpy(picture.astype(np.float32)))[0].numpy()
    assert len(output) == (64 if shape.with_mean else 32)
    np.testing.assert_allclose([*output[:3], *output[-3:]], wanted, rtol=0, atol=2e-5)


def small_entry(monkeypatch: pytest.MonkeyPatch, name: str, shape: ViTShape, dim: int) -> None:
    entry = replace(ENCODERS[name], build=lambda: VisionTransformer(shrunk(shape)), dim=dim)
    monkeypatch.setitem(ENCODERS, name, entry)


@pytest.mark.parametrize("half", [False, True])
def test_an_encoder_encodes_with_weights_from_a_file(
    half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_entry(monkeypatch, "virchow2", VIRCHOW2, 64)
    weights = filled(VisionTransformer(shrunk(VIRCHOW2))).state_dict()
    save_file(
        {key: value.half() if half else value for key, value in weights.items()}, tmp_path / "w.safetensors"
    )
    encoder = load_encoder("virchow2", weights=tmp_path / "w.safetensors")
    tiles = np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), dtype=np.uint8)
    features = encoder.encode(tiles)
    assert features.shape == (5, 64)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_weights_of_a_neighbour_are_told_by_file_tensor_and_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_entry(monkeypatch, "uni2-h", UNI2_H, 32)
    save_file(VisionTransformer(shrunk(GIANT_14_REG4)).state_dict(), tmp_path / "h.safetensors")
    with pytest.raises(
        EncoderWeightsError, match=r"h\.safetensors does not fit the encoder uni2-h"
    ) as caught:
        load_encoder("uni2-h", weights=tmp_path / "h.safetensors")
    assert "reg_token (1, 4, 32) (not (1, 8, 32))" in str(caught.value)


def as_transformers_names_it(key: str) -> str:
    for ours, theirs in (
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks", "encoder.layer"),
        ("attn.proj", "attention.output.dense"),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
    ):
        key = key.replace(ours, theirs)
    return f"layernorm{key.removeprefix('norm')}" if key.startswith("norm.") else key


def in_transformers_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {"embeddings.mask_token": torch.zeros(1, 32)}
    for key, value in tensors.items():
        if ".attn.qkv." in key:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                name = as_transformers_names_it(key).replace("attn.qkv", f"attention.attention.{part}")
                renamed[name] = rows.clone()
        else:
            renamed[as_transformers_names_it(key)] = value
    return renamed


def test_phikon_v2_is_read_in_the_names_of_transformers() -> None:
    wanted = filled(VisionTransformer(shrunk(LARGE_16))).state_dict()
    found = dinov2.in_timm_names(in_transformers_names(wanted))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_weights_of_phikon_v2_without_all_projections_are_refused_with_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_entry(monkeypatch, "phikon-v2", LARGE_16, 32)
    tensors = in_transformers_names(filled(VisionTransformer(shrunk(LARGE_16))).state_dict())
    del tensors["encoder.layer.0.attention.attention.key.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError, match=r"blocks\.0\.attn\.qkv\.bias \(64,\) \(not \(96,\)\)"):
        load_encoder("phikon-v2", weights=tmp_path / "w.safetensors")
