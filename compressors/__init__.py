"""Vector compressors: a vector becomes bytes and comes back, one operator a file.

The interface is in `compressors.compressor`; `compressors.build` finds operators by name;
`compressors.contraction` scales an unbiased one for the methods that need a contraction.
"""

from __future__ import annotations

from compressors.compressor import (
    Compressor,
    CompressorOptionError,
    Encoded,
    Layout,
    NonFiniteError,
    PayloadError,
)

__all__ = [
    "Compressor",
    "CompressorOptionError",
    "Encoded",
    "Layout",
    "NonFiniteError",
    "PayloadError",
]
