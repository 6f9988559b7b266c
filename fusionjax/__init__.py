"""fusionjax: cross-attention models that fuse two views, in JAX and Flax."""

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


if any(
    a == "-m" and b.startswith("fusionjax.") for a, b in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
):
    interruption.install()  # a command of ours is starting: its imports take seconds, in which it may be interrupted
