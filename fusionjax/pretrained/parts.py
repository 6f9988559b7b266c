"""Chooses one of several state dicts in a file, and removes prefixes that the names of a state dict share."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from fusionjax.errors import UserError

T = TypeVar("T")
Log = Callable[[str], None]

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs store the model; the first that a file has is read."""
HEADS = ("head", "heads", "fc", "classifier", "lm_head", "projector", "decoder")
"""First parts of the names of a classifier or projection, which stands beside the backbone in the reference's module."""


def split(source: str | Path) -> tuple[str, str]:
    """(source, part) of "source#part"; the part is "" where none is named, or "#" belongs to the name of a file."""
    place, mark, part = str(source).rpartition("#")
    return (place, part) if mark and not Path(source).exists() else (str(source), "")


def choose(found: Mapping[str, Mapping[str, T]], part: str, log: Log) -> dict[str, T]:
    """The state dict that is read.

    Args:
        found: dotted key of each state dict in the file → its tensors; "" is the key of tensors at the top level.
        part: key of the wanted one, or a prefix of its names; "" for the only one, or the first of `WRAPPERS`.
        log: receives a line where the file holds others.

    Raises:
        UserError: the part does not exist, or there are several and no part is named.
    """
    if part:
        return _named(found, part)
    if not found:
        raise UserError("holds no tensors")
    preferred = [key for key in found if not key or set(key.split(".")) <= set(WRAPPERS)]
    # A wrapper comes before tensors beside it, and the outer of two before the inner.
    preferred.sort(
        key=lambda key: [WRAPPERS.index(name) for name in key.split(".")] if key else [len(WRAPPERS)]
    )
    if len(found) > 1 and not preferred:
        raise UserError(f"holds {_listed(found)}: name one, as in FILE#{next(iter(found))}")
    key = preferred[0] if preferred else next(iter(found))
    others = {other: tensors for other, tensors in found.items() if other != key}
    if others:
        log(f"{key or 'the top level'} is read, not {_listed(others)}: FILE#NAME reads another")
    return dict(found[key])


def _named(found: Mapping[str, Mapping[str, T]], part: str) -> dict[str, T]:
    if part in found:
        return dict(found[part])
    for key in sorted(found, key=len, reverse=True):
        prefix = f"{part}." if not key else f"{part.removeprefix(f'{key}.')}."
        if not key or part.startswith(f"{key}."):
            tensors = {n.removeprefix(prefix): t for n, t in found[key].items() if n.startswith(prefix)}
            if tensors:
                return tensors
    raise UserError(f"holds no {part!r}; it holds {_listed(found)}")


def _listed(found: Mapping[str, Mapping[str, T]]) -> str:
    return ", ".join(f"{key or 'the top level'} ({len(found[key])} tensors)" for key in found)


def shared_prefix(names: Iterable[str]) -> str:
    """The longest dotted prefix of all names but those of a head, such as "module.backbone."; "" for none."""
    split_names = [name.split(".") for name in names]
    prefix: list[str] = []
    while True:
        inside = [name for name in split_names if name[0] not in HEADS]
        firsts = {name[0] for name in inside}
        if len(firsts) != 1 or any(len(name) < 2 for name in inside):
            return "".join(f"{part}." for part in prefix)
        (first,) = firsts
        prefix.append(first)
        split_names = [name[1:] if name[0] == first else name for name in split_names]


def without(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors without the prefix that `shared_prefix` found, which may begin before the names of a head too."""
    found = {}
    for name, tensor in tensors.items():
        for part in prefix.split(".")[:-1]:
            name = name.removeprefix(f"{part}.")
        found[name] = tensor
    return found
