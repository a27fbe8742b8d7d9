# SPDX-License-Identifier: Apache-2.0
"""What a person does from the command line: submit an analysis, follow it, read its result."""
