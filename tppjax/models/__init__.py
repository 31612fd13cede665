"""Networks with the activation injected: `create(name, num_classes, act)`.

A model puts `act.copy(name=...)` at each site and has no other nonlinearity, so that one architecture trains with any.
"""

from functools import partial
from typing import Any

import flax.linen as nn

from tppjax.errors import InputError
from tppjax.models.regnet import RegNet
from tppjax.models.resnet import ResNet
from tppjax.models.vgg import VGG

MODELS = {
    "vgg16": partial(
        VGG, stages=((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), hidden=(4096, 4096)
    ),
    "vgg_small": partial(VGG, stages=((16, 16), (32, 32))),
    "resnet20": partial(ResNet, blocks=(3, 3, 3)),
    "resnet32": partial(ResNet, blocks=(5, 5, 5)),
    "resnet44": partial(ResNet, blocks=(7, 7, 7)),
    "resnet56": partial(ResNet, blocks=(9, 9, 9)),
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2), channels=64),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3), channels=64),
    "regnetx_4gf": partial(RegNet, blocks=(2, 5, 14, 2), widths=(80, 240, 560, 1360), group=40),
}


def create(name: str, num_classes: int, act: nn.Module, **options: Any) -> Any:
    """The model called `name`, with `act` at each site.

    Args:
      name: one of `MODELS`.
      num_classes: number of classes.
      act: template of the activation, such as `QCFS(L=8)`.
      **options: attributes of the model's class that differ from the named model's, such as `hidden=()` or `width=4`.

    Returns:
      A Flax module with the attributes `name` and `act`.

    Raises:
      InputError: on an unknown name or option.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    known = set(MODELS[name].func.__annotations__) - {"act", "num_classes", "name", "parent"}
    if unknown := set(options) - known:
        raise InputError(f"{name} has no option {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return MODELS[name](act=act, num_classes=num_classes, name=name, **options)
