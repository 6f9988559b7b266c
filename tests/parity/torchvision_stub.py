"""Lets timm run where torchvision cannot: stand-ins for the few torchvision names that timm imports.

torchvision has no CPU build on some package indexes. timm needs it to load and transform images and for one
isinstance check; the parity tests use none of that, so an attribute of a stand-in is an inert class.
"""

import importlib.util
import sys
import types

MODULES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "torchvision.utils",
)


class _StandIn(types.ModuleType):
    """A module whose every public attribute is an inert class of that name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__getattr__": lambda self, _: None})
        # InterpolationMode's members are read as class attributes.
        for member in ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"):
            setattr(made, member, member.lower())
        setattr(self, name, made)
        return made


def install() -> None:
    """Puts the stand-ins in sys.modules, unless a torchvision is installed. Call it before importing timm."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    for name in MODULES:
        module = _StandIn(name)
        module.__path__ = []
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
