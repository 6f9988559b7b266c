"""fusionjax: cross-attention models that fuse two views, in JAX and Flax."""

from typing import Any

from fusionjax._version import __version__

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazily, so that `import fusionjax` costs nothing.
    if name == "load":
        from fusionjax.experiment.inference import load

        return load
    raise AttributeError(f"module 'fusionjax' has no attribute {name!r}")
