"""What the channels of an image are called, and which of them belong to which modality."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fusionjax.data.image.decode import DecodeError
from fusionjax.data.sampling import splits
from fusionjax.data.source import Source
from fusionjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """Names of the channels of images (H, W, C), and the modalities that they form.

    Hashable. A channel belongs to one modality or to none: a channel in two would show each encoder what the other sees.

    Attributes:
        names: C names; position is the channel's index.
        modalities: (name, indices of its channels) for each modality, one or more.

    >>> split = channel_map((("rgb", (0, 1, 2)), ("uv", ("uv_a", 4))), ("red", "green", "blue", "uv_a", "uv_b"))
    >>> split["uv"], split.count, split.modality_names
    ((3, 4), 5, ('rgb', 'uv'))
    """

    names: tuple[str, ...]
    modalities: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def count(self) -> int:
        """C."""
        return len(self.names)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """In the order given."""
        return tuple(name for name, _ in self.modalities)

    def __getitem__(self, modality: str) -> tuple[int, ...]:
        """Indices of a modality's channels."""
        return dict(self.modalities)[modality]


def channel_map(
    modalities: Sequence[tuple[str, Sequence[int | str]]], names: Sequence[str] = ()
) -> ChannelMap:
    """The map that a config describes, checked.

    Args:
        modalities: `config.data.modalities`, (name, channels) for each; a channel is an index or a name.
        names: `config.data.channels`, a name for each channel, also for those of no modality; () for "0", "1" … as
            far as `modalities` goes.

    Raises:
        UserError: no modality, one without channels, a channel that is none or is named twice; one line.
    """
    field = "config.data.modalities"
    try:
        groups = tuple((str(name), tuple(channels)) for name, channels in modalities)
    except (TypeError, ValueError):
        groups = ()
    if not groups or any(not members for _, members in groups):
        raise UserError(
            f"{field}={modalities!r} must be (name, channels) for each modality, e.g. "
            "(('rgb', (0, 1, 2)), ('uv', (3, 4, 5)))"
        )
    names = tuple(map(str, names)) or _numbered(field, groups)
    for what, words in (("config.data.channels", names), (field, tuple(name for name, _ in groups))):
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None:
            raise UserError(f"{what} names {twice!r} twice")
    resolved = tuple((name, tuple(_index(c, name, names) for c in members)) for name, members in groups)
    owner: dict[int, str] = {}
    for name, members in resolved:
        for c in members:
            if c in owner:
                raise UserError(
                    f"{field}: channel {names[c]!r} is in {owner[c]!r} and again in {name!r}; it may be in one"
                )
            owner[c] = name
    return ChannelMap(names, resolved)


def of(source: Any) -> ChannelMap:
    """The channel map of a source whose images have named channels, also where it is wrapped (`Subset`, `ByIdentity`).

    Raises:
        UserError: the source has none.
    """
    inner = source
    while not isinstance(getattr(inner, "channels", None), ChannelMap):
        inner = getattr(inner, "source", None)
        if inner is None:
            raise UserError(
                f"{source.name} has no channel map; config.data.source must be multispectral or openmoji_pair"
            )
    return inner.channels


def look_alikes(source: Source, modalities: Sequence[str] = ()) -> np.ndarray:
    """Which examples share a picture: pixel for pixel the same in all channels of a modality.

    Retrieval from one modality to the other cannot tell such examples apart: of 50 flags whose line drawing is the same empty
    rectangle, at most one is found at rank 1 by its identity, however good the encoders are. As `ids` of
    `evaluation.retrieval` these numbers ask for any one that looks the same. Reads every example once.

    Args:
        source: with a channel map, see `of`.
        modalities: names of those that are compared, as they are retrieved; () for all.

    Returns:
        int64 (N,): the index of the first example that this one is linked to, by one shared picture or by several one after
        another. An example that cannot be read stands for itself.

    Raises:
        UserError: the source has no channel map.
    """
    known = of(source)
    compared = [(name, list(known[name])) for name in modalities or known.modality_names]

    def pictures() -> Iterator[tuple[int, tuple[str, bytes]]]:
        for i in range(len(source)):
            try:
                image = np.asarray(source.load(i))
            except (DecodeError, OSError):
                continue
            for name, members in compared:
                yield i, (name, hashlib.sha256(np.ascontiguousarray(image[..., members])).digest())

    return splits.linked(len(source), pictures())


def _numbered(field: str, groups: Sequence[tuple[str, tuple[Any, ...]]]) -> tuple[str, ...]:
    members = [c for _, channels in groups for c in channels]
    if not all(type(c) is int and c >= 0 for c in members):
        raise UserError(f"{field} must give channels as numbers from 0 where config.data.channels is empty")
    return tuple(map(str, range(1 + max(members))))


def _index(channel: Any, modality: str, names: Sequence[str]) -> int:
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    if type(channel) is int and 0 <= channel < len(names):
        return channel
    raise UserError(
        f"config.data.modalities: {modality!r} has channel {channel!r}, which is none of the {len(names)}: "
        f"0 to {len(names) - 1}, or {', '.join(names)}"
    )
