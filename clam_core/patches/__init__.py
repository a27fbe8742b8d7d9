# SPDX-License-Identifier: Apache-2.0
"""Patches: where they lie on the tissue, at what magnification they are read, and their interchange file."""

from clam_core.patches.grid import ContourRule, Coordinates, PatchGrid, patch_coordinates
from clam_core.patches.inside import locate_points
from clam_core.patches.interchange import PatchFile, read_patches, write_patches
from clam_core.patches.plan import PatchPlan, plan_by_level, plan_by_mpp, plan_of_file, read_patch

__all__ = [
    "ContourRule",
    "Coordinates",
    "PatchFile",
    "PatchGrid",
    "PatchPlan",
    "locate_points",
    "patch_coordinates",
    "plan_by_level",
    "plan_by_mpp",
    "plan_of_file",
    "read_patch",
    "read_patches",
    "write_patches",
]
