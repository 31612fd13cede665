"""State dicts with the keys of public repositories, random and narrow, made without PyTorch."""

import numpy as np


def drawn(shapes):
    """An array for each key, normally distributed, positive where it is a variance or a threshold."""
    positive, rng = ("running_var", ".up", ".thresh"), np.random.default_rng(5)
    draw = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    return {key: np.abs(array) + 0.5 if key.endswith(positive) else array for key, array in draw.items()}


def norm_shapes(name, channels):
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def akamaster_state(channels=2, blocks=3, classes=10):
    shapes = {"conv1.weight": (channels, 3, 3, 3), **norm_shapes("bn1", channels)}
    i = channels
    for stage in (1, 2, 3):
        for block in range(blocks):
            o = channels * 2 ** (stage - 1)
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (o, i, 3, 3), **norm_shapes(f"{name}.bn1", o)}
            shapes |= {f"{name}.conv2.weight": (o, o, 3, 3), **norm_shapes(f"{name}.bn2", o)}
            i = o
    return drawn(shapes | {"linear.weight": (classes, i), "linear.bias": (classes,)})


SNNC_VGG = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
POOLED = (3, 10, 20, 30, 40)
QCFS_VGG = {1: (0, 4), 2: (0, 4), 3: (0, 4, 8), 4: (0, 4, 8), 5: (0, 4, 8)}


def snnc_vgg_state(width=3, side=2):
    shapes = {}
    for at in SNNC_VGG:
        shapes |= {f"features.{at}.weight": (width, width, 3, 3), f"features.{at}.bias": (width,)}
        shapes |= norm_shapes(f"features.{at + 1}", width)
    return drawn(shapes | {"classifier.weight": (10, width * side**2), "classifier.bias": (10,)})


def qcfs_vgg_state(threshold="thresh", width=3):
    shapes = {}
    for stage, places in QCFS_VGG.items():
        for at in places:
            name = f"layer{stage}.{at}"
            shapes |= {f"{name}.weight": (width, width, 3, 3), f"{name}.bias": (width,)}
            shapes |= norm_shapes(f"layer{stage}.{at + 1}", width) | {f"layer{stage}.{at + 2}.{threshold}": (1,)}
    for at, (i, o) in {1: (width, 5), 4: (5, 4), 7: (4, 10)}.items():
        shapes |= {f"classifier.{at}.weight": (o, i), f"classifier.{at}.bias": (o,)}
    return drawn(shapes | {f"classifier.2.{threshold}": (1,), f"classifier.5.{threshold}": (1,)})
