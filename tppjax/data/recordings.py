"""Event recordings of a DVS128 (128 x 128 pixels), read completely or refused: `.aedat4` and the older `.aedat`.

`aedat` decodes AEDAT 4.0, but accepts some files that were cut short, and a damaged header can kill the process. So the
layout is checked first. `check_aedat4` and `_aedat2` say which damage that finds, and which no reader can find.

The formats: https://docs.inivation.com/software/software-advanced-usage/file-formats
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from tppjax import files
from tppjax.errors import InputError, extra, refusing

SIDE = 128
SUFFIXES = (".aedat4", ".aedat")
EVENT = np.dtype([("t", np.int64), ("x", np.int64), ("y", np.int64), ("on", np.int64)])
MAGIC = b"#!AER-DAT4.0\r\n"


def read(file: Path) -> np.ndarray:
    """All events of a recording.

    Returns:
      Structured array `[events]`: t in microseconds, as in the file; x to the right and y down, 0 to 127; on, 0 or 1.

    Raises:
      InputError: if the file is damaged, cut short or empty, or an event lies outside of the sensor, in a message
        without the file's name; or if `aedat` is not installed.
    """
    content = files.regular(file).read_bytes()
    if not content:
        raise InputError("the file has no bytes")
    events = _aedat4(file, content) if file.suffix == ".aedat4" else _aedat2(content)
    if not len(events):
        raise InputError("it has no events")
    for axis in ("x", "y"):
        low, high = events[axis].min(), events[axis].max()
        if not 0 <= low <= high < SIDE:
            far = low if low < 0 else high
            raise InputError(f"it has events outside of the sensor's {SIDE} x {SIDE} pixels: {axis} = {far}")
    return events


def decoder() -> Any:
    """The class `aedat.Decoder`.

    Raises:
      InputError: if `aedat` is not installed; says how to install it.
    """
    with extra("dvs"):
        from aedat import Decoder
    return Decoder


def _aedat4(file: Path, content: bytes) -> np.ndarray:
    check_aedat4(content)
    with refusing("it is damaged", kinds=RuntimeError):
        packets = [packet["events"] for packet in decoder()(file) if "events" in packet]
    events = np.zeros(sum(map(len, packets)), EVENT)
    for name in EVENT.fields or ():
        # Coordinates are 16 bits with a sign; aedat returns them without.
        columns = [packet[name].astype(np.int16) if name in "xy" else packet[name] for packet in packets]
        events[name] = np.concatenate(columns) if packets else []
    return events


def check_aedat4(content: bytes) -> None:
    """Checks the layout of an AEDAT 4.0 file: the header, the packets, and a table of the packets.

    The header says at which byte the table begins, so any cut before it is recognised. Without a table (-1: the
    recording program never closed the file) only a cut within a packet is recognised. Of a compressed table only the
    beginning is checked: a cut within it loses no event. The format has no checksum: a changed value inside a packet is
    noticed only if the packet can't be unpacked or an event lies outside of the sensor.

    Raises:
      InputError: if the file is of another kind, damaged or cut short.
    """
    if not content.startswith(MAGIC):
        raise InputError("it is no AEDAT 4.0 file (other first line)")
    try:
        place, compressed, table = _header(content)
        end = len(content) if table == -1 else table
        if not place <= end <= len(content) or table == len(content):
            raise InputError(f"it is cut short or damaged: its table should begin at byte {table} of {len(content)}")
        while place < end:
            _, size = _numbers("<II", content, place)
            place += 8 + size
        if place != end:
            raise InputError(f"it is cut short or damaged: the last packet ends at byte {place}, not {end}")
        if table != -1 and not compressed and table + 4 + _numbers("<I", content, table)[0] > len(content):
            raise InputError("it is cut short within its table of packets")
    except (struct.error, UnicodeDecodeError) as e:
        raise InputError(f"it is damaged or cut short: {e}") from e


def _header(content: bytes) -> tuple[int, bool, int]:
    """The start of the packets, whether they are compressed, and the start of the table or -1: the flatbuffer IOHeader.

    Every number and string that `aedat` reads there unchecked is checked here.
    """
    begin = len(MAGIC) + 4
    (size,) = _numbers("<I", content, len(MAGIC))
    header = content[begin : begin + size]
    (root,) = _numbers("<I", header, 0)
    fields = root - _numbers("<i", header, root)[0]
    (length,) = _numbers("<H", header, fields)
    # A field at position 0 was left at its default.
    positions = [_numbers("<H", header, fields + i)[0] if i < length else 0 for i in (4, 6, 8)]
    compression, table, text = (root + place if place else None for place in positions)
    if text is None or len(header) < size:
        raise InputError("it is cut short or damaged within its header")
    text += _numbers("<I", header, text)[0]
    (letters,) = _numbers("<I", header, text)
    _numbers(f"{letters}s", header, text + 4)[0].decode()
    return (
        begin + size,
        compression is not None and _numbers("<i", header, compression)[0] != 0,
        -1 if table is None else _numbers("<q", header, table)[0],
    )


def _numbers(kinds: str, data: bytes, place: int) -> tuple[Any, ...]:
    if place < 0:  # struct would count from the end
        raise struct.error(f"a number at byte {place}")
    return struct.unpack_from(kinds, data, place)


def _aedat2(content: bytes) -> np.ndarray:
    """Events of an AEDAT 2.0 file of jAER, as the authors of the data set publish them.

    After lines that begin with #, an event is two big-endian numbers of 32 bits, address and microseconds. Bit 0 of an
    address is the polarity (0 is on), bits 1 to 7 are the row from below, bits 8 to 14 the column from the right, as in
    SpikingJelly. The format holds no length: a file that was cut between two events looks like a complete one.
    """
    place = 0
    while content[place : place + 1] == b"#":
        line = content[place : content.find(b"\n", place) + 1]
        if not line or (line.startswith(b"#!AER-DAT") and not line.startswith(b"#!AER-DAT2")):
            raise InputError(f"it is no AEDAT 2.0 file: its header has {content[place : place + 20]!r}")
        place += len(line)
    if (len(content) - place) % 8:
        raise InputError("it is cut short within an event, or no AEDAT 2.0 file")
    address, t = np.frombuffer(content, ">u4", offset=place).reshape(-1, 2).T.astype(np.int64)
    events = np.zeros(len(address), EVENT)
    events["x"], events["y"] = SIDE - 1 - (address >> 8), SIDE - 1 - (address >> 1 & 0x7F)
    events["t"], events["on"] = t, 1 - (address & 1)
    return events
