# SPDX-License-Identifier: Apache-2.0
"""Set-up for all Python tests."""

import hypothesis

# The machines that run the tests are shared: time says nothing, and a failure must come again.
hypothesis.settings.register_profile("tapfield", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tapfield")
