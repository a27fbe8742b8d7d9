# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is known of DICOM files, those of slides above all, and which rules a slide meets."""
