# SPDX-License-Identifier: Apache-2.0
"""How an operator gets its derivatives: one kernel at PyTorch's Autograd key, reverse and forward mode.

torch.library.register_autograd alone would leave forward mode silently zero. A rule gives the exact tangent, or
its operator raises.
"""

import contextlib

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

LIBRARY = torch.library.Library("tapfield", "FRAGMENT")
_BELOW = torch._C._after_autograd_keyset


def differentiable(operator, backward, tangents=None):
    """Registers the derivatives of `operator`, an OpOverload whose tensors are all positional.

    backward(wanted, tensors, grads, attributes)     the gradients of its tensors, None where not wanted
    tangents(tensors, tangents, outputs, attributes) the tangents of its outputs, a tuple; None in `tangents`
                                                     means zero. Without it forward mode raises.
    Both are made of differentiable operators. `tensors` holds the operator's tensors, None where absent;
    `attributes` its other arguments, by name.
    """
    defaults = {
        a.name: a.default_value for a in operator._schema.arguments if a.kwarg_only and a.has_default_value()
    }
    count = sum(not a.kwarg_only for a in operator._schema.arguments)

    def below(keyset, tensors, attributes):
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & _BELOW, *tensors, **attributes)

    # _SingleLevelFunction is torch.autograd.Function without torch.func's transforms: these have peeled off a level
    # already when they call this kernel, as they do for PyTorch's own operators.
    class Derivatives(_SingleLevelFunction):
        @staticmethod
        def forward(keyset, attributes, *tensors):
            with _levels_below():
                return below(keyset, tensors, attributes)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, ctx.attributes, *tensors = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors, *((output,) if isinstance(output, torch.Tensor) else output))

        @staticmethod
        def backward(ctx, *grads):
            if all(g is None for g in grads):
                return (None,) * (count + 2)
            return None, None, *backward(ctx.needs_input_grad[2:], ctx.saved_tensors, grads, ctx.attributes)

        @staticmethod
        def jvp(ctx, _keyset, _attributes, *given):
            if tangents is None:
                raise NotImplementedError(f"{operator} has no forward-mode derivative")
            tensors, outputs = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
            moved = tangents(tensors, given, outputs, ctx.attributes)
            return moved[0] if len(outputs) == 1 else moved

    def kernel(keyset, *tensors, **given):
        present = [t for t in tensors if t is not None]
        if torch.is_grad_enabled() and any(t.requires_grad for t in present) or has_tangent(present):
            with _one_level():
                return Derivatives.apply(
                    keyset, defaults | given, *tensors, *(None,) * (count - len(tensors))
                )
        return operator.redispatch(keyset & _BELOW, *tensors, **given)

    LIBRARY.impl(operator.name().removeprefix("tapfield::"), kernel, "Autograd", with_keyset=True)


def call(operator, *tensors, **attributes):
    """operator(*tensors, **attributes), past its Autograd kernel where that has nothing to do: it costs as much as the
    rest of a small call."""
    if (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return operator(*tensors, **attributes)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*tensors, **attributes)


def has_tangent(tensors):
    return (
        forward_ad._current_level >= 0
        and torch._C._is_fwd_grad_enabled()
        and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    )


# ------ Under torch.func's transforms

_NOTHING = contextlib.nullcontext()


def _one_level():
    return (
        enable_single_level_autograd_function() if torch._C._are_functorch_transforms_active() else _NOTHING
    )


@contextlib.contextmanager
def _differentiating():
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield


def _levels_below():
    """A Function's forward runs without derivatives; outer transforms still want theirs."""
    return _differentiating() if torch._C._are_functorch_transforms_active() else _NOTHING
