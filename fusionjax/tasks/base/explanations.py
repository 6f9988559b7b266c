"""The parts of a report that show single examples, shared by the tasks."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax

from fusionjax.data.source import Source
from fusionjax.tasks.base.class_scorer import Predict
from fusionjax.tasks.base.protocol import Batch, ReportFields, Shown, Variables
from fusionjax.types import Aux


@runtime_checkable
class Legible(Protocol):
    """What a task's inputs also have if the model reads texts or sounds: how an explanation shows them."""

    def words(
        self, source: Source | None, index: Sequence[int], texts: Sequence[str] | None = None
    ) -> list[list[str]]:
        """The text of some examples, token by token without padding, or the descriptions that all examples share.

        Args:
            source: the split; None for a user's own examples.
            index: of the examples in the split.
            texts: of a user's examples, one per example.

        Returns:
            One list per example; empty ones for a model without text.
        """
        ...

    def spectrogram(self, batch: Batch) -> tuple[jax.Array, jax.Array] | None:
        """Log-mel frames (B, T, F) and which are the clip's own, (B, T) bool; None without audio input. Pure."""
        ...

    def seconds(self, frames: int) -> float:
        """Length of a clip with so many frames."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class MapsOnly:
    """See `protocol.Explanation`: the maps that are among the predictions.

    Attributes:
        predict: of the task's scorer.
    """

    predict: Predict
    outputs: ClassVar[tuple[str, ...]] = ("rollout", "selected")

    def explain(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `Explanation.explain`."""
        return self.predict(variables, batch)

    def figures(self, source: Source, shown: Sequence[Shown]) -> ReportFields:
        """See `Explanation.figures`: none."""
        return {}


def spread(shown: Sequence[Shown], count: int = 6) -> Sequence[Shown]:
    """At most `count` examples, evenly spaced, so that both the correct and the incorrect ones are among them."""
    if len(shown) <= count:
        return shown
    return [shown[i * (len(shown) - 1) // (count - 1)] for i in range(count)]


def glca_selection(aux: Aux) -> dict[str, jax.Array]:
    """ "rollout" (B, N − 1) and "selected" (B, k) without CLS, from a DCAL's aux; empty without GLCA."""
    if "rollout" not in aux:
        return {}
    return {"rollout": aux["rollout"][:, 1:], "selected": aux["selected"][:, 1:] - 1}
