"""The names of the channels of an image, and the modalities they belong to."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from fusionjax.data.sampling import splits
from fusionjax.data.source import Source, find_attribute
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """The names of the channels of images (H, W, C), and the modalities that they form.

    Hashable. A channel belongs to at most one modality: a shared channel would show each encoder the input of the other.

    Attributes:
        names: C names, in the order of the channels.
        modalities: (name, indices of its channels) of each modality, at least one.

    >>> split = channel_map((("rgb", (0, 1, 2)), ("uv", ("uv_a", 4))), ("red", "green", "blue", "uv_a", "uv_b"))
    >>> split["uv"], split.count, split.modality_names
    ((3, 4), 5, ('rgb', 'uv'))
    """

    names: tuple[str, ...]
    modalities: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def count(self) -> int:
        """The number of channels C."""
        return len(self.names)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """The names of the modalities, in the given order."""
        return tuple(name for name, _ in self.modalities)

    def __getitem__(self, modality: str) -> tuple[int, ...]:
        """The indices of the channels of a modality; KeyError for an unknown name."""
        return dict(self.modalities)[modality]


def channel_map(
    modalities: Sequence[tuple[str, Sequence[int | str]]], names: Sequence[str] = ()
) -> ChannelMap:
    """The channel map that a config describes, validated.

    Args:
        modalities: `config.data.modalities`, (name, channels) of each; a channel is an index or a name.
        names: `config.data.channels`, one name per channel, including channels without a modality; () for the names "0", "1" …
            up to the largest index in `modalities`.

    Raises:
        UserError: no modality, a modality without channels, an unknown or repeated channel or name.
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
                    f"{field}: channel {names[c]!r} is in {owner[c]!r} and again in {name!r}; it may be in one modality only"
                )
            owner[c] = name
    return ChannelMap(names, resolved)


def of(source: Source) -> ChannelMap:
    """The channel map of a source with named channels, or of the source that it wraps (`Subset`, `ByIdentity`).

    Raises:
        UserError: the source has no channel map.
    """
    found = find_attribute(source, "channels")
    if not isinstance(found, ChannelMap):
        raise UserError(
            f"{source.name} has no channel map; config.data.source must be multispectral or openmoji_pair"
        )
    return found


def duplicate_groups(source: Source, modalities: Sequence[str] = ()) -> np.ndarray:
    """Groups of examples whose images are identical in all channels of at least one modality.

    Cross-modal retrieval cannot distinguish such examples: of 50 flags whose line drawing is the same empty rectangle, at most
    one is found at rank 1 by its identity, however good the encoders are. Used as `ids` of `evaluation.retrieval`, the groups
    count any identical image as correct. Reads every example once.

    Args:
        source: a source with a channel map, see `of`.
        modalities: names of the modalities that are compared; () for all.

    Returns:
        (N,) int64, for each example the index of the first example of its group; groups are connected through shared images.
        An example that cannot be read is a group of its own.

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
                yield i, (name, hashlib.sha256(image[..., members].tobytes()).digest())

    return splits.linked(len(source), pictures())


def _numbered(field: str, groups: Sequence[tuple[str, tuple[int | str, ...]]]) -> tuple[str, ...]:
    channels = [c for _, members in groups for c in members]
    numbers = [c for c in channels if type(c) is int and c >= 0]
    if len(numbers) < len(channels):
        raise UserError(f"{field} must give channels as numbers from 0 where config.data.channels is empty")
    return tuple(map(str, range(1 + max(numbers))))


def _index(channel: int | str, modality: str, names: Sequence[str]) -> int:
    if isinstance(channel, str) and channel in names:
        return names.index(channel)
    if type(channel) is int and 0 <= channel < len(names):
        return channel
    raise UserError(
        f"config.data.modalities: {modality!r} has channel {channel!r}, which is not one of the {len(names)}: "
        f"0 to {len(names) - 1}, or {', '.join(names)}"
    )
