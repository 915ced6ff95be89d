# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the primitives: for each its tangent, a primitive that is linear in its tangents, and the transpose
of that.

    of                    its tangent       transposed
    forward               tangent           grad
    grad                  grad_tangent      grad_grad
    tangent               second_tangent    grad_grad

So reverse mode works twice, forward mode once, and both after each other in either order. Formulas: docs/operators.md,
"Second derivative". It is symmetric: grad_grad's grad_x and grad_offsets are also the tangents of grad's, and its
grad_grad is y's tangent.
"""

import jax
from jax.interpreters import ad, mlir

from tapfield.jax.primitives import forward, grad, grad_grad, primitive, type_like, y_like


def _split(tangents):
    """Which of them are not zero, and those."""
    which = tuple(type(t) is not ad.Zero for t in tangents)
    return which, [t for t, given in zip(tangents, which) if given]


def _picked(which, values):
    return [value for value, wanted in zip(values, which) if wanted]


def _put(which, values, absent=None):
    """The reverse of _picked."""
    values = iter(values)
    return [next(values) if given else absent for given in which]


def _gg(which):
    return dict(gg_x=which[0], gg_offsets=which[1])


def _unsupported(*_, **a):
    raise NotImplementedError(
        "deformable_offsets has a first and a second derivative, in forward mode the first alone: "
        "this is a third, or a tangent of a tangent"
    )


# ------ tangent(x, offsets, *d): of y along d, those of (d_x, d_offsets) that `which` says


def _tangent(x, offsets, *d, which, **a):
    zero = ad.zeros_like_aval(type_like(jax.typeof(x), y_like(x, x, offsets, a)))
    return grad_grad.bind(zero, x, offsets, *d, **_gg(which), **a)[:1]


def _tangent_transpose(cotangents, x, offsets, *d, which, **a):
    (c,) = cotangents
    gradients = [None, None] if type(c) is ad.Zero else grad.bind(c, x, offsets, **a)
    return [None, None, *_picked(which, gradients)]


def _tangent_jvp(primals, tangents, *, which, **a):
    x, offsets, *d = primals
    along, dd = _split(tangents[:2]), tangents[2:]
    out = tangent.bind(*primals, which=which, **a)
    moved = []
    if any(type(t) is not ad.Zero for t in dd):
        moved += tangent.bind(x, offsets, *map(ad.instantiate_zeros, dd), which=which, **a)
    if any(along[0]):
        moved += second_tangent.bind(x, offsets, *d, *along[1], which=which, along=along[0], **a)
    return out, [_sum(moved, out[0])]


def _sum(terms, primal):
    if not terms:
        return ad.Zero.from_primal_value(primal)
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


# ------ second_tangent(x, offsets, *d, *e): of tangent(x, offsets, *d) along e, those of (e_x, e_offsets) that `along`
# says. No kernel computes it, but its transpose is one.


def _second_tangent_transpose(cotangents, x, offsets, *d, which, along, **a):
    (c,) = cotangents
    d, gradients = d[: sum(which)], [None, None]
    if type(c) is not ad.Zero:
        gradients = grad_grad.bind(c, x, offsets, *d, **_gg(which), **a)[1:]
    return [None] * (2 + len(d)) + _picked(along, gradients)


# ------ grad_tangent(c, x, offsets, *d): of grad(c, x, offsets) along d, those of (d_c, d_x, d_offsets) that `which`
# says


def _grad_tangent(c, x, offsets, *d, which, **a):
    d_c, *d_samples = _put(which, d)
    moved = []
    if d_c is not None:
        moved.append(grad.bind(d_c, x, offsets, **a))
    if any(which[1:]):
        given = _picked(which[1:], d_samples)
        moved.append(grad_grad.bind(c, x, offsets, *given, **_gg(which[1:]), **a)[1:])
    return moved[0] if len(moved) == 1 else [s + t for s, t in zip(*moved)]


def _grad_tangent_transpose(cotangents, c, x, offsets, *d, which, **a):
    given, gg = _split(cotangents)
    gradients = grad_grad.bind(c, x, offsets, *gg, **_gg(given), **a) if gg else [None] * 3
    return [None] * 3 + _picked(which, gradients)


def _grad_tangent_jvp(primals, tangents, *, which, **a):
    if any(type(t) is not ad.Zero for t in tangents[:3]):
        _unsupported()
    out = grad_tangent.bind(*primals, which=which, **a)
    d = map(ad.instantiate_zeros, tangents[3:])
    return out, grad_tangent.bind(*primals[:3], *d, which=which, **a)


# ------ The rules


def _forward_jvp(primals, tangents, **a):
    which, d = _split(tangents)
    return forward.bind(*primals, **a), tangent.bind(*primals, *d, which=which, **a)


def _grad_jvp(primals, tangents, **a):
    which, d = _split(tangents)
    return grad.bind(*primals, **a), grad_tangent.bind(*primals, *d, which=which, **a)


def _linear(name, shapes, compute, jvp, transpose):
    p = primitive(name, shapes)
    mlir.register_lowering(p, mlir.lower_fun(compute, multiple_results=True))
    ad.primitive_jvps[p], ad.primitive_transposes[p] = jvp, transpose
    return p


tangent = _linear(
    "deformable_offsets_tangent",
    lambda x, offsets, *d, which, **a: [y_like(x, x, offsets, a)],
    _tangent,
    _tangent_jvp,
    _tangent_transpose,
)
second_tangent = _linear(
    "deformable_offsets_second_tangent",
    lambda x, offsets, *d, which, along, **a: [y_like(x, x, offsets, a)],
    _unsupported,
    _unsupported,
    _second_tangent_transpose,
)
grad_tangent = _linear(
    "deformable_offsets_grad_tangent",
    lambda c, x, offsets, *d, which, **a: [x, offsets],
    _grad_tangent,
    _grad_tangent_jvp,
    _grad_tangent_transpose,
)


# y is linear in x, the gradient in its cotangent: for jax.linear_transpose


def _forward_transpose(cotangents, x, offsets, **a):
    (c,) = cotangents
    if type(c) is ad.Zero:
        return None, None
    # grad_x does not depend on x.
    return grad.bind(c, ad.zeros_like_aval(x.aval), offsets, **a)[0], None


def _grad_transpose(cotangents, c, x, offsets, **a):
    which, d = _split(cotangents)
    return tangent.bind(x, offsets, *d, which=which, **a)[0] if d else None, None, None


ad.primitive_jvps[forward] = _forward_jvp
ad.primitive_jvps[grad] = _grad_jvp
ad.primitive_jvps[grad_grad] = _unsupported
ad.primitive_transposes[forward] = _forward_transpose
ad.primitive_transposes[grad] = _grad_transpose
