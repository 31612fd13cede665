"""Files that are whole or not there: written beside their place, then renamed; read with one sentence if damaged."""

import errno
import fcntl
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tppjax.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write a file to; if nothing goes wrong, that file takes the place of `path` in the end.

    Raises:
      OSError: if the folder can't be made or written to; what was at `path` is as it was then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield new
        with new.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def regular(path: str | os.PathLike) -> Path:
    """`path`, if an ordinary file is there; reading anything else, such as a pipe, may never end.

    Raises:
      InputError: if it is something else.
      FileNotFoundError: if nothing is there.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is a folder, a pipe or a device; give an ordinary file")
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes the file whole, or not at all."""
    with replacing(path) as new:
        new.write_text(text)


def write_json(path: str | os.PathLike, content) -> None:
    """Writes the file whole, or not at all; NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, remedy: str) -> dict:
    """The object in a JSON file.

    Args:
      path: of the file.
      remedy: what to do if it is damaged, for the message.

    Raises:
      InputError: if the file is damaged, no ordinary file, or holds something other than an object.
      OSError: if it can't be read.
    """

    def constant(name):
        raise ValueError(f"{name} is not a number")

    path = regular(path)
    try:
        content = json.loads(path.read_bytes(), parse_constant=constant)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is damaged ({e}): {remedy}") from e
    return content


@contextmanager
def reading_folder(folder: Path) -> Iterator[Path]:
    """Where the folder's content is, which `replacing_folder` in another process leaves alone while this is open.

    That is `folder`, or a place beside it if `replacing_folder` was killed between its renames.
    """
    with _held(folder.parent, fcntl.LOCK_SH) if folder.parent.is_dir() else nullcontext():
        yield whole_folder(folder)


def whole_folder(folder: Path) -> Path:
    """`folder`, or where `replacing_folder` left its content when it was killed between its renames."""
    places = folder, _beside(folder, "made"), _beside(folder, "old")
    return next((place for place in places if place.exists()), folder)


@contextmanager
def replacing_folder(folder: Path, *, writes: bool = True) -> Iterator[Path]:
    """A path beside `folder` to make a folder at; if nothing goes wrong, it takes the place of `folder` in the end.

    A kill at any moment leaves the old content or the new one whole, where `reading_folder` finds it. Other processes
    that replace the folder wait.

    Args:
      folder: to be made or replaced.
      writes: whether this process renames and removes; false on all hosts but one.
    """
    making = _beside(folder, "making")
    if not writes:
        yield making
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _held(folder.parent):
        _settle(folder)
        shutil.rmtree(making, ignore_errors=True)
        try:
            yield making
            making.rename(_beside(folder, "made"))  # from here on it is whole
            _settle(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Finishes a replacement: nothing is removed before its successor is in place."""
    made, old = _beside(folder, "made"), _beside(folder, "old")
    if not folder.exists() and not made.exists() and old.exists():
        old.rename(folder)
    if made.exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f".{folder.name}.{state}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this is open, other processes that lock the folder wait; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    with _held(folder / ".lock"):
        yield


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """While this is open, or until the process ends, no other process can claim the folder.

    Raises:
      InputError: if another process has claimed it; says that it does `what`.
    """
    with _opened(folder) as lock:
        if not _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise InputError(f"another process {what}: wait for it, stop it, or choose another folder")
        yield


@contextmanager
def _held(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with _opened(path) as lock:
        if not _flock(lock, kind | fcntl.LOCK_NB):
            print(f"waiting for another process, which writes to {path}", file=sys.stderr)
            _flock(lock, kind)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the file or folder; a lock on it is independent of those of other descriptors."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    """Whether the lock was had; file systems that have no locks give it to everyone."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True
