# SPDX-License-Identifier: Apache-2.0
"""Features of patches that were encoded before: what names them, and where they are kept."""

from clam_core.features.folder import FeatureFolder, FolderLimits
from clam_core.features.key import FeatureKey, fingerprint_of_files
from clam_core.features.store import FeatureEntry, Features, FeatureStore, NoFeatures

__all__ = [
    "FeatureEntry",
    "FeatureFolder",
    "FeatureKey",
    "FeatureStore",
    "Features",
    "FolderLimits",
    "NoFeatures",
    "fingerprint_of_files",
]
