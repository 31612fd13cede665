"""The zoo's page: reasons in short, and every network in one of its tables."""

import pytest

import convert
from benchmarks import zoo
from tppjax.errors import InputError


def test_reasons_are_those_of_both_kinds_of_refusal(torch):
    from torch import nn

    for layers, expected in (
        ([nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 1), nn.GELU()], "GELU (activation.py:"),
        ([nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)], "max-pooling of values that can be negative, "),
        ([nn.Conv2d(3, 4, 3)], "the network has no activation"),
    ):
        with pytest.raises(InputError) as e:
            convert.from_torch(nn.Sequential(*layers), zoo.images(1, 8, 0))
        assert zoo.reason(str(e.value)).startswith(expected)
        assert "\n" not in zoo.reason(str(e.value))


def test_the_page_has_every_network():
    found = {"size": 64, "parameters": 10**7, "activations": ["ReLU"], "seconds": 2.0}
    rows = {
        "timm/a": {**found, "sites": 3, "apart": 1e-6, "agreement": 87.5, "error": 0.1},
        "timm/b": {**found, "sites": 3, "apart": 1e-6, "not_spiking": "nothing ever fires"},
        "timm/c": {**found, "refused": "layer norm (c.py:3)"},
        "timm/d": {"failed": "not done after 15 minutes"},
    }
    about = {"command": "make", "date": "today", "versions": {"jax": "1"}, "python": "3", "hardware": "2 CPU cores"}
    page = zoo.page(about, rows)
    assert "4 in all" in page
    assert "2 convert, 1 are refused, 1 failed" in page
    assert "2 of 3 convert" in page
    assert all(f"| {name} |" in page for name in rows)
