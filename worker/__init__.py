# SPDX-License-Identifier: Apache-2.0
"""The lab's side: claims requests from Orthanc over outbound HTTP(S), runs CLAM, sends results back."""

__version__ = "0.1.0"

API_VERSION = 1
"""Version of the HTTP contract (docs/rest.md) that this worker speaks."""
