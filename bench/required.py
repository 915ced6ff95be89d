# SPDX-License-Identifier: Apache-2.0
"""What the CPU backend must reach, as lines that ./dev bench accept checks: figures and the rows they come from."""

from dataclasses import dataclass

# pass, letters, {offsets: greatest ratio to the floor}, aim. float32, NHWC, one thread.
FLOOR = [
    ("grad", "abd", {"zero": 1.9, "std1": 1.9, "std20": 1.9}, 1.4),
    ("grad", "q", {"zero": 2.7, "std1": 2.7, "std20": 2.7}, 1.6),
    ("grad", "hi", {"zero": 3.5, "std1": 3.5, "std20": 10}, 2),
    ("grad", "c", {"zero": 2.8, "std1": 3.1, "flow": 3.3, "std20": 9}, 1.6),
    ("grad", "e", {"zero": 2.8, "std1": 3.0, "flow": 3.6}, 1.9),
    ("grad", "g", {"std1": 3.9, "flow": 4.6}, 2.3),
    ("grad", "f", {"std1": 5}, 3),
    ("forward", "ce", {"std1": 2.3, "flow": 2.6}, 1.4),
    ("forward", "abdq", {"zero": 1.2, "std1": 1.2, "std20": 1.7}, 1.0),
]
DTYPES = {"bfloat16": 0.75, "float16": 0.75, "float64": 2.2}  # of float32's time
AVX2 = 2.2  # of AVX-512's
NCHW = 2.5  # of NHWC's
GRAD_GRAD = 3.0  # of the gradient's
TWO_THREADS = 1 / 1.6  # of one thread's, or
TWO_THREADS_FLOOR = 1.5  # times the floor of two threads
ADVERSARIAL = ["one_cell", "one_row", "dead"]  # offsets that could keep the second thread idle
OUTSIDE_US = {"C++": 5, "NumPy": 20}  # spent outside the kernel of a 1x64x8x8 layer


@dataclass(frozen=True)
class Line:
    """A ratio of two rows' times that must not exceed `most`; without `base`, a row's ratio to the floor."""

    section: str
    row: str
    most: float
    aim: float | None = None
    base: str | None = None
    floor: float | None = None  # instead, the row's ratio to its floor may be this
    target: str | None = None  # the row's instruction set, if not the best

    def needs(self):
        """{target: names of rows}"""
        needs = {self.target: {self.row}}
        if self.base:
            needs.setdefault(None, set()).add(self.base)
        return needs


def row(which, letter, offsets, dtype="float32", layout="", threads=1):
    return f"{which}/{letter}/{dtype}/{offsets}{layout}/threads:{threads}"


def lines():
    """Every Line, in the order of the report."""
    all_of = []
    add = lambda *args, **more: all_of.append(Line(*args, **more))
    figures = [(w, c, o, m, aim) for w, letters, most, aim in FLOOR for c in letters for o, m in most.items()]
    # One kind of offsets a pass and case, where every case is measured once more in another way.
    typical = [(w, c, "flow" if c == "e" else "std1") for w in ("grad", "forward") for c in "abcdefghiq"]
    for w, c, o, m, aim in figures:
        add("times the floor, one thread", row(w, c, o), m, aim)
    for w, c, o in typical:
        for dtype, most in DTYPES.items():
            add("of float32's time", row(w, c, o, dtype), most, base=row(w, c, o))
    for w, c, o in typical:
        add("AVX2, of AVX-512's time", row(w, c, o), AVX2, base=row(w, c, o), target="AVX2")
    for w, c, o in typical:
        add("NCHW, of NHWC's time", row(w, c, o, layout="/NCHW"), NCHW, base=row(w, c, o))
    for w, c, o in typical:
        if w == "grad":
            add("of the gradient's time", row("grad_grad", c, o), GRAD_GRAD, base=row("grad", c, o))
    adversarial = [("grad", c, o) for c in "acq" for o in ADVERSARIAL]
    for w, c, o in [f[:3] for f in figures] + adversarial:
        two = row(w, c, o, threads=2)
        add("two threads, of one's time", two, TWO_THREADS, base=row(w, c, o), floor=TWO_THREADS_FLOOR)
    return all_of
