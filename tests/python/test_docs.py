# SPDX-License-Identifier: Apache-2.0
"""The documents say what is so: their programs are the examples', their NumPy definition is the library's, their
links lead somewhere."""

import re
from pathlib import Path

import numpy as np
import pytest
import tapfield

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


@pytest.mark.parametrize(
    "language, examples", [("python", ["quickstart.py", "train.py"]), ("cpp", ["quickstart.cpp"])]
)
def test_readme_shows_the_examples(language, examples):
    for program, example in zip(blocks("README.md", language), examples, strict=True):
        assert program in (ROOT / "examples" / example).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for path, anchor in links:
        if path.startswith(("http:", "https:")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in [h.lower().replace(" ", "-") for h in headings], anchor


def test_numpy_definition():
    """operators() of docs/operators.md against the library, in float64: groups, an asymmetric everything, dead taps."""
    (source,) = blocks("docs/operators.md", "python")
    exec(source, names := {})
    n, h, w, c, groups, ksize, pads = 2, 5, 6, 4, 2, (3, 2), (1, 2, 0, 1)
    how = {"ksize": ksize, "strides": (1, 2, 1, 1), "pads": pads, "dilations": (1, 1, 2, 1)}
    ho, wo = tapfield.output_size((h, w), **how)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n, h, w, c))
    offsets = rng.normal(size=(n, ho, wo, 3 * groups * 6)) * 1.5
    offsets.flat[::7] = np.round(offsets.flat[::7])
    offsets[0, 0, 0, :6] = np.nan, np.inf, -np.inf, 1e300, -1e300, -1.0
    grad = rng.normal(size=(n, ho * 3, wo * 2, c))
    want = names["operators"](grad, x, offsets, groups=groups, **how)

    def outputs(backend=None):
        how_else = {"deformable_groups": groups, "backend": backend, **how}
        y = tapfield.deformable_offsets(x, offsets, **how_else)
        return y, *tapfield.deformable_offsets_grad(grad, x, offsets, **how_else)

    most_terms = max(4 * c, ho * wo * 6)  # corners and channels of a tap; taps of a group, one corner each
    for got, truth, magnitude in zip(outputs(), want, outputs("reference.magnitudes"), strict=True):
        assert np.any(truth != 0)
        # Both sides are rounded: twice the bound of docs/operators.md, "Numerics".
        assert np.all(abs(got - truth) <= 2 * 4 * 2.0**-52 * most_terms * magnitude)
