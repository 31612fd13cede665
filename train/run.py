"""The folder of a training run: its options, its metrics, and the checkpoint from which it can continue."""

import dataclasses
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from configs.training import Training
from tppjax import files, saved, sharding
from tppjax.data import Examples
from tppjax.errors import InputError, extra, refusing

with extra("train"):
    import orbax.checkpoint as ocp

DIGEST = "checkpoint.json"  # of the newest checkpoint
NOT_COMPARED = ("out", "resume", "overwrite", "data_dir", "distributed", "checkpoint_every", "workers")


class Run:
    """The files `config.json`, `metrics.jsonl`, `checkpoints/` and `checkpoint.json` of a run; made by `Run.open`.

    Several hosts share the folder: all call each method, and the first one writes.

    Attributes:
      folder: folder of the run.
      config: options of the run.
    """

    def __init__(self, folder: Path, config: Training) -> None:
        self.folder, self.config = folder, config
        # A continued run needs only the newest state; the best network is beside it, in ann/.
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._checkpoints = ocp.CheckpointManager(folder / "checkpoints", options=options)

    @classmethod
    @contextmanager
    def open(cls, config: Training, images: Examples) -> Iterator["Run"]:
        """Starts a run in `config.out`, or continues the one there; within this context, no other process can.

        Args:
          config: the options.
          images: all training images; a run is continued only on the same ones.

        Raises:
          FileExistsError: if the folder is not empty and neither --resume nor --overwrite was given.
          FileNotFoundError: on --resume if there is no run.
          InputError: on --resume of a run with other options or images, or if another process trains there.
        """
        folder, described = config.out.absolute(), {**_described(config), "images": images.digest()}
        checkpoints, first = folder / "checkpoints", sharding.primary()
        with ExitStack() as open_:

            def claim() -> None:
                if first and checkpoints.is_dir():
                    open_.enter_context(files.claimed(checkpoints, f"trains in {folder}"))

            claim()
            check_folder(config)
            if config.resume:
                _check_same(folder, described)
            sharding.wait_for_all("the folder has been looked at")
            if first:
                if not config.resume and _holds_something(folder):
                    _set_aside(folder)
                if not checkpoints.is_dir():
                    checkpoints.mkdir(parents=True)
                    claim()
                if not config.resume:
                    files.write_json(folder / "config.json", described)
            sharding.wait_for_all("the run has begun")
            run = cls(folder, config)
            open_.callback(run._checkpoints.close)
            yield run

    def restore(self, state: Any, steps: int) -> Any:
        """The newest checkpoint, placed like `state`; `state` itself if there is none yet. Later metrics are dropped.

        Args:
          state: state with the shapes and devices of the checkpoint.
          steps: number of steps of an epoch.

        Raises:
          InputError: if the checkpoint is damaged or holds another network.
        """
        newest = self._checkpoints.latest_step()
        if newest is not None:
            self._check_digest(newest)
            problem = f"checkpoint {newest} in {self.folder} is damaged or of another network"
            with refusing(problem, "start again with --overwrite"):
                state = self._checkpoints.restore(newest, args=ocp.args.StandardRestore(state))
        metrics = self.folder / "metrics.jsonl"
        if sharding.primary() and metrics.is_file():
            kept = metrics.read_text(errors="replace").splitlines(keepends=True)[: (newest or 0) // steps]
            files.write_text(metrics, "".join(kept))
        return state

    def log(self, epoch: int, **metrics: float) -> None:
        """Appends a line to metrics.jsonl and prints it."""
        if sharding.primary():
            with (self.folder / "metrics.jsonl").open("a") as f:
                f.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        theta = f"theta {metrics['theta']:.3f}  " if "theta" in metrics else ""  # the median over sites
        print(
            f"epoch {epoch:3}  loss {metrics['loss']:.4f}  train {metrics['train']:.2f} %  "
            f"validation {metrics['validation']:.2f} %  {theta}{metrics['seconds']:.0f} s",
            flush=True,
        )

    def checkpoint(self, state: Any) -> None:
        """Saves the state, completely or not at all.

        Raises:
          InputError: if it can't be written, for example because the disk is full.
        """
        step = int(state.step)
        if step == self._checkpoints.latest_step():
            return
        problem = f"checkpoint {step} in {self.folder} could not be written; the previous one is intact"
        with refusing(problem, "make room, then continue with --resume"):
            self._checkpoints.save(step, args=ocp.args.StandardSave(state))
        if sharding.primary():
            files.write_json(self.folder / DIGEST, {"step": step, "sha256": self._digest(step)})

    def _digest(self, step: int) -> str:
        return saved.digest({}, self.folder / "checkpoints" / str(step))

    def _check_digest(self, step: int) -> None:
        """Checks that the files of this checkpoint are unchanged; a run killed while writing it left no digest."""
        file, remedy = self.folder / DIGEST, "start again with --overwrite"
        written = files.read_json(file, remedy) if file.is_file() else {}
        if written.get("step") == step and written.get("sha256") != self._digest(step):
            raise InputError(f"checkpoint {step} in {self.folder} is damaged: {remedy}")


@contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Within this context, a first SIGINT or SIGTERM is only recorded, so that a step can end; a second acts at once.

    Yields:
      A function that returns the number of the recorded signal, or None. On several hosts, which would have to agree on
      the step, signals act as usual.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def record(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, handlers[signum])

    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored on purpose, as under nohup
                handlers[number] = signal.signal(number, record)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _described(config: Training) -> dict:
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_COMPARED}
    return json.loads(json.dumps(values, default=str))  # paths as text, tuples as lists


def check_folder(config: Training) -> None:
    """Raises FileExistsError if --out is in use, or FileNotFoundError if there is nothing to --resume."""
    folder = config.out.absolute()
    if not config.resume:
        _check_free(folder, config.overwrite)
    elif not (folder / "config.json").is_file():
        raise FileNotFoundError(f"nothing to resume: {folder} holds no training run (no config.json)")


def _check_same(folder: Path, described: dict) -> None:
    before = files.read_json(folder / "config.json", "start again with --overwrite")
    changed = {k for k in before.keys() | described.keys() if before.get(k) != described.get(k)}
    if changed:
        changes = "; ".join(f"{k} was {before.get(k)}, is {described.get(k)}" for k in sorted(changed))
        raise InputError(f"--resume needs the options and images with which the run in {folder} was started: {changes}")


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raises FileExistsError if the folder is not empty, unless its content may be moved out of the way."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, not a folder: choose another --out")
    if not _holds_something(folder):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is not empty: choose another --out, or --resume or --overwrite")
    if _holds_something(_previous(folder)) and not (_previous(folder) / "config.json").is_file():
        raise FileExistsError(
            f"--overwrite would move {folder} to {_previous(folder)}, which is not a run: move that away"
        )


def _holds_something(folder: Path) -> bool:
    """Whether it has other content than hidden files and empty checkpoints, which a kill leaves before a run starts."""
    if not folder.is_dir():
        return folder.exists()
    content = [f for f in folder.iterdir() if not f.name.startswith(".")]
    return any(f.name != "checkpoints" or any(f.iterdir()) for f in content)


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".previous")


def _set_aside(folder: Path) -> None:
    previous = _previous(folder)
    older = previous.with_name(f".{previous.name}.old")
    if previous.exists():
        shutil.rmtree(older, ignore_errors=True)
        previous.rename(older)
    folder.rename(previous)
    shutil.rmtree(older, ignore_errors=True)
    print(f"moved the content of {folder} to {previous}")
