# SPDX-License-Identifier: AGPL-3.0-or-later
"""Orthanc around the plugin: the one module that imports `orthanc`, and the gateways."""
