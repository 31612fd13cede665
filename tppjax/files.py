"""Files that are complete or absent: written beside their place, then renamed; damage is reported in one sentence."""

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
from typing import Any

from tppjax.errors import InputError, refusing
from tppjax.types import PathLike


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A path beside `path` to write a file to; if no error occurs, the file replaces `path` in the end.

    Raises:
      OSError: if the folder can't be made or written to; `path` then stays as it was.
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


def regular(path: PathLike) -> Path:
    """`path`, if it is an ordinary file; reading anything else, such as a pipe, may never end.

    Raises:
      InputError: if it is something else.
      FileNotFoundError: if it does not exist.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is a folder, a pipe or a device; give an ordinary file")
    return path


def write_text(path: PathLike, text: str) -> None:
    """Writes the complete file, or nothing."""
    with replacing(path) as new:
        new.write_text(text)


def write_json(path: PathLike, content: Any) -> None:
    """Writes the complete file, or nothing; NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: PathLike, remedy: str) -> dict:
    """The object in a JSON file.

    Args:
      path: path of the file.
      remedy: what to do if the file is damaged, for the message.

    Raises:
      InputError: if the file is damaged, not an ordinary file, or holds something other than an object.
      OSError: if it can't be read.
    """

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not a number")

    path = regular(path)
    with refusing(f"{path} is damaged", remedy, (ValueError, RecursionError)):
        content = json.loads(path.read_bytes(), parse_constant=constant)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content


@contextmanager
def reading_folder(folder: Path) -> Iterator[Path]:
    """The path of the folder's content, which `replacing_folder` in another process leaves alone within this context.

    That is `folder`, or a path beside it if `replacing_folder` was killed between its renames.
    """
    folder = _target(folder)
    with _held(folder.parent, fcntl.LOCK_SH) if folder.parent.is_dir() else nullcontext():
        yield whole_folder(folder)


def whole_folder(folder: Path) -> Path:
    """`folder`, or the path at which `replacing_folder` left its content if it was killed between its renames."""
    folder = _target(folder)
    paths = folder, _beside(folder, "made"), _beside(folder, "old")
    return next((path for path in paths if path.exists()), folder)


@contextmanager
def replacing_folder(folder: Path, *, writes: bool = True) -> Iterator[Path]:
    """A path beside `folder` to make a folder at; if no error occurs, it replaces `folder` in the end.

    A kill at any moment leaves either the old or the new content complete, where `reading_folder` finds it. Other
    processes that replace the folder wait.

    Args:
      folder: the folder to make or replace.
      writes: whether this process renames and removes; false on all hosts but one.
    """
    folder = _target(folder)
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
            making.rename(_beside(folder, "made"))  # from here on it is complete
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


def _target(folder: Path) -> Path:
    """The folder itself if `folder` is a link to it, so that the link stays."""
    return folder.resolve() if folder.is_symlink() else folder


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f".{folder.name}.{state}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this context, other processes that lock the folder wait; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    with _held(folder / ".lock"):
        yield


@contextmanager
def claimed(folder: Path, activity: str) -> Iterator[None]:
    """Within this context, or until the process ends, no other process can claim the folder.

    Args:
      folder: the folder to claim.
      activity: what the process does there, for the message, such as "trains in runs/a".

    Raises:
      InputError: if another process has claimed it.
    """
    with _opened(folder) as lock:
        if not _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise InputError(f"another process {activity}: wait for it, stop it, or choose another folder")
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
    """A descriptor of the file or folder; its lock is independent of the locks of other descriptors."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    """Whether the lock was obtained; on file systems without locks it always is."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True
