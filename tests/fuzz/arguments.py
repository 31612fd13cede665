"""Functions with an argument that they can't take."""

from collections.abc import Callable

import jax
import numpy as np

import convert
from convert.torch import import_state_dict
from tests.convert.torch.torch_states import akamaster_state
from tests.fuzz.damage import network
from tests.fuzz.outcome import choose, refused
from tppjax import activations, ann, data, models, neurons
from tppjax.data import Images, Preprocessing


def arguments() -> dict[str, tuple[Callable, tuple]]:
    """Calls by name, each with one argument left open, and what must be refused there."""
    net, x = network(), np.zeros((4, 8, 8, 1), np.uint8)
    plain = net.replace(model=net.model.clone(act=activations.ReLU()))
    snn, free = convert.to_snn(net, 4, "tpp"), convert.to_snn(net, 4, "rounded")
    state = akamaster_state()
    nan = np.where(np.arange(256).reshape(4, 8, 8, 1) == 7, np.nan, 0.5).astype(np.float32)
    numbers = (0, -1, 1.5, "8", float("nan"), float("inf"), -(10**30), [], {})
    floats = (float("nan"), float("inf"), -1.0, "x", [])
    modes = ("TPP", "", 3, {}, {"x": "tpp"}, ["tpp"], None)
    images = (
        *([], None, "x", 3, x[:0], x[0], x[..., 0], np.zeros((4, 9, 8, 1), np.uint8), np.zeros((4, 8, 8, 3), np.uint8)),
        *(
            x.astype(np.int32),
            x.astype(bool),
            x.astype(object),
            x.astype(complex),
            nan,
            -nan,
            (x for _ in range(2)),
            {},
        ),
    )
    keys = (None, 0, "x", jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 3), np.zeros(2, np.uint32))
    holds = {"T": 4, "mode": "rounded"}

    def import_state(**options):
        given = {"dataset": "cifar10", "mean": (0.5,) * 3, "std": (0.2,) * 3}
        return import_state_dict(state, "resnet20", **(given | options))

    def preprocessing(**options):
        given = {"dataset": "x", "input_shape": (8, 8, 1), "mean": (0.5,), "std": (0.2,), "class_names": ("a", "b")}
        return Preprocessing(**(given | options))

    return {
        "to_snn(T=)": (lambda v: convert.to_snn(net, v), (*numbers, None, True)),
        "to_snn(mode=)": (lambda v: convert.to_snn(net, 4, v), modes),
        "Baseline(v_init=)": (lambda v: neurons.Baseline(v_init=v), (*floats[:2], "x", [])),
        "Baseline(shift=)": (lambda v: neurons.Baseline(shift=v), (*floats[:2], "x", [])),
        "Ordered(order=)": (lambda v: convert.to_snn(net, 4, neurons.Ordered(order=v)), ([0, 1], [0, 1, 2, 2], "x", 3)),
        "Burst(gamma=)": (lambda v: neurons.Burst(gamma=v), (0, -1, 1.5, "x", None)),
        "to_snn(params)": (convert.to_snn, (None, {}, net.variables, "x", 3, net.model)),
        "apply(x)": (lambda v: free.apply(v), [v for v in images if np.shape(v) != (0, 8, 8, 1)]),
        "apply(key=)": (lambda v: snn.apply(x, v), keys),
        "trace(key=)": (lambda v: snn.trace(x, v), keys),
        "calibrate(images)": (lambda v: convert.calibrate(plain, v, "max"), images),
        "calibrate(method=)": (lambda v: convert.calibrate(plain, x, v), ("Max", "", None, 3)),
        "calibrate(T=)": (lambda v: convert.calibrate(plain, x, T=v), numbers),
        "calibrate(mode=)": (lambda v: convert.calibrate(plain, x, mode=v), modes),
        "calibrate(per=)": (lambda v: convert.calibrate(plain, x, per=v), ("Channel", None, 3)),
        "calibrate(percentile=)": (
            lambda v: convert.calibrate(plain, x, "percentile", percentile=v),
            (*floats, 0, 101),
        ),
        "calibrate(batch_size=)": (lambda v: convert.calibrate(plain, x, batch_size=v), numbers[:-2]),
        "calibrate(ann)": (lambda v: convert.calibrate(v, x), (None, net, {}, net.model, "x")),
        "correct(images)": (lambda v: convert.correct(net, v, **holds), images),
        "correct(ridge=)": (lambda v: convert.correct(net, x, **holds, method="weights", ridge=v), floats),
        "correct(batch_size=)": (lambda v: convert.correct(net, x, **holds, batch_size=v), numbers[:-2]),
        "correct(mode=)": (lambda v: convert.correct(net, x, T=4, mode=v), modes),
        "report(images)": (lambda v: convert.report(free, v), images),
        "accuracy(images)": (lambda v: ann.accuracy(net, v), (x, None, "x", Images(x[:0], np.zeros(0, np.int32)))),
        "QCFS(L=)": (lambda v: activations.QCFS(L=v), numbers),
        "ClippedReLU(bound=)": (lambda v: activations.ClippedReLU(bound=v), (*floats, 0.0)),
        "models.create(name)": (lambda v: models.create(v, 10, activations.ReLU()), ("ResNet20", "", None)),
        "Preprocessing(mean=)": (lambda v: preprocessing(mean=v), ((), (0.5, 0.5), (float("nan"),), ("x",), None, 0.5)),
        "Preprocessing(std=)": (lambda v: preprocessing(std=v), ((), (0.0,), (-1.0,), (float("inf"),), ("x",), None)),
        "Preprocessing(input_shape=)": (
            lambda v: preprocessing(input_shape=v),
            ((), (8, 8), (8, 8, 0), (8.5, 8, 1), None),
        ),
        "Images(labels)": (lambda v: Images(x, v), (np.zeros(3, np.int32), np.zeros((4, 1), np.int32))),
        "data.load(name)": (lambda v: data.load(v, "train"), ("mnist", "", None)),
        "data.load(split)": (lambda v: data.load("digits", v), ("Test", "", None)),
        "import(mean=)": (lambda v: import_state(mean=v), ((0.5,), (float("nan"),) * 3, ("x",) * 3)),
        "import(std=)": (lambda v: import_state(std=v), ((0.5,), (0.0,) * 3, (float("inf"),) * 3)),
        "import(size=)": (lambda v: import_state(size=v), numbers[:5]),
        "import(layout=)": (lambda v: import_state(layout=v), ("x", "", 3)),
        "import(pool=)": (lambda v: import_state(pool=v), ("max", "min", 3)),
    }


def fuzz_argument(rng: np.random.Generator, calls: dict) -> str | None:
    """Calls a function with one argument that it can't take."""
    name, (call, values) = choose(rng, calls)
    value = values[int(rng.integers(len(values)))]
    said = f"{name} with {repr(value)[:60]} ({type(value).__name__})"
    content, problem = refused(lambda: call(value))
    if problem:
        return f"{said}: {problem}"
    return None if content is None else f"{said}: taken, and gave {repr(content)[:60]}"
