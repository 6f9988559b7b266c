"""The record of the task "spectral", contrastive learning between modalities: its config section, its rules and what it
reads.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax.config import default, impossible, require_one_of
from fusionjax.register import Sharing, TaskRecord
from fusionjax.tasks.base import fields

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def section() -> ConfigDict:
    """Every field with its default; the method: docs/methods/contrastive.md."""
    c = ConfigDict()
    # separate: one encoder per modality; concat: one of all channels; attention: learned tokens query one.
    c.fusion = "separate"
    c.train_on = ()  # names of the modalities that train; () for all; one alone has no cross loss
    c.projection = (512, 128)  # widths from the encoder's feature to the embedding
    c.query_width, c.query_heads = 256, 8  # attention: of the learned tokens' queries
    # Encoders in evaluation mode in training too: batch norms keep the published statistics.
    c.fixed_statistics = False

    # Weights of the loss between modalities: at the first step, and from the curriculum's end.
    c.cross_weight = (0.2, 0.8)
    c.intra_weight = ()  # of that within each modality, likewise; () for 1 − cross_weight
    c.curriculum = 1.0  # share of the run after which the weights stay
    c.temperature = 0.1  # of both losses
    c.learned_temperature = False  # `temperature` is the start; its inverse stays within 1 … 100
    c.chunk = 0  # rows of similarities held at a time; 0 for all

    c.colour = ("rgb",)  # modalities of red, green and blue: jitter, grey, blur
    c.intensity = ("uv",)  # modalities with noise and gamma
    c.crop_probability, c.crop_area, c.crop_aspect = 1.0, (0.08, 1.0), (3 / 4, 4 / 3)
    c.flip_probability, c.rotation_probability, c.degrees = 0.5, 1.0, 15.0
    c.jitter_probability = 0.8
    c.brightness, c.contrast, c.saturation, c.hue = 0.4, 0.4, 0.4, 0.1
    c.grayscale_probability, c.blur_probability, c.blur_sigma = 0.2, 0.5, (0.1, 2.0)
    c.noise_probability, c.noise_sigma = 0.3, 0.1
    c.gamma_probability, c.gamma = 0.5, (0.8, 1.2)

    c.reference_split = (
        ""  # of data.eval_splits: its labels are what kNN and linear probe know; "" for neither
    )
    c.neighbours = 20  # k of kNN
    # Of the linear probe: inverse strength of its L2 penalty; 0: chosen on held-out rows, slower.
    c.probe_c = 0.01
    c.permutations = 999  # of the Mantel test
    c.alignment_examples = 500  # that it and the figures use at most, drawn by the seed
    return c


def build(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.contrastive import task

    return task.create(config, facts)


def check(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    _check_data(config)
    _check_modalities(config)
    _check_numbers(config)
    _check_reference(config)


def _check_data(config: ConfigDict) -> None:
    if config.data.cache.enabled:
        raise impossible(
            config, "data.cache.enabled", "the views of an image are drawn anew at every step, on the device"
        )
    if config.data.per_identity:
        raise impossible(config, "data.per_identity", "batches are drawn from all images")
    normal = default().data.augment
    for key, value in config.data.augment.items():
        want = {"crop": "none", "flip": 0.0}.get(key, normal[key])
        if value != want:
            raise impossible(
                config,
                f"data.augment.{key}",
                f"{want!r}: this task augments on the device, see config.spectral",
            )


def _check_modalities(config: ConfigDict) -> None:
    c = config.spectral
    if not config.data.modalities:
        raise impossible(
            config,
            "data.modalities",
            "(name, channels) for each, e.g. (('rgb', (0, 1, 2)), ('uv', (3, 4, 5)))",
        )
    known = [m[0] for m in config.data.modalities if isinstance(m, tuple) and m]
    for name in known:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise impossible(
                config, "data.modalities", f"{name!r} names files and scores: letters, digits and _ only"
            )
        if name in ("all", "combined"):
            raise impossible(
                config,
                "data.modalities",
                f"{name!r} is what files and scores of all modalities together are called",
            )
    require_one_of(config, "spectral.fusion", "separate", "concat", "attention")
    for key in ("train_on", "colour", "intensity"):
        if not set(c[key]) <= set(known) or len(set(c[key])) < len(c[key]):
            raise impossible(
                config,
                f"spectral.{key}",
                f"names of data.modalities, each once: {', '.join(map(str, known))}",
            )
    trained = c.train_on or known
    if len(trained) == 1 and c.cross_weight != section().cross_weight:
        raise impossible(
            config, "spectral.cross_weight", f"{trained[0]} is trained alone: there is no cross loss"
        )


def _check_reference(config: ConfigDict) -> None:
    c = config.spectral
    if c.reference_split and c.reference_split not in config.data.eval_splits:
        raise impossible(
            config, "spectral.reference_split", f"one of data.eval_splits={config.data.eval_splits}"
        )
    if c.reference_split and len(config.data.eval_splits) < 2:
        raise impossible(
            config, "spectral.reference_split", "a further split of data.eval_splits must be left to score"
        )
    if c.reference_split and config.train.best_metric.startswith(f"{c.reference_split}/"):
        raise impossible(
            config, "train.best_metric", f"{c.reference_split} is spectral.reference_split and is not scored"
        )
    if config.evaluation.probe and not config.pretrained.source:
        raise impossible(
            config, "evaluation.probe", "it measures published weights: name them in pretrained.source"
        )


def _check_numbers(config: ConfigDict) -> None:
    c = config.spectral
    if min(c.projection, default=0) < 1:
        raise impossible(
            config, "spectral.projection", "widths, whole numbers above 0, the last that of the embedding"
        )
    for key in ("cross_weight", "intra_weight"):
        pair = c[key]
        if (pair or key == "cross_weight") and (len(pair) != 2 or min(pair) < 0):
            raise impossible(config, f"spectral.{key}", "two weights, at the start and at the end, 0 or more")
    if not c.intra_weight and max(c.cross_weight) > 1:
        raise impossible(
            config,
            "spectral.cross_weight",
            "at most 1 where intra_weight is () and 1 − cross_weight is meant",
        )
    if not 0 < c.curriculum <= 1:
        raise impossible(config, "spectral.curriculum", "a share of the run, above 0 and at most 1")
    if not 0.01 <= c.temperature <= 1:
        raise impossible(config, "spectral.temperature", "0.01 … 1")
    for key in ("query_width", "query_heads", "neighbours", "permutations"):
        if c[key] < 1:
            raise impossible(config, f"spectral.{key}", "1 or more")
    if c.query_width % c.query_heads:
        raise impossible(
            config, "spectral.query_heads", f"it must divide spectral.query_width={c.query_width}"
        )
    if c.alignment_examples < 3:
        raise impossible(config, "spectral.alignment_examples", "3 or more")
    if c.probe_c < 0:
        raise impossible(config, "spectral.probe_c", "above 0, or 0 to choose it")
    if c.chunk < 0:
        raise impossible(config, "spectral.chunk", "0 or more")


def reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`. A probe measures the published encoders, without a cache; a plain encoder can be cut."""
    return ("spectral.*", "model.train_trunk_from", *fields.CHANNELS, "evaluation.probe")


RECORD = TaskRecord(
    "spectral",
    build,
    sections={"spectral": section},
    examples={"spectral.train_on": ("rgb", "uv"), "spectral.intra_weight": (0.8, 0.2)},
    check=check,
    reads=reads,
    classifies=False,
    sharing=Sharing(
        "Embeds the modalities of a multispectral image in one space, in which those of one scene are close.",
        "image-feature-extraction",
    ),
)
