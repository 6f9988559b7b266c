"""The record of the task "reid": what a re-identification config must be, and what it reads."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.register import Sharing, TaskRecord

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def build(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.reid import task

    return task.create(config, facts)


def reported_splits(config: ConfigDict) -> tuple[str, ...]:
    """Query against gallery is scored as "test", and a split against itself without its suffix: test_all is "test"."""
    return tuple(
        dict.fromkeys(
            "test" if s in ("query", "gallery") else s.partition("_")[0] for s in config.data.eval_splits
        )
    )


def check(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    c, k, splits = config, config.data.per_identity, config.data.eval_splits
    if k < 2:
        raise impossible(
            c,
            "data.per_identity",
            "re-identification needs at least 2 images of an identity in a batch",
        )
    if c.data.label != "identity":
        raise impossible(c, "data.label", "re-identification learns identities: set data.label='identity'")
    micro = c.train.batch_size // c.optim.accumulate
    if micro % k or micro < 2 * k:
        raise impossible(
            c,
            "train.batch_size",
            f"a micro-batch of {micro} must hold at least 2 whole identities of data.per_identity={k} images",
        )
    if c.loss.pair_group and (c.loss.pair_group % k or c.loss.pair_group < 2 * k):
        raise impossible(c, "loss.pair_group", f"at least 2 whole identities of data.per_identity={k} images")
    if ("query" in splits) != ("gallery" in splits):
        raise impossible(c, "data.eval_splits", "name query and gallery together")
    if len(splits) - len(reported_splits(c)) != ("query" in splits):
        raise impossible(c, "data.eval_splits", "two of them would be reported under one name")
    if c.evaluation.flip and c.data.cache.enabled:
        raise impossible(
            c, "evaluation.flip", "cached features have no mirror image: set data.cache.enabled=False"
        )
    if c.evaluation.probe and "query" in splits:
        raise impossible(c, "evaluation.probe", "it needs a split that is its own gallery")


def reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`."""
    loss = ("label_smoothing", "identity_weight", "metric", "metric_weight", "margin", "center_weight")
    evaluation = ("metric", "average_precision", "flip", "rerank")
    return (*(f"loss.{key}" for key in loss), *(f"evaluation.{key}" for key in evaluation))


RECORD = TaskRecord(
    "reid",
    build,
    check=check,
    reads=reads,
    reported_splits=reported_splits,
    sharing=Sharing(
        "Ranks the images of a gallery by their similarity to a query: those of one identity come first.",
        "image-feature-extraction",
    ),
)
