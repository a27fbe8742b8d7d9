# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what, on every route of Orthanc."""
