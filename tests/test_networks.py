"""The network in networks/ is whole, and as accurate as README says."""

import json
from pathlib import Path

import pytest

from convert import evaluate
from convert.evaluate import Evaluate
from tppjax import ann

NETWORK = Path(__file__).parent.parent / "networks" / "cifar10-qcfs-resnet20"


def test_it_is_that_of_the_run_beside_it():
    config = json.loads((NETWORK / "config.json").read_text())
    metrics = [json.loads(line) for line in (NETWORK / "metrics.jsonl").read_text().splitlines()]
    network = ann.load(NETWORK)
    assert (network.model.name, network.model.act.L) == (config["arch"], config["L"]) == ("resnet20", 4)
    assert [m["epoch"] for m in metrics] == list(range(1, config["epochs"] + 1))


@pytest.mark.slow
def test_it_is_as_accurate_as_claimed(real_cifar10, tmp_path):
    config = Evaluate(
        ann=NETWORK, data_dir=Path(real_cifar10), modes=("tpp", "rounded"), T=(4, 8), seeds=2, out=tmp_path
    )
    results = evaluate.main(config)
    accuracy = {(row["mode"], row["T"]): row["mean"] for row in results["rows"]}
    assert results["ann"] == pytest.approx(91.59, abs=0.1)
    assert accuracy["rounded", 4] == pytest.approx(results["ann"], abs=0.02)  # T = L: they round differently
    assert accuracy["tpp", 4] == pytest.approx(89.36, abs=0.6)
    assert accuracy["tpp", 8] == pytest.approx(91.88, abs=0.6)
