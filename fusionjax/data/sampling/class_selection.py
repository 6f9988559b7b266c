"""A subset of the classes of a data set, selected by name."""

from collections.abc import Sequence

import numpy as np

from fusionjax.data import class_names as names_lib
from fusionjax.data.source import Source, Subset
from fusionjax.errors import UserError


class SelectedClasses(Subset):
    """The examples of the selected classes, in the source's order; labels follow the order of `class_names`.

    Args:
        source: with all classes; kept as the attribute `source`, whose `class_names` include those left out.
        class_names: K ≥ 2 names of classes of the source; the position is the new label.

    Raises:
        UserError: fewer than two classes, a repeated name, a name that the source does not have, or a split without an
            example of these classes.

    Example:
        >>> part = SelectedClasses(source, ("Tomato___Late_blight", "Tomato___healthy"))
        >>> part.class_names[part.labels[0]]
        'Tomato___healthy'
    """

    def __init__(self, source: Source, class_names: Sequence[str]):
        if isinstance(class_names, str):
            raise TypeError("class_names is one str; pass a sequence of names")
        chosen = tuple(class_names)
        unknown = [name for name in chosen if name not in source.class_names]
        if unknown:
            raise UserError(
                f"{source.name} has no class {names_lib.listed(unknown, source.class_names)}; write the names "
                f"as in the data set"
            )
        twice = [name for i, name in enumerate(chosen) if name in chosen[:i]]
        if twice:
            raise UserError(
                f"class {names_lib.listed(twice)} is listed twice among the selected classes: list it once"
            )
        if len(chosen) < 2:
            raise UserError(f"two or more classes of {source.name} must be selected, {len(chosen)} listed")
        repeated = [name for name in chosen if source.class_names.count(name) > 1]
        if repeated:
            raise UserError(
                f"{source.name} has several classes named {names_lib.listed(repeated)}: they cannot be selected by name"
            )
        new = np.full(len(source.class_names), -1, np.int32)
        new[[source.class_names.index(name) for name in chosen]] = np.arange(len(chosen))
        labels = new[np.asarray(source.labels)]
        kept = np.flatnonzero(labels >= 0)
        if not len(kept):
            raise UserError(
                f"split {source.split!r} of {source.name} has no example of class {names_lib.listed(chosen)}"
            )
        super().__init__(source, kept)
        self.class_names = chosen
        self._labels = labels[kept]

    @property
    def labels(self) -> np.ndarray:
        return self._labels
