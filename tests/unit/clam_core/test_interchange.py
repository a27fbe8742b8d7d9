# SPDX-License-Identifier: Apache-2.0
"""Files of other programs: coordinates as CLAM writes them, features as CLAM and TRIDENT write them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from clam_core.errors import ParameterError
from clam_core.patches import read_patches
from clam_core.training.dataset import features_in, read_features
from tests.unit.clam_core import golden_seg_patch as golden

FEATURES = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)


@pytest.mark.parametrize("name", golden.sets(with_tiles=True))
def test_coordinates_that_the_reference_wrote_are_read(name: Any, tmp_path: Path) -> None:
    entry = golden.entry(name)
    coords = golden.arrays(name)["coords"]
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        dataset = file.create_dataset("coords", data=coords, chunks=tuple(entry["h5_chunks"]))
        dataset.attrs.update(entry["h5_attrs"])
    found = read_patches(tmp_path / "slide.h5")
    assert np.array_equal(found.coordinates, coords)
    assert found.patch_size == entry["params"]["patch_size"]
    assert found.patch_level == entry["params"]["patch_level"]
    assert found.downsample is not None
    assert np.allclose(found.downsample, entry["h5_attrs"]["downsample"])


def test_a_file_whose_notes_are_no_numbers_is_refused_by_its_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.create_dataset("coords", data=np.zeros((2, 2), np.int64)).attrs["patch_size"] = [256, 256]
    with pytest.raises(ParameterError, match=r"odd\.h5 is not an h5 file of patch coordinates"):
        read_patches(tmp_path / "odd.h5")


@pytest.mark.parametrize("shape", [(40, 16), (1, 40, 16)], ids=["CLAM", "with a dimension for the slide"])
def test_features_in_h5_are_read_as_one_bag(shape: tuple[int, ...], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        chunks = (*shape[:-2], 32, 16)
        file.create_dataset("features", data=FEATURES.reshape(shape), chunks=chunks)
        file.create_dataset("coords", data=np.zeros((40, 2), np.int64))
    np.testing.assert_array_equal(read_features(features_in(tmp_path)("slide")), FEATURES)


def test_a_bare_tensor_in_pt_is_a_bag(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(FEATURES), tmp_path / "slide.pt")
    np.testing.assert_array_equal(read_features(features_in(tmp_path)("slide")), FEATURES)


def test_features_in_half_precision_are_read_in_single(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(FEATURES).half(), tmp_path / "slide.pt")
    found = read_features(tmp_path / "slide.pt")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, FEATURES, atol=2e-3)


@pytest.mark.parametrize("values", [np.full((3, 4), np.nan), np.zeros((2, 3, 4)), np.zeros((0, 4))])
def test_what_is_no_bag_is_refused_by_its_file(values: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file.create_dataset("features", data=values)
    with pytest.raises(ParameterError, match=r"slide\.h5 holds no finite matrix"):
        read_features(tmp_path / "slide.h5")
