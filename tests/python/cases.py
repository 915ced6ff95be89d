# SPDX-License-Identifier: Apache-2.0
"""tests/cases.json as Python: a Case is one call's geometry, and makes its tensors in any dtype."""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

FLOAT16, BFLOAT16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
DTYPES = [FLOAT16, BFLOAT16, FLOAT32, FLOAT64]
LAYOUTS = ["NHWC", "NCHW"]
BORDER_TARGETS = [-1, "-1+tiny", "-0", 0, "size-1", "size-1/2", "size"]


def is_16bit(dtype):
    return np.dtype(dtype).itemsize == 2


def finfo(dtype):
    return ml_dtypes.finfo(dtype)


def to_layout(a, layout):
    """Logical NHWC -> a dense array in layout."""
    return np.ascontiguousarray(a.transpose(0, 3, 1, 2)) if layout == "NCHW" else np.ascontiguousarray(a)


def from_layout(a, layout):
    return a.transpose(0, 2, 3, 1) if layout == "NCHW" else a


@dataclass(frozen=True)
class Tensors:
    """A call's inputs, logical NHWC."""

    x: np.ndarray  # [N, H, W, C]
    offsets: np.ndarray  # [N, Ho, Wo, P*G*Kh*Kw]
    grad: np.ndarray  # [N, Ho*Kh, Wo*Kw, C]
    gg_x: np.ndarray | None  # as x
    gg_offsets: np.ndarray | None  # as offsets

    def map(self, how):
        """how applied to each that is present."""
        all_of = (getattr(self, f) for f in self.__dataclass_fields__)
        return Tensors(*(None if a is None else how(a) for a in all_of))


@dataclass(frozen=True)
class Case:
    name: str
    x: tuple
    ksize: tuple
    strides: tuple
    pads: tuple
    dilations: tuple
    groups: int
    modulated: bool
    border: str
    row: dict  # the whole entry of the table

    def __hash__(self):
        return hash((self.name, self.border))

    @property
    def geometry(self):
        """What Oracle takes."""
        names = ("ksize", "strides", "pads", "dilations", "groups", "modulated", "border")
        return {n: getattr(self, n) for n in names}

    def attributes(self, layout):
        """What the library's operators take."""
        four = lambda hw: [1, 1, *hw] if layout == "NCHW" else [1, *hw, 1]
        return dict(
            ksize=list(self.ksize),
            strides=four(self.strides),
            pads=list(self.pads),
            dilations=four(self.dilations),
            data_format=layout,
            deformable_groups=self.groups,
            modulated=self.modulated,
            border=self.border,
        )

    @property
    def planes(self):
        return 3 if self.modulated else 2

    @property
    def output(self):
        """(Ho, Wo)."""
        return tuple(
            (
                self.x[1 + i]
                + self.pads[2 * i]
                + self.pads[2 * i + 1]
                - self.dilations[i] * (self.ksize[i] - 1)
                - 1
            )
            // self.strides[i]
            + 1
            for i in (0, 1)
        )

    @property
    def y(self):
        """The shape of y."""
        (ho, wo), (kh, kw) = self.output, self.ksize
        return (self.x[0], ho * kh, wo * kw, self.x[3])

    def tensors(self, dtype, offsets_dtype=None, seed=0, cotangents=None):
        """cotangents: the dtype of gg_x and gg_offsets, if not x's and offsets'."""
        offsets_dtype = offsets_dtype or dtype
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        positive = abs if self.row.get("data") == "positive" else lambda a: a
        normal = lambda shape: positive(rng.standard_normal(shape))
        given = lambda key, shape: np.reshape(self.row[key], shape) if key in self.row else normal(shape)
        x, grad = given("x_values", self.x), given("grad_values", self.y)
        offsets = np.concatenate(Offsets(self, offsets_dtype, rng).planes()[: self.planes], axis=-1)
        gg_x, gg_offsets = normal(self.x), normal(offsets.shape)
        with np.errstate(over="ignore"):
            return Tensors(
                x.astype(dtype),
                offsets.astype(offsets_dtype),
                grad.astype(dtype),
                gg_x.astype(cotangents or dtype),
                gg_offsets.astype(cotangents or offsets_dtype),
            )


class Offsets:
    """The recipes of the table's "about". Planes are [N, Ho, Wo, G*Kh*Kw], along W, along H, mask."""

    def __init__(self, case, dtype, rng):
        self.case, self.dtype, self.rng = case, dtype, rng
        (ho, wo), (kh, kw) = case.output, case.ksize
        self.shape = (case.x[0], ho, wo, case.groups * kh * kw)
        grid = lambda a: np.broadcast_to(a, (case.x[0], ho, wo, case.groups, kh, kw)).reshape(self.shape)
        h, w = np.arange(ho)[:, None, None, None, None], np.arange(wo)[:, None, None, None]
        i, j = np.arange(kh)[:, None], np.arange(kw)
        self.base_h = grid(h * case.strides[0] - case.pads[0] + i * case.dilations[0])
        self.base_w = grid(w * case.strides[1] - case.pads[2] + j * case.dilations[1])
        self.t = np.arange(math.prod(self.shape)).reshape(self.shape)

    def planes(self):
        recipe = dict(self.case.row["offsets"])
        planes = getattr(self, recipe.pop("kind"))(**recipe)
        return planes if len(planes) == 3 else (*planes, self.masks())

    def masks(self):
        m = self.rng.standard_normal(self.shape)
        return abs(m) if self.case.row.get("data") == "positive" else m

    def zero(self):
        return np.zeros(self.shape), np.zeros(self.shape)

    def normal(self, std=1.0):
        return std * self.rng.standard_normal(self.shape), std * self.rng.standard_normal(self.shape)

    def flow(self):
        n, ho, wo, _ = self.shape
        h, w = np.arange(ho)[:, None] / max(ho, 8), np.arange(wo) / max(wo, 8)
        wave = lambda a, b: (10 * np.sin(2 * np.pi * (a * h + b * w) + a))[None, :, :, None]
        noise_w, noise_h = self.normal(0.5)
        return wave(1, 1.5) + noise_w, wave(0.5, 1) + noise_h

    def integer(self):
        draw = lambda: self.rng.integers(-3, 4, self.shape).astype(float)
        return draw(), draw()

    def border(self, targets=BORDER_TARGETS):
        n = len(targets)
        along = lambda which, base, size: np.select(
            [which == i for i in range(n)], [self.onto(target, base, size) for target in targets]
        )
        _, h, w, _ = self.case.x
        return along(self.t % n, self.base_w, w), along(self.t // n % n, self.base_h, h)

    def onto(self, target, base, size):
        """The offsets that bring each base onto target."""
        if target == "-1+tiny":
            least = np.nextafter((-1 - base).astype(self.dtype), np.array(np.inf, self.dtype))
            return least.astype(float)
        if target == "-0":
            return -0.0 - base
        places = {"size": size, "size-1": size - 1, "size-1/2": size - 0.5}
        return places.get(target, target) - base.astype(float)

    def killed(self, values):
        """Normal offsets; every third tap has along W, the next along H replaced, by values in turn."""
        along_w, along_h = self.normal()
        turn = np.array(values)[self.t // 3 % len(values)]
        return np.where(self.t % 3 == 0, turn, along_w), np.where(self.t % 3 == 1, turn, along_h)

    def huge(self):
        top = float(finfo(self.dtype).max)
        return self.killed([min(1e9, top), max(-1e9, -top), top, -top])

    def nonfinite(self):
        masks = np.where(self.t % 3 == 2, self.masks(), np.array([np.nan, np.inf, 1])[self.t // 9 % 3])
        return *self.killed([np.nan, np.inf, -np.inf]), masks

    def in_cell(self, base, size):
        return (size - 1) // 2 - base + self.rng.integers(0, 8, self.shape) / 8

    def one_cell(self):
        return self.in_cell(self.base_w, self.case.x[2]), self.in_cell(self.base_h, self.case.x[1])

    def one_row(self, std=1.0):
        return self.normal(std)[0], self.in_cell(self.base_h, self.case.x[1])

    def columns(self):
        group = np.arange(self.shape[-1]) // np.prod(self.case.ksize)
        fractions = self.rng.integers(0, 8, (2, *self.shape)) / 8
        column, row = group * self.case.x[2] // self.case.groups, self.t % 2 * (self.case.x[1] - 2)
        return column - self.base_w + fractions[0], row - self.base_h + fractions[1]

    def stray(self, std=1.0):
        w, h = self.normal(std)
        return w + 9.0 * (self.t % 499 == 0), h - 9.0 * (self.t % 499 == 1)

    def dead(self):
        far = lambda values: np.array(values)[self.t % 4]
        return far([1000.0, -1000, 0, 0]), far([0.0, 0, 1000, -1000])

    def values(self, along_w, along_h, mask):
        return tuple(np.reshape(np.array(a, float), self.shape) for a in (along_w, along_h, mask))


def expand(row):
    """An entry of the table as one Case for each border."""
    lists = {k: tuple(row[k]) for k in ("x", "ksize", "strides", "pads", "dilations")}
    borders = ["open", "closed"] if row["border"] == "both" else [row["border"]]
    return [
        Case(
            name=f"{row['name']}-{b}" if len(borders) > 1 else row["name"],
            groups=row["groups"],
            modulated=row["modulated"],
            border=b,
            row=row,
            **lists,
        )
        for b in borders
    ]


TABLE = json.loads((Path(__file__).parent.parent / "cases.json").read_text(encoding="utf-8"))["cases"]
CASES = [case for row in TABLE if not (row.get("bench") or row.get("large")) for case in expand(row)]


def case_named(name):
    return next(c for c in CASES if c.name == name)
