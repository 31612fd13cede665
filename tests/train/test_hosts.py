"""Training and evaluation on several hosts: two processes with two devices each, on one machine."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from configs.digits import Digits
from convert import evaluate
from convert.evaluate import Evaluate
from tppjax import ann
from train import digits

HOSTS, DEVICES = 2, 2
TRAINING = Digits(limit_train=512, epochs=3, L=4)  # 8 steps an epoch
EVALUATION = {"modes": ("baseline", "tpp"), "T": (4,), "seeds": 2, "limit": 51}

HOST = """
import os, signal, sys
from pathlib import Path
from configs.digits import Digits
from convert import evaluate
from convert.evaluate import Evaluate
from tppjax import cli
from train import digits, loop

out, dies_at = Path(sys.argv[1]), int(sys.argv[2])
original = loop.Run.checkpoint
def checkpoint(run, state):
    if int(state.step) == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    original(run, state)
loop.Run.checkpoint = checkpoint

def main(config):
    digits.main(config)
    evaluate.main(Evaluate(ann=out, **{evaluation}))
sys.argv = ["train.digits", *sys.argv[3:], "--out", str(out)]
cli.run(main, Digits)
"""


def start(out, *options, dies_at=(0, 0)):
    """The processes of all hosts; one whose `dies_at` is a step is killed before it saves a checkpoint there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*s.getsockname())
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    shared = {**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(HOSTS)}
    code = HOST.replace("{evaluation}", repr(EVALUATION))
    given = ["--limit_train", "512", "--epochs", "3", "--L", "4", "--checkpoint_every", "4", "--distributed", *options]
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out), str(dies_at[i]), *given],
            env={**shared, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(HOSTS)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The network of the run on one device, and its table."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return digits.main(replace(TRAINING, out=out)), evaluate.main(Evaluate(ann=out, **EVALUATION))


@pytest.mark.slow
def test_a_run_on_two_hosts_outlives_one_of_them_and_ends_as_on_one_device(alone, tmp_path):
    """Killed after the second epoch, before its checkpoint; all then go on from the one before, within that epoch."""
    out = tmp_path / "run"
    first, second = start(out, dies_at=(0, 16))
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    first.kill()  # which would find out and stop, when JAX has waited for the other long enough
    assert "epoch   1" in first.communicate()[0]
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["12"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2  # the second is made again
    hosts = start(out, "--resume")
    said = [host.communicate(timeout=240)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    network, table = alone
    close = partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-2)
    jax.tree.map(close, ann.load(out).variables, network.variables)
    ours = json.loads((out / "snn" / "results.json").read_text())
    assert ours["rows"][0]["hardware"].startswith("2 hosts, 4 x cpu")
    for here, there in zip(ours["rows"], table["rows"], strict=True):
        np.testing.assert_allclose(here["accuracy"], there["accuracy"], atol=100 * 2 / 51)
    # One host prints, and writes each line once.
    assert ["epoch   3" in text for text in said] == [True, False]
    assert [line["epoch"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())] == [1, 2, 3]
