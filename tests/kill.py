"""`python -m tests.kill`: every command that writes is killed again and again; it must lose nothing and end the same.

Each command runs in a fork of this process and is killed by SIGKILL, in turns at a random moment and before its n-th
operation on a file, n drawn at random. After each kill, what could be read before must still be readable. Then the
command is given again, as a user would; when it comes to its end, it must leave what it leaves undisturbed.
"""

import contextlib
import json
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro

from configs.digits import Digits
from convert import evaluate
from convert.evaluate import Evaluate
from convert.studies import spikes
from convert.studies.spikes import Spikes
from convert.torch import command
from convert.torch.command import FromTorch
from tests.convert.torch.torch_states import akamaster_state
from tests.tppjax.data import pictures
from tests.tppjax.data.test_cifar import make_archive
from tppjax import ann, data, files
from tppjax.data import cifar, jpegs
from train import digits

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Kill:
    """Kill commands that write, and see what is lost."""

    kills: int = 50
    """Of each command."""

    only: str = ""
    """Commands whose name begins so."""

    seed: int = 0
    """Of the moments."""


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
      run: `run(shared, out)` does what the command does, and goes on where an earlier one was killed.
      kept: `kept(out)` gives what can be read there, by name; once an entry is there it must not go, and it must not
        change if the case is `final`. It raises if anything is there but can't be read.
      final: whether what is kept never changes.
    """

    run: Callable[[Path, Path], None]
    kept: Callable[[Path], dict]
    final: bool = True


def prepare(shared: Path) -> None:
    """What the commands begin with: a trained network, and the sources of data sets."""
    digits.main(Digits(out=shared / "digits", epochs=1, limit_train=128))
    original, _ = make_archive(shared / "cifar.tar.gz", "cifar10", per_file=40)
    (shared / "original").write_bytes(pickle.dumps(original))
    pictures.in_folders(shared / "pictures", pictures.contents())
    import safetensors.numpy

    safetensors.numpy.save_file(akamaster_state(channels=4), shared / "weights.safetensors")


def training(shared: Path, out: Path) -> None:
    """`python -m train.digits`, with --resume where there is something to resume."""
    config = Digits(out=out, epochs=3, limit_train=128, L=4, checkpoint_every=1)
    digits.main(replace(config, resume=(out / "config.json").is_file()))


def trained(out: Path) -> dict:
    """The network, and the metrics of all epochs."""
    file = out / "metrics.jsonl"
    lines = [line for line in file.read_text().splitlines(keepends=True) if line[-1] == "\n"] if file.is_file() else []
    metrics = [{**json.loads(line), "seconds": 0} for line in lines]
    return network(out) | ({"metrics": metrics} if metrics else {})


def network(out: Path) -> dict:
    """The network, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        return {"network": ann.fingerprint(ann.load(out))}
    return {}


def importing(shared: Path, out: Path) -> None:
    """`python -m convert.from_torch`, twice, so that the second one replaces the network of the first."""
    for _ in range(2):
        command.main(FromTorch(shared / "weights.safetensors", "resnet20", out=out))


def evaluation(shared: Path, out: Path) -> None:
    """`python -m convert.evaluate`."""
    evaluate.main(Evaluate(ann=shared / "digits", out=out, modes=("tpp", "rounded"), T=(1, 2), seeds=2, limit=40))


def study(shared: Path, out: Path) -> None:
    """`python -m convert.studies spikes`."""
    spikes.main(Spikes(ann=shared / "digits", out=out, modes=("baseline", "tpp"), T=(2,), seeds=2, limit=20))


def rows(out: Path) -> dict:
    """The rows measured so far."""
    found = [files.read_json(file, "") for file in out.rglob("results.json")]
    return {f"{r['mode']} {r['T']}": r["accuracy"] for results in found for r in results["rows"]}


def preparing_cifar(shared: Path, out: Path) -> None:
    """`python -m tppjax.data.cifar`."""
    cifar.prepare("cifar10", out, shared / "cifar.tar.gz", pickle.loads((shared / "original").read_bytes()))


def preparing_pictures(shared: Path, out: Path) -> None:
    """`python -m tppjax.data.jpegs`."""
    jpegs.prepare(shared / "pictures", out, per_shard=4)


def data_set(name: str) -> Callable[[Path], dict]:
    """What tells the data set in a folder, if it is there whole."""

    def kept(out: Path) -> dict:
        with contextlib.suppress(FileNotFoundError):
            return {split: data.load(name, split, out).digest() for split in ("train", "test")}
        return {}

    return kept


CASES = {
    "train": Case(training, trained, final=False),
    "evaluate": Case(evaluation, rows),
    "studies": Case(study, rows),
    "from_torch": Case(importing, network),
    "cifar": Case(preparing_cifar, data_set("cifar10")),
    "jpegs": Case(preparing_pictures, data_set("imagenet2012")),
}


def forked(fn, *args, seconds: float | None = None, operation: int | None = None, within: Path | None = None):
    """`fn(*args)` in a process of its own, which may be killed after some seconds or before an operation on a file.

    Returns:
      What it returned and the number of its operations on files below `within`; None if it was killed.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        count = 0

        def watch(event, arguments):
            nonlocal count
            if event in OPERATIONS and str(arguments[0]).startswith(str(within)):
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        try:
            outcome = fn(*args), count
        except BaseException as e:
            outcome = e
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome if not isinstance(outcome, BaseException) else repr(outcome), pipe)
        os._exit(0)
    os.close(write)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        return None
    outcome = pickle.loads(answer)
    if isinstance(outcome, str):
        raise AssertionError(f"{getattr(fn, '__name__', fn)}: {outcome}")
    return outcome


def disturb(case: Case, shared: Path, folder: Path, kills: int, rng: np.random.Generator) -> int:
    """Kills the case so often.

    Returns:
      How many runs came to their end in between.

    Raises:
      AssertionError: if something was lost, or a run ended otherwise than undisturbed.
    """
    out, ended = folder / "undisturbed", 0
    forked(case.run, shared, folder / "warm")  # fills the compilation cache
    started = time.perf_counter()
    _, operations = forked(case.run, shared, out, within=out.parent)
    whole, _ = forked(case.kept, out)
    duration, before, out = time.perf_counter() - started, {}, folder / "0"
    for i in range(kills):
        when = {"seconds": rng.uniform(0, duration)} if i % 2 else {"operation": int(rng.integers(1, operations + 1))}
        done = forked(case.run, shared, out, within=out.parent, **when)
        after, _ = forked(case.kept, out)
        lost = {name for name in before if name not in after or (case.final and after[name] != before[name])}
        assert not lost, f"kill {i} ({when}) lost {lost} of {out}"
        before = after
        if done is not None:
            assert after == whole, f"{out} ended with {after}, not {whole}"
            ended, before, out = ended + 1, {}, folder / str(i + 1)
    forked(case.run, shared, out)
    assert forked(case.kept, out)[0] == whole, f"{out} ended otherwise than undisturbed"
    return ended + 1


def main(config: Kill) -> None:
    """Prints a line for each command; an AssertionError says what was lost."""
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        shared = Path(folder) / "shared"
        shared.mkdir()
        forked(prepare, shared)
        for name, case in CASES.items():
            if name.startswith(config.only):
                (Path(folder) / name).mkdir()
                ended = disturb(case, shared, Path(folder) / name, config.kills, np.random.default_rng(config.seed))
                print(f"{name}: {config.kills} kills, {ended} runs to the end, nothing lost", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Kill))
