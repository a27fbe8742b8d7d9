# SPDX-License-Identifier: Apache-2.0
"""What the documents tell to do, done word by word in an empty Debian (`make test-install`)."""
