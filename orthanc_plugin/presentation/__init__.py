# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is shown of requests and workers, and which of them a list shows."""
