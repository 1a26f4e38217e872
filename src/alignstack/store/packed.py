"""Files that may be compressed: `.gz` and `.zst`, whole or not at all."""

import gzip
import zlib
from collections.abc import Callable, Mapping

import zstandard

BROKEN = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What `unpacked` raises for bytes that are not a whole file of their kind."""


def unpacked(raw: bytes, suffix: str) -> bytes:
    """The content of a file by its suffix; other suffixes are not packed. Raises one of BROKEN."""
    return UNPACK.get(suffix, bytes)(raw)


def _all_frames(raw: bytes) -> bytes:
    """Raises EOFError for a file that was cut off, whose remaining lines would otherwise be lost without a word."""
    parts: list[bytes] = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise EOFError("it ends before its last frame does")
        raw = frame.unused_data
    return b"".join(parts)


UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".zst": _all_frames}
