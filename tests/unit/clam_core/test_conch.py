# SPDX-License-Identifier: Apache-2.0
"""CONCH's picture side: the pooler computes what open_clip's computes, and is found among the text's tensors.

The figures were recorded from open_clip 3.3.0's ``AttentionalPooler(16, 32, n_head=4, n_queries=1)``.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clam_core.encoders import ENCODERS, load_encoder
from clam_core.encoders.conch import AttentionalPooler, PooledTransformer, picture_side
from clam_core.encoders.vit import BASE_16_AT_448
from clam_core.errors import EncoderWeightsError

Tensors = dict[str, torch.Tensor]
SMALL = replace(BASE_16_AT_448, width=32, depth=2, heads=4, hidden=64, training_px=64)


def drawn(key: str, shape: tuple[int, ...], random: np.random.RandomState) -> torch.Tensor:
    if len(shape) >= 2:
        values = random.standard_normal(shape) * 0.2
    else:
        low, high = (0.5, 1.5) if key.endswith("weight") else (-0.1, 0.1)
        values = random.uniform(low, high, shape)
    return torch.from_numpy(values.astype(np.float32))


def filled(network: torch.nn.Module) -> Tensors:
    random = np.random.RandomState(7)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    tensors = {key: drawn(key, shapes[key], random) for key in sorted(shapes)}
    network.load_state_dict(tensors)
    network.eval()
    return tensors


def small() -> PooledTransformer:
    return PooledTransformer(SMALL, width=16, heads=4)


def checkpoint(*, with_scale: bool = False) -> tuple[PooledTransformer, Tensors]:
    """Return a network, and its tensors as a checkpoint with captions and text has them."""
    network = small()
    ours = filled(network)
    if not with_scale:
        ours |= {key: torch.ones_like(value) for key, value in ours.items() if key.endswith("gamma")}
        network.load_state_dict(ours)
    names = (("trunk.", "visual.trunk."), ("pooler.", "visual.attn_pool_one."), ("norm.", "visual.ln_one."))
    file = {}
    for key, value in ours.items():
        if with_scale or not key.endswith("gamma"):
            file[next(new + key.removeprefix(old) for old, new in names if key.startswith(old))] = value
    captions = AttentionalPooler(16, 32, 4).state_dict() | {"query": torch.zeros(256, 16)}
    file |= {f"visual.attn_pool_many.{key}": value for key, value in captions.items()}
    file |= {f"visual.ln_many.{key}": torch.full((16,), 9.0) for key in ("weight", "bias")}
    file |= {"text.ln_final.weight": torch.ones(16), "text.ln_final.bias": torch.ones(16)}
    file |= {"visual.proj_one": torch.ones(16, 16), "logit_scale": torch.tensor(1.0)}
    return network, file


def test_the_pooler_computes_what_open_clip_computes() -> None:
    pooler = AttentionalPooler(16, 32, 4)
    filled(pooler)
    tokens = torch.from_numpy(np.random.RandomState(8).standard_normal((2, 9, 32)).astype(np.float32))
    with torch.inference_mode():
        pooled = pooler(tokens).numpy()
    wanted = [-0.33122, -0.70709, -0.58437, -0.28962, 0.44043, 0.20944]
    np.testing.assert_allclose([*pooled[0, :3], *pooled[1, -3:]], wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("with_scale", [False, True])
def test_the_picture_side_is_found_among_captions_and_text(with_scale: bool) -> None:
    network, file = checkpoint(with_scale=with_scale)
    found = picture_side(file)
    wanted = network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_norm_of_any_name_belongs_to_the_only_pooler() -> None:
    network, file = checkpoint()
    kept = {
        key.replace("attn_pool_one", "attn_pool").replace("ln_one", "ln_post"): value
        for key, value in file.items()
        if "_many" not in key
    }
    assert torch.equal(picture_side(kept)["norm.weight"], network.norm.weight)


def test_every_token_of_the_trunk_is_asked() -> None:
    network, _ = checkpoint()
    tiles = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 3, 64, 64)).astype(np.float32))
    asked: list[torch.Size] = []
    network.pooler.register_forward_pre_hook(lambda _, given: asked.append(given[0].shape))
    with torch.inference_mode():
        network(tiles)
    assert asked == [torch.Size([1, 1 + 4 * 4, 32])]


def small_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "conch", replace(ENCODERS["conch"], build=small, dim=16))


def test_a_published_file_encodes_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_entry(monkeypatch)
    network, file = checkpoint()
    save_file(file, tmp_path / "w.safetensors")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    features = load_encoder("conch", weights=tmp_path / "w.safetensors").encode(tiles)
    mean, std = ENCODERS["conch"].normalisation.mean, ENCODERS["conch"].normalisation.std
    pixels = ((tiles / 255 - mean) / std).astype(np.float32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("visual.attn_pool_one.query", "a pooler with one query"),
        ("visual.trunk.blocks.0.attn.qkv.weight", "the projection of a vision transformer"),
        ("visual.ln_one.weight", r"a norm of 16 values beside visual\.attn_pool_one\.query"),
    ],
)
def test_a_file_without_a_part_is_refused_by_the_part(
    missing: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_entry(monkeypatch)
    _, file = checkpoint()
    del file[missing]
    save_file(file, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError, match=sentence):
        load_encoder("conch", weights=tmp_path / "w.safetensors")


def test_a_trunk_of_another_size_is_refused_with_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_entry(monkeypatch)
    _, file = checkpoint()
    file["visual.trunk.pos_embed"] = torch.zeros(1, 1 + 9, 32)
    save_file(file, tmp_path / "w.safetensors")
    with pytest.raises(EncoderWeightsError, match=r"trunk\.pos_embed \(1, 10, 32\) \(not \(1, 17, 32\)\)"):
        load_encoder("conch", weights=tmp_path / "w.safetensors")


def test_the_published_size_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        tensors = ENCODERS["conch"].build().state_dict()
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    assert shapes["pooler.query"] == (1, 512)
    assert shapes["pooler.attn.k_proj_weight"] == (512, 768)
    assert shapes["trunk.pos_embed"] == (1, 1 + 28 * 28, 768)
    assert sum(key.endswith("qkv.weight") for key in shapes) == 12
