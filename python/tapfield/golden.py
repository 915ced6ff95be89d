# SPDX-License-Identifier: Apache-2.0
"""tapfield golden: inputs and expected outputs of the operators as files, for those who write kernels elsewhere.

The files are described in docs/cli.md. Images are computed and appended one at a time, so memory holds one.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

import tapfield

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
PASSES = {
    "forward": ("y",),
    "grad": ("grad_x", "grad_offsets"),
    "grad_grad": ("grad_grad", "grad_x", "grad_offsets"),
}
NEAR, INTEGER = 1, 2  # values of near_integer


@dataclass(frozen=True)
class Geometry:
    """The sizes of a call, in NHWC whatever the layout of the files."""

    shape: tuple  # N, H, W, C
    ksize: tuple = (3, 3)
    strides: tuple = (1, 1)  # along H, along W
    pads: tuple = (1, 1, 1, 1)  # top, bottom, left, right
    dilations: tuple = (1, 1)
    deformable_groups: int = 1
    modulated: bool = True
    border: str = "open"
    data_format: str = "NHWC"

    def attributes(self):
        """The attributes as the operators take them."""
        four = (lambda hw: (1, *hw, 1)) if self.data_format == "NHWC" else (lambda hw: (1, 1, *hw))
        kept = {k: v for k, v in asdict(self).items() if k != "shape"}
        return kept | {"strides": four(self.strides), "dilations": four(self.dilations)}

    def taps(self):
        """Ho, Wo, G, Kh, Kw. ValueError where the attributes do not fit."""
        names = ("ksize", "strides", "pads", "dilations", "data_format")
        attributes = {k: v for k, v in self.attributes().items() if k in names}
        return (*tapfield.output_size(self.shape[1:3], **attributes), self.deformable_groups, *self.ksize)

    def tensor(self, name):
        """The shape, in data_format's order, of the tensor (x, gg_x, grad_x; offsets, ...; y, grad, grad_grad)."""
        (n, h, w, c), (ho, wo, g, kh, kw) = self.shape, self.taps()
        if name in ("x", "gg_x", "grad_x"):
            shape = n, h, w, c
        elif name in ("offsets", "gg_offsets", "grad_offsets"):
            shape = n, ho, wo, (3 if self.modulated else 2) * g * kh * kw
        else:
            shape = n, ho * kh, wo * kw, c
        return shape if self.data_format == "NHWC" else (shape[0], shape[3], *shape[1:3])


CASES = {  # small ones first; cann-*: the shapes of CANN's own samples
    "dcn-c3": Geometry((2, 16, 20, 3)),
    "rectangular": Geometry((2, 9, 12, 8), (2, 3), (2, 1), (0, 1, 2, 1), (1, 2), 2),
    "v1-nchw": Geometry((1, 12, 10, 16), deformable_groups=4, modulated=False, data_format="NCHW"),
    "cann-grad": Geometry((72, 1, 17, 64), (2, 5), (1, 2), (1, 1, 2, 2), (2, 1), 8),
    "cann-forward": Geometry((1, 7, 11, 256)),
    "cann-nchw": Geometry((4, 64, 64, 16), deformable_groups=8, data_format="NCHW"),
    "worked-example": Geometry((1, 2, 2, 1), (1, 1), pads=(0, 0, 0, 0)),
}


def plain(array):
    """bfloat16 as uint16, which every reader knows."""
    return array.view(np.uint16) if array.dtype == DTYPES["bfloat16"] else array


class Writer:
    """Appends images to one tensor's file, and hashes what it writes."""

    def __init__(self, path, shape, dtype):
        self.file, self.hash = open(path, "wb"), hashlib.sha256()
        self.shape, self.dtype = shape, dtype
        if path.suffix == ".npy":
            dtype = plain(np.empty(0, dtype)).dtype
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(shape),
            }
            np.lib.format.write_array_header_1_0(self, header)

    def write(self, data):
        self.file.write(data)
        self.hash.update(data)

    def append(self, array):
        self.write(np.ascontiguousarray(plain(array)).tobytes())

    def entry(self):
        """What the manifest says of the file."""
        return {"shape": self.shape, "dtype": str(self.dtype), "sha256": self.hash.hexdigest()}


def inputs(geometry, dtype, rng, passes, worked):
    """One image of every input, shape[0] = 1; values that dtype can hold."""

    def normal(name, deviation=1.0):
        return rng.normal(0, deviation, (1, *geometry.tensor(name)[1:])).astype(dtype)

    if worked:  # docs/operators.md's example; it has one image, one channel
        x = np.array([[1, 2], [3, 4]], dtype).reshape(1, 2, 2, 1)
        offsets, grad = np.zeros((1, 2, 2, 3), dtype), np.zeros((1, 2, 2, 1), dtype)
        offsets[0, 0, 0], grad[0, 0, 0] = (0.25, 0.5, 2), 1
        made = {"x": x, "offsets": offsets, "grad": grad}
    else:
        made = {"x": normal("x"), "offsets": normal("offsets", 1.5)}
        made["grad"] = normal("grad")
    if passes == ("forward",):
        del made["grad"]
    if "grad_grad" in passes:
        made |= {"gg_x": normal("gg_x"), "gg_offsets": normal("gg_offsets")}
    return made


def run(which, given, attributes, backend, dtype=None):
    """The outputs of one pass by name, on inputs converted to dtype (exactly, where that is wider)."""
    take = {k: v if dtype is None else v.astype(dtype) for k, v in given.items()}
    if which == "forward":
        results = (tapfield.deformable_offsets(take["x"], take["offsets"], backend=backend, **attributes),)
    elif which == "grad":
        operands = (take[k] for k in ("grad", "x", "offsets"))
        results = tapfield.deformable_offsets_grad(*operands, backend=backend, **attributes)
    else:
        operands = (take[k] for k in ("grad", "x", "offsets", "gg_x", "gg_offsets"))
        results = tapfield.deformable_offsets_grad_grad(*operands, backend=backend, **attributes)
    return dict(zip(PASSES[which], results))


def check(geometry, dtype, backend):
    """ValueError where the operators refuse this geometry or backend: a call without images."""
    x, offsets = (np.empty((0, *geometry.tensor(name)[1:]), dtype) for name in ("x", "offsets"))
    run("forward", {"x": x, "offsets": offsets}, geometry.attributes(), backend)


def positions(geometry, offsets, dtype):
    """Of one image's taps: near_integer [Ho, Wo, G*Kh*Kw], near_pixels [H, W] that NEAR taps touch, and the
    greatest number of corners that any element of grad_x sums."""
    ho, wo, g, kh, kw = geometry.taps()
    size = geometry.shape[1:3]
    if geometry.data_format == "NCHW":
        offsets = np.moveaxis(offsets, 1, -1)
    planes = offsets[0].astype(float).reshape(ho, wo, -1, g, kh, kw)
    eps = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    near, whole, cells = False, True, []
    for axis, (plane, begin) in enumerate(((1, geometry.pads[0]), (0, geometry.pads[2]))):
        o = planes[:, :, plane]
        out = np.arange((ho, wo)[axis]) * geometry.strides[axis] - begin
        tap = np.arange((kh, kw)[axis]) * geometry.dilations[axis]
        base = (
            (out[:, None, None, None, None] + tap[:, None]) if axis == 0 else (out[:, None, None, None] + tap)
        )
        distance = abs(o - np.rint(o))
        near = near | ((distance > 0) & (distance <= eps * np.maximum(1, abs(base + o))))
        whole = whole & (distance == 0)
        cells.append(base + np.clip(np.floor(o), -(2**40), 2**40).astype(np.int64))
    # A bincount over the cells, dead taps in a frame of one: a pixel sums the taps of the four cells around it.
    h0, w0 = (np.clip(cell, -2, n).reshape(-1) + 2 for cell, n in zip(cells, size))
    h, w = size[0] + 3, size[1] + 3
    group = np.broadcast_to(np.arange(g)[:, None, None], near.shape).reshape(-1)
    counts = np.bincount((group * h + h0) * w + w0, minlength=g * h * w).reshape(g, h, w)
    flagged = np.bincount(h0 * w + w0, near.reshape(-1), minlength=h * w).reshape(h, w)

    def around(c):  # pixel p is a corner of cells p and p - 1; a near tap may be one cell further
        return c[..., 2:-1, 2:-1] + c[..., 1:-2, 2:-1] + c[..., 2:-1, 1:-2] + c[..., 1:-2, 1:-2]

    wide = np.pad(flagged, 1)
    grown = sum(wide[i : i + h, j : j + w] for i in range(3) for j in range(3))
    code = np.where(near, NEAR, np.where(whole, INTEGER, 0)).astype(np.uint8).reshape(ho, wo, g * kh * kw)
    return code, (around(grown) > 0).astype(np.uint8), int(around(counts).max(initial=1))


def write(
    directory,
    geometry,
    dtype="float32",
    *,
    format="npy",
    backend="reference",
    seed=0,
    passes=("grad",),
    worked=False,
    report=lambda: None,
):
    """Writes the files and manifest.json into `directory`, made if missing. Returns the manifest."""
    n, (ho, wo, g, kh, kw) = geometry.shape[0], geometry.taps()
    dtype_name, dtype = dtype, DTYPES[dtype]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").unlink(missing_ok=True)  # there is none while files are half written
    writers, terms = {}, 1

    def append(name, shape, array):
        if name not in writers:
            writers[name] = Writer(directory / f"{name}.{format}", shape, array.dtype)
        writers[name].append(array)

    try:
        for image in range(n):
            given = inputs(geometry, dtype, np.random.default_rng([seed, image]), passes, worked)
            for name, array in given.items():
                append(name, geometry.tensor(name), array)
            near, pixels, count = positions(geometry, given["offsets"], dtype)
            append("near_integer", (n, ho, wo, g * kh * kw), near)
            append("near_pixels", (n, *geometry.shape[1:3]), pixels)
            terms = max(terms, count)
            for which in passes:
                kinds = (
                    ("expected", backend, None),
                    ("exact", backend, np.float64),
                    ("magnitudes", "reference.magnitudes", np.float64),
                )
                for kind, by, wide in kinds:
                    for name, array in run(which, given, geometry.attributes(), by, wide).items():
                        append(f"{which}.{name}.{kind}", geometry.tensor(name), array)
            report()
    finally:
        for writer in writers.values():
            writer.file.close()
    manifest = {
        "tapfield": tapfield.__version__,
        "format": format,
        "dtype": dtype_name,
        "passes": list(passes),
        "seed": seed,
        "backend": backend,
        "attributes": geometry.attributes(),
        "geometry": asdict(geometry),
        "most_corners_per_pixel": terms,
        "files": {f"{name}.{format}": w.entry() for name, w in writers.items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def main(directory, case, shape, dtype, format, backend, seed, passes, **attributes):
    """What `tapfield golden` does. Returns the exit status."""
    from rich.console import Console
    from rich.progress import Progress

    if (case is None) == (shape is None):
        raise ValueError("give either --case or --shape")
    given = {k: v for k, v in attributes.items() if v is not None}
    if case and given:
        raise ValueError(f"--case sets the attributes itself: leave out {', '.join(given)}")
    if shape and (len(shape) != 4 or min(shape) < 1):
        raise ValueError(f"--shape must be four numbers of at least 1 but is {list(shape)}")
    for name, count in {"ksize": 2, "strides": 2, "pads": 4, "dilations": 2}.items():
        if len(given.get(name, range(count))) != count:
            raise ValueError(f"--{name} must be {count} numbers but is {list(given[name])}")
    geometry = CASES[case] if case else Geometry(shape, **given)
    check(geometry, DTYPES[dtype], backend)
    if seed < 0:
        raise ValueError(f"--seed must be at least 0 but is {seed}")
    passes = tuple(PASSES) if passes == "all" else (passes,)
    console = Console()
    with Progress(console=console) as progress:
        task = progress.add_task("images", total=geometry.shape[0])
        write(
            directory,
            geometry,
            dtype,
            format=format,
            backend=backend,
            seed=seed,
            passes=passes,
            worked=case == "worked-example",
            report=lambda: progress.update(task, advance=1),
        )
    console.print(
        f"wrote {directory}: put your outputs beside them as NAME.actual.{format}, NAME one of",
        soft_wrap=True,
    )
    console.print(", ".join(f"{p}.{name}" for p in passes for name in PASSES[p]), soft_wrap=True)
    return 0
