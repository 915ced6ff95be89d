# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/jax.md run: as a user runs them, without float64 and on one device."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/jax.md").read_text(), re.S | re.M)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example(block):
    subprocess.run([sys.executable, "-c", block], check=True)
