"""What every test shares: a quiet CPU, no network, exact shapes; and which tests are fast."""

import os
import re
from pathlib import Path

# Before jax is imported: tests do not wait for an accelerator, and two cores suffice.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models of the tests are tiny: their programs take longer to optimise than to run unoptimised.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import jaxtyping
import numpy as np
import pytest

from tests.support import shapes

# Before fusionjax is imported: in these packages every call is checked against its annotations of types and shapes.
CHECKED = [
    "fusionjax.evaluation",
    "fusionjax.models.attention",
    "fusionjax.models.log_mel",
    "fusionjax.models.methods",
    "fusionjax.models.resize",
    "fusionjax.train.contrastive",
    "fusionjax.train.losses",
    "fusionjax.train.metric_losses",
]
jaxtyping.install_import_hook(CHECKED, f"{shapes.__name__}.check")


@pytest.fixture
def unchecked():
    """For tests of what a function itself says of a wrong type or shape: no check of its annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def libraries_warn(recwarn):
    """For tests that train: Orbax and Grain warn about their own internals, which is no error of ours."""


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded anew for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """One cache for the session and its subprocesses: the same programs are compiled again and again."""
    folder = tmp_path_factory.mktemp("xla")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


SLOW = re.compile(
    r"\buntrained\.|\btrainer\.|\bsubprocess\b|import .*\bprocess\b|\bprocess\.python\b|\bsweep_runs\b|\bNotebookClient\b"
)
"""What a module mentions whose tests train, compile whole models or start processes."""
COMPILED = ("models/", "train/", "parity/", "tasks/", "faults/", "interpret/test_capture.py")
"""Folders whose tests compile whole models or start runs: minutes, not seconds."""
QUICK = (
    "models/test_parameters.py",
    "models/test_layers.py",
    "train/test_losses.py",
    "train/augment/test_mix.py",
)
"""Files of those folders that do not."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as fast the tests of modules that neither train, nor start a process, nor compile whole models."""
    here, known = Path(__file__).parent, {}
    for item in items:
        if item.path not in known:
            place = item.path.relative_to(here).as_posix()
            compiled = place.startswith(COMPILED) and place not in QUICK
            known[item.path] = not compiled and not SLOW.search(item.path.read_text())
        if known[item.path]:
            item.add_marker(pytest.mark.fast)
