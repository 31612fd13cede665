"""What lies between two layers of spiking neurons must be linear, and must not care what axes stand before an image's.

The network is traced with every activation replaced by the identity, and each operation that the input reaches is
looked up. So a ReLU written into a stem, a max-pool or an attention layer is found before anyone wonders about the
accuracy.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from tppjax.checks import logits_shape, of_structure
from tppjax.models.layers import avg_pool

LINEAR = {
    *("add", "add_any", "sub", "neg", "reduce_sum", "cumsum", "reduce_window_sum"),
    *("reshape", "transpose", "squeeze", "broadcast_in_dim", "expand_dims", "rev", "concatenate", "pad", "copy"),
    *("slice", "split", "convert_element_type", "optimization_barrier", "sharding_constraint", "name"),
}
BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
FIRST_ONLY = {"div", "gather", "dynamic_slice"}  # linear in the first operand, the others must not depend on the input
LAST_ONLY = {"select_n"}  # linear in all operands but the first


class Identity(nn.Module):
    """Stands in for an activation while the rest of the network is looked at; pools the average for the maximum."""

    max_pool: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(self, x):
        """`x`, any shape."""
        return avg_pool(x, self.max_pool)


@of_structure
def fixed_axes(model: nn.Module, variables, input_shape) -> str:
    """Why `model` can't take an image with no axis before its own, or with any other than one; "" if it can.

    Arguments as `nonlinear`. Two axes, of sizes that nothing else has, show by the shape of the logits whether a layer
    counts from the front; a layer that can't have two axes at all tells nothing.

    Raises:
      InputError: as `logits_shape`.
    """
    through = model.clone(act=Identity())

    def result(*lead):
        return jax.eval_shape(through.apply, variables, jax.ShapeDtypeStruct((*lead, *input_shape), jnp.float32)).shape

    _, *of_one = logits_shape(through, variables, input_shape)
    for lead in ((), (101, 103)):
        try:
            shape = result(*lead)
        except Exception as e:  # whatever their layers raise
            if lead:
                continue
            return f"With one image {input_shape}: {type(e).__name__}: {e}"
        if shape != (*lead, *of_one):
            return f"With images {(*lead, *input_shape)} it gives {shape}, not {(*lead, *of_one)}"
    return ""


@of_structure
def nonlinear(model: nn.Module, variables, input_shape) -> tuple[str, ...]:
    """Every operation outside the sites of `model.act` that is not linear in the input, as "operation at 'path'".

    Args:
      model: the network, with the field `act`.
      variables: its variables; only shapes are used.
      input_shape: of one example.
    """
    through = model.clone(act=Identity())
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x, variables: through.apply(variables, x))(x, variables).jaxpr
    return tuple(dict.fromkeys(_nonlinear(jaxpr, [True] + [False] * (len(jaxpr.invars) - 1), "")))


def _nonlinear(jaxpr, reached: list[bool], path: str):
    """Walks the operations; `reached` says which of `jaxpr.invars` depend on the input."""
    dependent = {var for var, hit in zip(jaxpr.invars, reached, strict=True) if hit}
    for eqn in jaxpr.eqns:
        hits = [not isinstance(var, core.Literal) and var in dependent for var in eqn.invars]
        if not any(hits):
            continue
        dependent.update(eqn.outvars)
        where = "/".join(filter(None, (path, str(eqn.source_info.name_stack))))
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
        name = eqn.primitive.name
        if inner is not None and name not in ("scan", "while", "cond"):
            yield from _nonlinear(getattr(inner, "jaxpr", inner), hits, where)
        elif not _is_linear(name, hits):
            yield f"{name} at {where!r}"


def _is_linear(name: str, hits: list[bool]) -> bool:
    return (
        name in LINEAR
        or (name in BILINEAR and sum(hits) == 1)
        or (name in FIRST_ONLY and hits[0] and not any(hits[1:]))
        or (name in LAST_ONLY and not hits[0])
    )
