"""Python in a process of its own, with the checkout's modules."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(
    *arguments: object, cwd: Path = ROOT, expect: int = 0, devices: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Runs `python arguments…` and returns what it printed, as text.

    Args:
        *arguments: e.g. "-m", "fusionjax.main".
        cwd: working directory.
        expect: exit status that it must have.
        devices: CPU devices that JAX is to see; 0 for as many as here.
        **environment: further variables.
    """
    if devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = flags
    if cwd != ROOT:
        environment.setdefault("PYTHONPATH", str(ROOT))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, env=os.environ | environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == expect, done.stderr[-3000:]
    return done
