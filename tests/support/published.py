"""A cache of the Hugging Face hub with files under the published names: the reference's tensor names and shapes, one constant
per repository, by which a test recognises in a model which weights it got."""

import itertools
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from fusionjax.models import create, registry
from fusionjax.models.backbones.keys import Rule
from fusionjax.pretrained.convert import abstract
from tests.support import tiny_bert

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BERT = "hub:google-bert/bert-base-uncased"


def value(source: str) -> float:
    """The constant of a source, exact in every float format from bfloat16 on: 1/128 … 127/128."""
    return (zlib.crc32(source.encode()) % 127 + 1) / 128


def repository(cache: Path, source: str) -> Path:
    """The folder of a repository's files in the cache, as the client of the hub lays it out."""
    folder = cache / f"models--{source.removeprefix('hub:').replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    files = folder / "snapshots" / COMMIT
    files.mkdir(parents=True, exist_ok=True)
    return files


def write(cache: Path, name: str, **fields: object) -> str:
    """Writes the published weights of a model; returns their source.

    Args:
        cache: for `huggingface_hub.constants.HF_HUB_CACHE`.
        name: name of the model.
        **fields: of the module, such as the number of published classes.
    """
    source = registry.weights(name)
    path = repository(cache, source) / "model.safetensors"
    if not path.exists():
        tensors = {
            key: np.full(shape, value(source), np.float32) for key, shape in shapes(name, **fields).items()
        }
        safetensors.numpy.save_file(tensors, path)
    return source


def write_bert(cache: Path, words: tuple[str, ...] = ("leaf", "a")) -> None:
    """A tiny BERT under the published name; its config.json has its sizes."""
    files = repository(cache, BERT)
    tiny_bert.write(files, list(words), positions=128)
    path = files / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({key: np.full_like(x, value(BERT)) for key, x in tensors.items()}, path)


def shapes(name: str, **fields: object) -> dict[str, tuple[int, ...]]:
    """Name → shape of the reference's tensors: its key map backwards."""
    module, family = create(name, **fields), registry.family(name)
    leaves = {path: leaf.shape for path, leaf in flatten_dict(abstract(module)).items()}
    assert family.reference is not None
    rules = family.reference(name, {}).rules
    found = {}
    for key, rule in rules.items():
        if rule.path in leaves:
            target = np.broadcast_to(np.float32(0), leaves[rule.path])[rule.region(leaves[rule.path])].shape
            found[key] = _before(rule, target)
    return found


def _before(rule: Rule, target: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that the rule turns into `target`."""
    for extra in range(3):
        for shape in itertools.permutations((1,) * extra + target):
            try:
                turned = rule.turn(np.broadcast_to(np.float32(0), shape))
            except (ValueError, IndexError):
                continue
            if turned.shape == target:
                return shape
    raise AssertionError(f"no shape becomes {target}")
