# SPDX-License-Identifier: AGPL-3.0-or-later
"""AI analysis of whole-slide images inside Orthanc: routes, queue and results on Orthanc's own metadata."""

__version__ = "0.1.0"
API_VERSION = 1
