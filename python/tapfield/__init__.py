# SPDX-License-Identifier: Apache-2.0
"""DeformableOffsets, its gradient and its second derivative.

The operators are defined in docs/operators.md. Below, shapes are NHWC; with data_format="NCHW" the channel
axis comes second in every tensor. N is the batch, C the channels, G = deformable_groups, Kh and Kw the
kernel, P = 3 planes (2 if not modulated), and T one of float16, bfloat16 (ml_dtypes.bfloat16), float32 and
float64.

Attributes, the same for all operators:
    ksize              Kh, Kw; each >= 1
    strides            4 integers in data_format's order; 1 for N and C, >= 1 for H and W
    pads               top, bottom, left, right; each >= 0
    dilations          as strides
    data_format        "NHWC" or "NCHW": the layout of every tensor and the order of strides and dilations
    deformable_groups  G, divides C
    modulated          False: offsets has no mask plane (deformable convolution v1)
    border             "open": a tap at exactly -1 is dead, as in CANN; "closed": live, as in torchvision
    backend            forces one by its name in backends(), e.g. "reference"; None: the fastest

Arrays are NumPy's, or any that speaks DLPack 1.0 on the CPU; the results are of the library that x is of
(NumPy where that has no from_dlpack). On a CUDA GPU they are CuPy's, or of a library with its empty_like; the
work is queued on the default stream. PyTorch's: tapfield.torch; JAX's: tapfield.jax. Inputs may have any strides
(also negative or 0) and be read-only; they are read in place. `out` takes arrays to write into, which are
returned; otherwise results are new and dense.

Errors: ValueError, TypeError for a dtype or an argument of the wrong kind, MemoryError. The message names the
argument, and nothing has been written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tapfield import _core
from tapfield.convert import namespace_of

__all__ = [
    "Backend",
    "backends",
    "deformable_offsets",
    "deformable_offsets_grad",
    "deformable_offsets_grad_grad",
    "get_num_threads",
    "output_size",
    "release_scratch",
    "set_num_threads",
]
__version__ = _core.version

# By the library's dtype codes.
_DTYPES = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
_ON_CUDA = (2, 13)  # DLPack's devices: memory of a GPU, managed memory


def deformable_offsets(
    x: Any,
    offsets: Any,
    *,
    ksize: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
    deformable_groups: int = 1,
    modulated: bool = True,
    border: str = "open",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """y, the bilinear samples of x at base + offsets, times the mask; docs/operators.md, "Forward".

    x        [N, H, W, C], T
    offsets  [N, Ho, Wo, P*G*Kh*Kw], T, or float32 where T has 16 bits; planes [along W | along H | mask],
             each [G, Kh, Kw]; in pixels of x
    returns  y [N, Ho*Kh, Wo*Kw, C], T; the sample of output pixel (ho, wo) and tap (kh, kw) stands in row
             ho*Kh + kh, column wo*Kw + kw
    out      y, to write into

    Attributes and errors: help(tapfield).
    """
    attributes = (ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border)
    y = _empty(x, _core.like_y(x, offsets, attributes, backend)) if out is None else out
    _core.deformable_offsets(x, offsets, y, attributes, backend)
    return y if out is not None else _given_back(x, y)


def deformable_offsets_grad(
    grad: Any,
    x: Any,
    offsets: Any,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    ksize: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
    deformable_groups: int = 1,
    modulated: bool = True,
    border: str = "open",
    grad_x_dtype: Any = None,
    grad_offsets_dtype: Any = None,
    out: tuple[Any, Any] | None = None,
    backend: str | None = None,
) -> tuple[Any, Any]:
    """The gradients of <deformable_offsets(x, offsets), grad>; docs/operators.md, "Gradient".

    grad                [N, Ho*Kh, Wo*Kw, C], T
    x                   [N, H, W, C], T
    offsets             [N, Ho, Wo, P*G*Kh*Kw], T, or float32 where T has 16 bits; in pixels of x
    grad_x_dtype        x's dtype (None), or float32 where that has 16 bits
    grad_offsets_dtype  offsets' dtype (None), or float32 where that has 16 bits
    returns             (grad_x [N, H, W, C], grad_offsets [N, Ho, Wo, P*G*Kh*Kw])
    out                 (grad_x, grad_offsets), to write into; its dtypes decide, so no grad_*_dtype beside it

    Both are written, not added to. Attributes and errors: help(tapfield).
    """
    attributes = (ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border)
    outputs = _outputs(
        out,
        ("grad_x", "x", x, grad_x_dtype),
        ("grad_offsets", "offsets", offsets, grad_offsets_dtype),
    )
    _core.deformable_offsets_grad(grad, x, offsets, *outputs, attributes, backend)
    return outputs if out is not None else _given_back(x, *outputs)


def deformable_offsets_grad_grad(
    grad: Any,
    x: Any,
    offsets: Any,
    gg_x: Any | None,
    gg_offsets: Any | None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    ksize: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
    deformable_groups: int = 1,
    modulated: bool = True,
    border: str = "open",
    grad_x_dtype: Any = None,
    grad_offsets_dtype: Any = None,
    out: tuple[Any, Any, Any] | None = None,
    backend: str | None = None,
) -> tuple[Any, Any, Any]:
    """The gradients of <grad_x, gg_x> + <grad_offsets, gg_offsets> with respect to grad, x and offsets;
    docs/operators.md, "Second derivative".

    grad, x, offsets    as in deformable_offsets_grad
    gg_x                [N, H, W, C], T, or float32 where T has 16 bits; None: zero
    gg_offsets          [N, Ho, Wo, P*G*Kh*Kw], offsets' dtype, or float32 where that has 16 bits; None: zero
    grad_x_dtype        x's dtype (None), or float32 where that has 16 bits
    grad_offsets_dtype  offsets' dtype (None), or float32 where that has 16 bits
    returns             (grad_grad [N, Ho*Kh, Wo*Kw, C], T, and grad_x and grad_offsets, as x and offsets)
    out                 (grad_grad, grad_x, grad_offsets), to write into; no grad_*_dtype beside it

    Where gg_x and gg_offsets are the tangents of x and offsets, grad_grad is y's tangent (jvp).
    Attributes and errors: help(tapfield).
    """
    attributes = (ksize, strides, pads, dilations, data_format, deformable_groups, modulated, border)
    outputs = _outputs(
        out,
        ("grad_grad", "grad", grad, None),
        ("grad_x", "x", x, grad_x_dtype),
        ("grad_offsets", "offsets", offsets, grad_offsets_dtype),
    )
    _core.deformable_offsets_grad_grad(grad, x, offsets, gg_x, gg_offsets, *outputs, attributes, backend)
    return outputs if out is not None else _given_back(x, *outputs)


def output_size(
    size: Sequence[int],
    *,
    ksize: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1, 1, 1),
    data_format: str = "NHWC",
) -> tuple[int, int]:
    """(Ho, Wo) of an input of size (H, W). Attributes and errors: help(tapfield)."""
    return _core.output_size(size, (ksize, strides, pads, dilations, data_format, 1, True, "open"))


class Backend(NamedTuple):
    """A way to run the operators: whether it can run here, and why (not)."""

    name: str
    device: str
    available: bool
    reason: str


def set_num_threads(n: int) -> None:
    """Sets the threads of later calls. n >= 1; n beyond the cores really runs n.

    Default: TAPFIELD_NUM_THREADS, else the CPUs that this process may use (affinity, cgroup quota).
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The threads of a call."""
    return _core.get_num_threads()


def release_scratch() -> None:
    """Frees the scratch memory that the library keeps between calls."""
    _core.release_scratch()


def backends() -> list[Backend]:
    """The backends this build knows, as a list of Backend."""
    return [Backend(*row) for row in _core.backends()]


def _dtype(name, given):
    """The np.dtype of a dtype, its name, or another library's dtype of that name (torch.float32)."""
    for candidate in (given, str(given).rpartition(".")[2]):
        try:
            return np.dtype(candidate)
        except TypeError:
            pass
    raise TypeError(f"{name} must be a dtype but is {given!r}")


def _empty(beside, like, dtype=None):
    """A new array like (shape, code of the dtype): NumPy's, or on a GPU if `beside` is, of its library."""
    shape, code = like
    dtype = dtype or _DTYPES[code]
    if isinstance(beside, np.ndarray) or beside.__dlpack_device__()[0] not in _ON_CUDA:
        return np.empty(shape, dtype)
    library = namespace_of(beside)
    try:
        return library.empty_like(beside, dtype=dtype, order="C", shape=shape)
    except TypeError as error:
        raise TypeError(f"out is required for arrays of {library.__name__} on a GPU: {error}") from error


def _outputs(out, *wanted):
    """The arrays to write: those of out, else new ones. wanted: (name, name and array it is like, dtype)."""
    if out is None:
        return tuple(
            _empty(array, _core.like(like, array), dtype and _dtype(name + "_dtype", dtype))
            for name, like, array, dtype in wanted
        )
    names = ", ".join(name for name, *_ in wanted)
    if not isinstance(out, (tuple, list)) or len(out) != len(wanted):
        kind = type(out).__name__ + (f" of {len(out)}" if isinstance(out, (tuple, list)) else "")
        raise TypeError(f"out must be a tuple ({names}) but is of type {kind}")
    for name, _, _, dtype in wanted:
        if dtype is not None:
            raise ValueError(f"{name}_dtype must be None beside out, whose dtype decides, but is {dtype!r}")
    return tuple(out)


class _BFloat16:
    """A bfloat16 NumPy array that speaks DLPack."""

    def __init__(self, array):
        self.bits = array.view(np.uint16)

    def __dlpack_device__(self):
        return self.bits.__dlpack_device__()

    def __dlpack__(self, **how):
        return _core.relabel_bfloat16(self.bits.__dlpack__(**how))


def _given_back(x, *arrays):
    """The arrays, as arrays of x's library, which those on a GPU are; one alone without its tuple."""
    ours = isinstance(arrays[0], np.ndarray) and not isinstance(x, np.ndarray)
    if ours and (library := namespace_of(x)) is not np:
        arrays = tuple(library.from_dlpack(_BFloat16(a) if a.dtype == _DTYPES[1] else a) for a in arrays)
    return arrays[0] if len(arrays) == 1 else arrays
