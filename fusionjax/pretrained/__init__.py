"""Pretrained weights: read a source, convert its tensors, merge them into an initialised model."""

from fusionjax.pretrained.convert import convert
from fusionjax.pretrained.encoders import load_clip, load_text
from fusionjax.pretrained.merge import merge
from fusionjax.pretrained.sources import load, read

__all__ = ["convert", "load", "load_clip", "load_text", "merge", "read"]
