"""Writes event recordings in the format AEDAT 4.0, byte by byte, since `aedat` only reads.

A file is the line `MAGIC`, a header, packets, and a table of the packets whose place the header names. All but the line
are flatbuffers that begin with their size. Places below count from there, so that every number lies on a multiple of
its own size. The schemas are iniVation's (IOHeader, EventPacket, FileDataTable).
"""

import struct

import numpy as np

MAGIC = b"#!AER-DAT4.0\r\n"
EVENT = np.dtype(
    {"names": ["t", "x", "y", "on"], "formats": ["<i8", "<i2", "<i2", "?"], "offsets": [0, 8, 10, 12], "itemsize": 16}
)
STREAMS = b"""<dv version="2.0"><node name="outInfo"><node name="0"><attr key="typeIdentifier" type="string">EVTS</attr>
<node name="info"><attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr></node></node></node>
</dv>"""


def write(path, events, packet=1000, table=True, lz4=False):
    """Writes the rows (t in microseconds, x, y, on) of `events`, `packet` to a packet, at most 4,000.

    Without `table` the header says that there is none, as while a recording goes on.
    """
    rows = np.array([tuple(row) for row in events], EVENT)
    packets = [_packet(rows[i : i + packet], lz4) for i in range(0, len(rows), packet)]
    end = len(MAGIC) + len(_header(-1, lz4)) + sum(map(len, packets))
    path.parent.mkdir(parents=True, exist_ok=True)
    after = (_lz4 if lz4 else bytes)(_sized(TABLE)) if table else b""
    path.write_bytes(MAGIC + _header(end if table else -1, lz4) + b"".join(packets) + after)


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _lz4(content: bytes) -> bytes:
    """One LZ4 frame with one block that is stored as it is."""
    return bytes.fromhex("04224d18604082") + struct.pack("<I", len(content) | 1 << 31) + content + bytes(4)


def _header(table: int, lz4: bool) -> bytes:
    fields = struct.pack("<5H6x", 10, 20, 4, 8, 16)  # at 16: its own size, the table's, and where in it each field is
    values = struct.pack("<iiqI4x", 16, lz4, table, 8)  # at 32: back to 16, compression, the packets' table, the text
    text = struct.pack("<I", len(STREAMS)) + STREAMS + bytes(8 - len(STREAMS) % 8)
    return _sized(struct.pack("<I4s4x", 28, b"IOHE") + fields + values + text)


def _packet(rows: np.ndarray, lz4: bool) -> bytes:
    fields = struct.pack("<3H2x", 6, 8, 4)  # at 16
    values = struct.pack("<iI4x", 8, 8)  # at 24: back to 16, on to the events
    events = struct.pack("<I", len(rows)) + rows.tobytes()
    content = _sized(struct.pack("<I4s4x", 20, b"EVTS") + fields + values + events)
    content = _lz4(content) if lz4 else content
    return struct.pack("<iI", 0, len(content)) + content


# A table without rows: readers that go from packet to packet don't need it, only where it begins.
TABLE = struct.pack("<I4s4x3H2xiI4xI4x", 20, b"FTAB", 6, 8, 4, 8, 8, 0)
