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

ROUNDING = 1e-4  # of the parameters, after 24 steps
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

out, dies_at, feed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
loop.input_pipeline.resident = getattr(loop.input_pipeline, feed)
original = loop.Run.checkpoint
def checkpoint(run, state):
    if int(state.step) == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    original(run, state)
loop.Run.checkpoint = checkpoint

def main(config):
    digits.main(config)
    evaluate.main(Evaluate(ann=out, **{evaluation}))
sys.argv = ["train.digits", *sys.argv[4:], "--out", str(out)]
cli.run(main, Digits)
"""


def start(out, *options, hosts=2, devices=2, feed="resident", dies_at=(0, 0)):
    """The processes of all hosts; one whose `dies_at` is a step is killed before it saves a checkpoint there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*s.getsockname())
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    shared = {**os.environ, "XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(hosts)}
    code = HOST.replace("{evaluation}", repr(EVALUATION))
    given = ["--limit_train", "512", "--epochs", "3", "--L", "4", "--checkpoint_every", "4", *options]
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out), str(dies_at[i]), feed, *given],
            env={**shared, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(hosts)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The network of the run on one device."""
    return digits.main(replace(TRAINING, out=tmp_path_factory.mktemp("alone") / "run"))


def check(processes, out, alone, hardware):
    """The processes end well; the network is that of one device, and the table is what one device says of it."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert {process.returncode for process in processes} == {0}, said
    ours = json.loads((out / "snn" / "results.json").read_text())
    assert ours["rows"][0]["hardware"].startswith(hardware)
    one = evaluate.main(Evaluate(ann=out, out=out.parent / "one", **EVALUATION))
    assert [row["accuracy"] for row in ours["rows"]] == [row["accuracy"] for row in one["rows"]]
    network = ann.load(out)
    jax.tree.map(partial(np.testing.assert_allclose, atol=ROUNDING), network.variables, alone.variables)
    return said


@pytest.mark.slow
def test_a_run_on_two_hosts_outlives_one_of_them_and_ends_as_on_one_device(alone, tmp_path):
    """Killed after the second epoch, before its checkpoint; all then go on from the one before, within that epoch.

    Images come from memory until then, and as those on disk do afterwards, where each host reads its own.
    """
    out = tmp_path / "run"
    first, second = start(out, "--distributed", dies_at=(0, 16))
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    first.kill()  # which would find out and stop, when JAX has waited for the other long enough
    assert "epoch   1" in first.communicate()[0]
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["12"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2  # the second is made again
    said = check(start(out, "--distributed", "--resume", feed="streamed"), out, alone, "2 hosts, 4 x cpu")
    # One host prints, and writes each line once.
    assert ["epoch   3" in text for text in said] == [True, False]
    assert [line["epoch"] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_a_run_on_four_devices_ends_as_on_one(alone, tmp_path, feed):
    check(start(tmp_path / "run", hosts=1, devices=4, feed=feed), tmp_path / "run", alone, "4 x cpu")
