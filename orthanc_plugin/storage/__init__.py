# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is kept in Orthanc: the state of each series, and lists in the database's properties."""
