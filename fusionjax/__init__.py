"""fusionjax: cross-attention models that fuse two views, in JAX and Flax."""

import importlib
import os
import sys
from typing import Any

from fusionjax import interruption
from fusionjax._version import __version__

_LAZY = {
    "api": "fusionjax.api",
    "losses": "fusionjax.losses",
    "load": "fusionjax.experiment.inference",
    "Explanation": "fusionjax.experiment.explanation",
    "Prediction": "fusionjax.experiment.prediction",
    "Run": "fusionjax.experiment.inference",
    "UserError": "fusionjax.errors",
}
"""Public name → its module, imported when it is first asked for, so that `import fusionjax` costs nothing."""
__all__ = ["Explanation", "Prediction", "Run", "UserError", "__version__", "api", "load", "losses"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fusionjax' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if _LAZY[name] == f"fusionjax.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """Whether this process is one of our commands, which is just starting: `python -m fusionjax…`, or its script."""
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    module = any(flag == "-m" and name.partition(".")[0] == "fusionjax" for flag, name in pairs)
    return module or os.path.basename(sys.argv[0] if sys.argv else "") == "fusionjax"


if _is_command():
    interruption.install()  # now: its imports take seconds, in which it may be interrupted
