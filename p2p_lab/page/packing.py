"""Files of numbers, made small for the wire whatever a host compresses.

Numbers of two bytes are written as all first bytes, then all second ones: exponents then stand
beside exponents, and gzip finds in them what it can. The page unpacks with the browser's own gzip.
"""

from __future__ import annotations

import zlib
from pathlib import Path

ENDING = ".pack"
HALF = 2  # bytes of a number in half precision
_GZIP = 31  # window bits of zlib that ask for gzip's frame
# Strategy and memory level of zlib; numbers repeat so seldom that few matches are worth a search.
_PLAIN = ((zlib.Z_DEFAULT_STRATEGY, 8),)
_NUMBERS = ((zlib.Z_FILTERED, 6), (zlib.Z_HUFFMAN_ONLY, 6))


def pack(data: bytes, stride: int) -> bytes:
    """Return bytes as small as gzip makes them, after sorting by their place in a number.

    Args:
        data: What is packed.
        stride: Bytes of a number; 1 leaves the order as it is. It is the first byte inside.
    """
    planes = bytes([stride]) + b"".join(data[i::stride] for i in range(stride))
    tried = (_squeezed(planes, *how) for how in (_PLAIN if stride == 1 else _NUMBERS))
    return min(tried, key=len)


def _squeezed(data: bytes, strategy: int, memory: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, _GZIP, memory, strategy)
    return squeeze.compress(data) + squeeze.flush()


def pack_file(path: Path, stride: int) -> Path:
    """Put a packed file in the place of a file, with its name and an ending."""
    packed = path.with_name(path.name + ENDING)
    packed.write_bytes(pack(path.read_bytes(), stride))
    path.unlink()
    return packed
