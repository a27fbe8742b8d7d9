# SPDX-License-Identifier: Apache-2.0
"""What can stop the demo."""


class DemoError(Exception):
    """The demo cannot go on; the message says what to do."""
