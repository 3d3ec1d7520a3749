import importlib
import os
from functools import cache

from threadpoolctl import threadpool_info

_CORE_TYPE = "OPENBLAS_CORETYPE"

# Processors that an older OpenBLAS does not know by name, and their nearest relative that it does.
_RELATIVES = {"Cooperlake": "SkylakeX", "SapphireRapids": "SkylakeX"}


@cache
def import_faiss():
    """The module faiss, its matrix products made for this processor.

    faiss' Linux wheels carry an OpenBLAS of 2021. On a processor newer than itself it falls back
    on code for the oldest ones, without AVX, which makes k-means about three times slower. NumPy's
    OpenBLAS is up to date: what it has found the processor to be is passed on while faiss is
    loaded. An `OPENBLAS_CORETYPE` that is set in the environment is respected, and a faiss that is
    already loaded stays as it is.
    """
    found = [lib["architecture"] for lib in threadpool_info() if lib["internal_api"] == "openblas"]
    if not found or _CORE_TYPE in os.environ:
        return importlib.import_module("faiss")
    os.environ[_CORE_TYPE] = _RELATIVES.get(found[0], found[0])
    try:
        return importlib.import_module("faiss")
    finally:
        del os.environ[_CORE_TYPE]
