# SPDX-License-Identifier: Apache-2.0
"""The operators as JAX primitives: shapes, vmap, calls of XLA's and how devices divide them.

Kernels: python/jax_ops.cpp. Every tensor of theirs begins with N and no value of an image depends on another, so a
batch of vmap is folded into N, and devices take images each. Derivatives: derivatives.py.
"""

import ctypes
import functools
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir, xla
from jax.sharding import PartitionSpec

import tapfield

_file = Path(tapfield.__file__).with_name("libtapfield_jax.so")
if not _file.exists():
    raise ImportError(f"tapfield was built without JAX ({_file.name} is missing): install jax, build again")
_LIBRARY = ctypes.CDLL(str(_file))
_LIBRARY.tapfield_jax_built_for.restype = ctypes.c_char_p
_built, _found = _LIBRARY.tapfield_jax_built_for().decode(), jaxlib.__version__
_numbers = lambda version: tuple(map(int, re.findall(r"\d+", version)[:3]))
if _numbers(_found) < _numbers(_built):  # it could not even begin: XLA refuses handlers of a later interface
    raise ImportError(f"tapfield was built for jaxlib {_built} but {_found} is installed: build again")


def primitive(name, shapes):
    """A new primitive without a lowering. shapes(*types, **attributes): its results, an operand's type for one that is
    like that, else a shape and a dtype."""
    p = Primitive(name)
    p.multiple_results = True
    p.def_abstract_eval(lambda *types, **a: [type_like(types[0], s) for s in shapes(*types, **a)])
    p.def_impl(functools.partial(xla.apply_primitive, p))
    batching.primitive_batchers[p] = functools.partial(_fold, p)
    return p


def type_like(first, shape):
    """The type of a result that has `shape`: that of an operand, or new and divided among devices as the first operand's
    N is. Under shard_map it varies over the devices that the first operand varies over."""
    if isinstance(shape, ShapedArray):
        return shape.update(weak_type=False, manual_axis_type=first.manual_axis_type)
    spec = PartitionSpec(*first.sharding.spec[:1], *(None,) * (len(shape.shape) - 1))
    sharding = first.sharding.update(spec=spec)
    return first.update(shape=shape.shape, dtype=shape.dtype, weak_type=False, sharding=sharding)


def _fold(p, arrays, axes, **attributes):
    size, n = next(
        (a.shape[axis], a.shape[1 if axis == 0 else 0]) for a, axis in zip(arrays, axes) if axis is not None
    )

    def folded(a, axis):
        a = jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        return a.reshape(size * n, *a.shape[2:])

    outputs = p.bind(*map(folded, arrays, axes), **attributes)
    return [o.reshape(size, n, *o.shape[1:]) for o in outputs], [0] * len(outputs)


# ------ Shapes


def y_like(like, x, offsets, a):
    """y's shape, or that of its columns, and `like`'s dtype."""
    order = (0, 2, 3, 1) if a["data_format"] == "NCHW" else (0, 1, 2, 3)
    n, h, w, c = (x.shape[i] for i in order)
    kh, kw = a["ksize"]
    first = 2 if order[1] == 2 else 1
    ho, wo = (
        (size + sum(a["pads"][2 * i : 2 * i + 2]) - a["dilations"][first + i] * (k - 1) - 1)
        // a["strides"][first + i]
        + 1
        for i, (size, k) in enumerate(((h, kh), (w, kw)))
    )
    if a["columns"]:
        shape = n, ho, wo, kh * kw * c
    else:
        shape = (n, c, ho * kh, wo * kw) if first == 2 else (n, ho * kh, wo * kw, c)
    return jax.ShapeDtypeStruct(shape, like.dtype)


# ------ Calls of XLA's


def _kernel(p, name):
    """p is lowered to a call of the kernels of that name; devices take images each."""
    for platform, machine in {"cpu": "cpu", "CUDA": "cuda"}.items():
        function = getattr(_LIBRARY, f"tapfield_jax_{machine}_{name}")
        jax.ffi.register_ffi_target(f"tapfield_{name}", jax.ffi.pycapsule(function), platform=platform)
    jax.ffi.register_ffi_target_as_batch_partitionable(f"tapfield_{name}")

    def lowering(ctx, *operands, **a):
        lists = {k: np.array(v, np.int64) for k, v in a.items() if isinstance(v, tuple)}
        groups = np.int64(a["deformable_groups"])
        call = jax.ffi.ffi_lowering(
            f"tapfield_{name}", extra_attributes=_by_image(ctx.avals_in, ctx.avals_out)
        )
        return call(ctx, *operands, **{**a, **lists, "deformable_groups": groups})

    # The GPU's kernels know no columns.
    without_columns = mlir.lower_fun(functools.partial(_by_samples, p), multiple_results=True)
    mlir.register_lowering(p, lowering, "cpu")
    mlir.register_lowering(
        p, lambda ctx, *o, **a: (without_columns if a["columns"] else lowering)(ctx, *o, **a), "cuda"
    )
    return p


def _by_samples(p, *operands, **a):
    """p in columns, made of p without them."""
    a = {**a, "columns": False}
    nchw, (kh, kw) = a["data_format"] == "NCHW", a["ksize"]

    def samples(t):  # of columns
        n, ho, wo, k = t.shape
        c = k // (kh * kw)
        t = t.reshape(n, ho, wo, kh, kw, c).transpose((0, 5, 1, 3, 2, 4) if nchw else (0, 1, 3, 2, 4, 5))
        return t.reshape((n, c, ho * kh, wo * kw) if nchw else (n, ho * kh, wo * kw, c))

    def columns(t):  # of samples
        n, h, w, c = (t.shape[i] for i in ((0, 2, 3, 1) if nchw else (0, 1, 2, 3)))
        ho, wo = h // kh, w // kw
        t = t.reshape((n, c, ho, kh, wo, kw) if nchw else (n, ho, kh, wo, kw, c))
        return t.transpose((0, 2, 4, 3, 5, 1) if nchw else (0, 1, 3, 2, 4, 5)).reshape(n, ho, wo, kh * kw * c)

    if p is not forward:
        operands = samples(operands[0]), *operands[1:]
    first, *others = p.bind(*operands, **a)
    return [first if p is grad else columns(first), *others]


def _by_image(operands, results):
    """What tells XLA's partitioners, the old and Shardy, that N may be divided and no other axis."""
    tensors = (*operands, *results)
    if not all(isinstance(size, int) for t in tensors for size in t.shape):
        return None
    factors = itertools.chain("jklmnopqrstuvwxyz", (f"z_{i}" for i in itertools.count(1)))  # Shardy's names
    sizes = {"i": tensors[0].shape[0]}

    def axes(t):
        names = [next(factors) for _ in t.shape[1:]]
        sizes.update(zip(names, t.shape[1:]))
        return f"[{', '.join(['i', *names])}]"

    each = lambda ts: "(" + ", ".join(map(axes, ts)) + ")"
    rule = f"{each(operands)}->{each(results)} {{{', '.join(f'{k}={v}' for k, v in sizes.items())}}}"
    return {
        "mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": "1"}),
        "sdy.sharding_rule": mlir.ir.Attribute.parse(f"#sdy.op_sharding_rule<{rule}>"),
    }


forward = _kernel(
    primitive("deformable_offsets", lambda x, offsets, **a: [y_like(x, x, offsets, a)]), "forward"
)
grad = _kernel(primitive("deformable_offsets_grad", lambda grad, x, offsets, **a: [x, offsets]), "grad")
grad_grad = _kernel(
    primitive("deformable_offsets_grad_grad", lambda grad, x, offsets, *gg, **a: [grad, x, offsets]),
    "grad_grad",
)


def release_scratch() -> None:
    """Frees the scratch memory that the operators keep between calls on the CPU. tapfield.release_scratch does so for
    the NumPy functions."""
    _LIBRARY.tapfield_jax_release_scratch()
