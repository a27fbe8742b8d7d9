# SPDX-License-Identifier: AGPL-3.0-or-later
"""The values of the HTTP contract that what serves the routes and what does the work share."""
