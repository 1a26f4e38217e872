"""One thread for every numeric library, set before anything imports them: tests run beside other work."""

import os
import signal
from pathlib import Path

import pytest

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

# A shell starts its background jobs with SIGINT ignored, and children inherit that; the tests of interruption need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own for every test, so that no test sees or leaves traces of another."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ALIGNSTACK_HOME", str(folder))
    return folder
