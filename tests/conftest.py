"""Settings of the whole test suite: quiet, frugal TensorFlow, and where the golden files lie."""

import gc
import os
from pathlib import Path

# Before TensorFlow is imported by any test module: its C++ side reads these once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
# TensorFlow leaves oneDNN off on processors without AVX-512. Without it a CPU has no convolution of
# channels-first images.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import pytest

_GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=_GOLDEN,
        help="folder of golden .npz files to test against (default: tests/golden)",
    )


def pytest_configure(config):
    directory = config.getoption("--golden")
    if not directory.is_dir():
        raise pytest.UsageError(f"`--golden` must be a folder. Received: {directory}")


def pytest_generate_tests(metafunc):
    """`golden_model` and `golden_step` are each such file of the golden folder in turn."""
    for kind in ("model", "step"):
        if f"golden_{kind}" in metafunc.fixturenames:
            files = sorted(metafunc.config.getoption("--golden").glob(f"{kind}_*.npz"))
            metafunc.parametrize(f"golden_{kind}", files, ids=[file.stem for file in files])


def pytest_collection_finish():
    # What has been imported stays. Collections are long and frequent otherwise: TensorFlow asks for
    # one in every conversion, and Keras makes many objects.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(scope="session")
def golden_dir(request):
    """The folder of golden files, a `Path`: tests/golden or what `--golden` says."""
    return request.config.getoption("--golden")
