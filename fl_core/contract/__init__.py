"""The contract that every plug-in is held to: what `flctl check FILE.py` runs on a user's own file, in seconds.

`check_algorithm` and `check_compressor` give one `Finding` a property, as they are found. No cluster, no socket: the
reference, the cohorts that a worker would run, and the bytes that would travel between them.
"""

from fl_core.contract.algorithms import check_algorithm
from fl_core.contract.compressors import check_compressor
from fl_core.contract.finding import Finding
from fl_core.contract.subject import AlgorithmSubject, CompressorSubject, read_subject

__all__ = ["AlgorithmSubject", "CompressorSubject", "Finding", "check_algorithm", "check_compressor", "read_subject"]
