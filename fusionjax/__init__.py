"""fusionjax: cross-attention models that fuse two views, in JAX and Flax."""

import os
import sys
from typing import Any

from fusionjax import interruption
from fusionjax._version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import fusionjax` costs nothing.
    if name == "load":
        from fusionjax.experiment.inference import load

        return load
    raise AttributeError(f"module 'fusionjax' has no attribute {name!r}")


def _is_command() -> bool:
    """Whether this process is one of our commands, which is just starting: `python -m fusionjax…`, or its script."""
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    module = any(flag == "-m" and name.partition(".")[0] == "fusionjax" for flag, name in pairs)
    return module or os.path.basename(sys.argv[0] if sys.argv else "") == "fusionjax"


if _is_command():
    interruption.install()  # now: its imports take seconds, in which it may be interrupted
