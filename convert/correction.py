"""Correction after conversion: what reaches a layer of the SNN is brought back to what reaches it in the ANN.

Spikes carry less than activations: they are clipped, rounded and, in random modes, noisy. Layer by layer, from the
first to the logits, with everything before it converted and corrected, the difference is measured on calibration images
and made good in the weights that feed the layer: in biases alone, or in kernels and biases by least squares.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from tqdm import tqdm

from convert.fold import fold_batch_norm, known
from convert.snn import example_keys, to_snn
from tppjax import prng
from tppjax.ann import Ann, watching
from tppjax.batching import batches
from tppjax.checks import check_ann, check_images
from tppjax.errors import InputError, check_count, check_number

LOGITS = "logits"  # where the network ends


class Linear(NamedTuple):
    """A convolution, or a dense layer, which has no kernel size.

    Attributes:
      path: in the network.
      shape: of its output.
      kernel_size: and `strides` and `padding`, as in `nn.Conv`.
      plain: over two axes, without groups, dilation and uneven padding.
      direct: whether its output is the very input of what it feeds.
    """

    path: str
    shape: tuple[int, ...]
    kernel_size: tuple[int, ...] = ()
    strides: int | tuple[int, ...] = 1
    padding: int | str = 0
    plain: bool = True
    direct: bool = False


def correct(
    ann: Ann, images, T: int, mode: str, *, weights=False, ridge=1e-3, seed=0, batch_size=None, progress=None, **options
) -> Ann:
    """The network changed so that its spiking version of this `T` and `mode` comes nearer to what it was.

    Args:
      ann: a network with thresholds; batch norm is folded into its weights first.
      images: calibration images `[N, H, W, C]`, of the training set.
      T: number of time steps of the SNN that it is for.
      mode: likewise its neurons.
      weights: kernels and biases by least squares; otherwise biases, by the mean difference of each channel.
      ridge: of least squares: penalty on the change, in parts of the mean square of the layer's inputs; at least 1e-6,
        below which rounding would decide where the images don't.
      seed: of the draws of random modes.
      batch_size: images a call; by default up to 100, as many as suit the device's memory.
      progress: name of a progress bar over the layers, shown on a terminal.
      **options: of `to_snn`.

    Returns:
      The corrected network, without batch norm.

    Raises:
      InputError: as `to_snn` and `fold_batch_norm`; if a number is out of range; if the images don't fit; or if a layer
        has no bias, has groups, or is not one of those whose sum feeds a site. Only in networks of `models.MODELS` may
        there be several, or something between them and the site.
    """
    check_ann(ann)
    ann = fold_batch_norm(ann)
    snn = to_snn(ann, T, mode, **options)
    images = check_images(ann, images, "correction")
    check_number("ridge", ridge, 1e-6)
    check_count("seed", seed, 0)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    batch_size = batch_size or min(100, snn.batch_size(images.shape[1:]))
    keys = example_keys(jax.random.key(seed, impl=prng.HASH), np.arange(len(images)))
    fed = feeding(ann, images.shape[-3:])
    _check(fed, ann, weights)
    for site, layers in tqdm(fed.items(), desc=progress, disable=None if progress else True, leave=False):
        sums = None
        for x, key in zip(batches(images, batch_size), batches(keys, batch_size), strict=True):
            lacking, inputs = _look(ann, snn, x, key)
            features = [inputs[layer.path] for layer in layers] if weights else []
            new = jax.tree.map(np.float64, _normal_equations(layers if weights else (), features, lacking[site]))
            sums = new if sums is None else jax.tree.map(np.add, sums, new)
        changed = _changed(snn.variables, layers, _solution(*sums, ridge))
        snn = snn.replace(ann=snn.ann.replace(variables=changed))
    what = "weights" if weights else "biases"
    done = f"{what} corrected layer by layer at T={T} for {mode}, on {len(images)} images"
    return ann.replace(variables=snn.variables, history=(*ann.history, done))


def feeding(ann: Ann, input_shape) -> dict[str, tuple[Linear, ...]]:
    """The linear layers between each site and the one before it, in the order in which they run."""
    feeding, since = {}, []

    def end(place, x):
        feeding[place] = tuple(layer._replace(direct=y is x) for layer, y in since)
        since.clear()

    def record(path, module, x, y):
        if isinstance(module, nn.Conv):
            size = np.atleast_1d(module.kernel_size)
            plain = (module.feature_group_count, module.kernel_dilation, module.input_dilation) == (1, 1, 1)
            plain = plain and len(size) == 2 and (module.padding in ("SAME", "VALID") or type(module.padding) is int)
            layer = Linear(path, y.shape, tuple(size.tolist()), module.strides or 1, module.padding, plain)
            since.append((layer, y))
        elif isinstance(module, nn.Dense):
            since.append((Linear(path, y.shape), y))
        else:
            end(path, x)

    with watching((nn.Conv, nn.Dense, type(ann.model.act)), record):
        jax.eval_shape(lambda x: end(LOGITS, ann.apply(x)), jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    return feeding


def _check(fed: dict[str, tuple[Linear, ...]], ann: Ann, weights: bool) -> None:
    """Every refusal before anything is computed."""
    params = traverse_util.flatten_dict(ann.variables["params"], sep="/")
    paths = [layer.path for layers in fed.values() for layer in layers]
    if again := sorted({path for path in paths if paths.count(path) > 1}):
        raise InputError(f"can't correct {', '.join(again)}, since it runs more than once: make a layer for each place")
    for site, layers in fed.items():
        if not known(ann.model) and [layer.direct for layer in layers] != [True]:
            raise InputError(
                f"can't correct what feeds {site}: outside tppjax.models that must be one nn.Conv or nn.Dense, with "
                f"nothing between; found {', '.join(layer.path for layer in layers) or 'none'}. Convert without correct"
            )
        if unfit := [layer.path for layer in layers if weights and not layer.plain]:
            raise InputError(f"can't correct the weights of {', '.join(unfit)}: groups, dilation or uneven padding")
        if len({layer.shape for layer in layers}) != 1:
            raise InputError(
                f"can't correct what feeds {site}: it takes one layer, or several whose outputs are added; found "
                + (", ".join(f"{layer.path} {layer.shape[1:]}" for layer in layers) or "none")
            )
        if f"{layers[0].path}/bias" not in params:
            raise InputError(f"{layers[0].path} has no bias to correct; build the network with use_bias=True there")


def _inspect(model, variables, x, **options):
    """`({site: its input, "logits": the logits}, {linear layer: its input})`, and the collections in `mutable`."""
    at, inputs = {}, {}

    def record(path, module, x, y):
        (at if type(module) is type(model.act) else inputs)[path] = x

    with watching((nn.Conv, nn.Dense, type(model.act)), record):
        at[LOGITS], collections = model.apply(variables, x, **{"mutable": [], **options})
    return (at, inputs), collections


@jax.jit
def _look(ann, snn, x, key):
    """What the SNN lacks at each site, ANN less SNN, and what its linear layers get: means over time, `[B, ...]`."""
    (wanted, _), _ = _inspect(ann.model, ann.variables, ann.input(x))
    there, inputs = snn.look(x, key if snn.random else None, _inspect)
    return jax.tree.map(jnp.subtract, wanted, there), inputs


@partial(jax.jit, static_argnums=0)
def _normal_equations(layers: tuple[Linear, ...], inputs, lacking):
    """`(X^T X, X^T Y)` of least squares; a row of X is what an output sees of its layers' inputs, and a 1."""
    y = lacking.reshape(-1, lacking.shape[-1])
    x = [_patches(layer, a) for layer, a in zip(layers, inputs, strict=True)]
    x = jnp.concatenate([*x, jnp.ones((len(y), 1))], axis=1)
    return x.T @ x, x.T @ y


def _patches(layer: Linear, x):
    """`[outputs, inputs an output sees]`: for a convolution channel by channel, each with its window."""
    if not layer.kernel_size:
        return x.reshape(-1, x.shape[-1])
    strides = (layer.strides,) * 2 if isinstance(layer.strides, int) else layer.strides
    padding = layer.padding if isinstance(layer.padding, str) else [(layer.padding,) * 2] * 2
    seen = jax.lax.conv_general_dilated_patches(
        x, layer.kernel_size, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return seen.reshape(-1, seen.shape[-1])


def _solution(gram, moments, ridge: float) -> np.ndarray:
    """Change of the weights, `[inputs an output sees + 1, C]`; the bias is not penalised."""
    penalty = np.full(len(gram), ridge * np.trace(gram) / len(gram))
    penalty[-1] = 0
    return np.linalg.solve(gram + np.diag(penalty), moments)


def _changed(variables, layers: tuple[Linear, ...], change: np.ndarray) -> dict:
    """The variables with `change` added to the kernels of `layers`, if it has rows for them, and to the first bias."""
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    *kernels, bias = change
    kernels = np.array(kernels)
    for layer in layers if len(kernels) else ():
        old = params[f"{layer.path}/kernel"]
        part, kernels = np.split(kernels, [old[..., 0].size])
        if layer.kernel_size:  # [in, h, w, out] to [h, w, in, out]
            part = np.moveaxis(part.reshape(old.shape[2], *layer.kernel_size, -1), 0, 2)
        params[f"{layer.path}/kernel"] = np.float32(old + part)
    at = f"{layers[0].path}/bias"
    params[at] = np.float32(params[at] + bias)
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}
