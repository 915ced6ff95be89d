# SPDX-License-Identifier: Apache-2.0
"""How an operator gets its derivatives: one kernel at PyTorch's Autograd key, reverse and forward mode.

torch.library.register_autograd alone would leave forward mode silently zero. A rule gives the exact tangent, or
its operator raises.
"""

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

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
    defaults = {a.name: a.default_value for a in operator._schema.arguments if a.kwarg_only and a.has_default_value()}
    count = sum(not a.kwarg_only for a in operator._schema.arguments)

    def below(keyset, tensors, attributes):
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & _BELOW, *tensors, **attributes)

    class Derivatives(torch.autograd.Function):
        @staticmethod
        def forward(keyset, attributes, *tensors):
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

    # As of a built-in operator: functorch has peeled off its transform when it calls this kernel, and
    # torch.autograd.Function's own apply would begin with the transforms again.
    single_level_apply = super(torch.autograd.Function, Derivatives).apply

    def apply(*args):
        if not torch._C._are_functorch_transforms_active():
            return single_level_apply(*args)
        with enable_single_level_autograd_function():
            return single_level_apply(*args)

    def kernel(keyset, *tensors, **given):
        tensors += (None,) * (count - len(tensors))
        attributes = defaults | given
        present = [t for t in tensors if t is not None]
        if torch.is_grad_enabled() and any(t.requires_grad for t in present) or has_tangent(present):
            return apply(keyset, attributes, *tensors)
        return below(keyset, tensors, attributes)

    LIBRARY.impl(operator.name().removeprefix("tapfield::"), kernel, "Autograd", with_keyset=True)


def has_tangent(tensors):
    return (
        forward_ad._current_level >= 0
        and torch._C._is_fwd_grad_enabled()
        and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    )
