# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/torch.md and the README's second one run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/torch.md").read_text(), re.S | re.M)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example(block):
    exec(compile(block, "docs/torch.md", "exec"), {})


def test_readme():
    exec(compile((ROOT / "examples/train.py").read_text(), "train.py", "exec"), {"__name__": "__main__"})
