"""The records of the tasks "fusion" and "mvpdr": their config sections, their rules and what they read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.config import impossible, require_one_of, require_within
from fusionjax.register import Sharing, TaskRecord
from fusionjax.tasks.base import fields

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def fusion_section() -> ConfigDict:
    """Two token sequences and what becomes of them."""
    c = ConfigDict()
    c.mode = "fusion"  # fusion, concat (no cross-attention), image, text
    c.head = "concat"  # concat, adaptive, bilinear, attention, bottleneck, low_rank
    c.bilinear_form = "full"  # bilinear: full, hadamard
    c.bottleneck_tokens = 4  # bottleneck
    c.rank = 4  # low_rank
    return c


def text_section() -> ConfigDict:
    """The text of an example or of a class, and its encoder."""
    c = ConfigDict()
    # instance: the column caption; bank: the descriptions of all classes; class: those of the true one.
    c.kind = "instance"
    # Of BERT's kind, with its tokenizer: a folder, package:<name>, or hub:<owner>/<name>[@revision]; any with #<part>.
    c.encoder = ""
    c.freeze = True  # the encoder does not train, and runs once per text
    c.max_tokens = 64
    c.descriptions = ""  # bank and class: plant_village, or a JSON file: class → texts
    c.bank_level = "description"  # bank: what a key is, a description's mean vector, or each token
    c.allow_empty = False  # instance: a caption without a word is masked, not an error
    c.allow_label_leak = False  # class: let evaluation read it; the report says that it measures nothing
    return c


def mvpdr_section() -> ConfigDict:
    """Prototypes in the common space of an image and a text encoder."""
    c = ConfigDict()
    # A folder, or hub:<owner>/<name>[@revision], with #<part> too; "" projects model.trunk and text.encoder into a space.
    c.clip = ""
    # Of the classes. descriptions: text.descriptions; captions: those of a class's training examples.
    c.prompts = "descriptions"
    c.max_prompts = 512  # captions per class; of more, so many are drawn by `seed`
    c.per_class = 16  # K: visual prototypes per class
    c.alpha = 0.3  # of the visual scores
    c.beta = 0.5  # of the nearest prompt, and of a visual prototype's distance
    c.gamma = 0.5  # of the mean over the prompts
    c.text_weight = 0.1  # of each of the two text losses
    c.width = 256  # of the common space, and its training, where there is no CLIP
    c.align_steps = 1000  # at most, where there is a split "val" to choose by
    c.align_batch = 256
    c.align_rate = 1e-3
    return c


def check_fusion(config: ConfigDict) -> None:
    """The rules on `config.fusion` and `config.text`."""
    require_one_of(config, "fusion.mode", "fusion", "concat", "image", "text")
    require_one_of(config, "fusion.bilinear_form", "full", "hadamard")
    require_within(config, "fusion.bottleneck_tokens", 1)
    require_within(config, "fusion.rank", 1)
    check_text(config)


def check_text(config: ConfigDict) -> None:
    """The rules on `config.text`."""
    require_one_of(config, "text.kind", "instance", "bank", "class")
    require_one_of(config, "text.bank_level", "description", "token")
    require_within(config, "text.max_tokens", 8, 512)


_KIND_OPTIONS = {
    "instance": ("allow_empty",),
    "bank": ("descriptions", "bank_level"),
    "class": ("descriptions", "allow_label_leak"),
}


def fusion_fields(config: ConfigDict) -> Sequence[str]:
    """Of `config.fusion`; the options of the chosen head only."""
    options = register.fusion_heads.get(config.fusion.head).reads.values()
    return ("fusion.mode", "fusion.head", *(f"fusion.{option}" for option in options))


def build_fusion(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.image_text import fusion

    return fusion.create(config, facts)


def fusion_reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`. With fusion.mode="image", an ablation, the fields of the text may stay."""
    text = ("kind", "encoder", "freeze", "max_tokens", *_KIND_OPTIONS.get(config.text.kind, ()))
    return (*fields.CLASS_LOSS, *fusion_fields(config), *(f"text.{key}" for key in text))


FUSION_MODEL = {
    "fusion": (
        "width", "depth", "heads", "mlp_ratio", "dropout", "remat", "freeze_trunk", "trunk_norm", "trunk", "trunk_features",
    )
}  # fmt: skip
"""The model that fusion and vqa build, and the fields of `config.model` that it reads."""
TEXT_FILES = ("text.encoder", "text.descriptions")
"""Of `config.text`: see `Sharing.files`."""
FUSION = TaskRecord(
    "fusion",
    build_fusion,
    sections={"fusion": fusion_section, "text": text_section},
    check=check_fusion,
    reads=fusion_reads,
    builds=FUSION_MODEL,
    sharing=Sharing(
        "Names the class of an image with the text that belongs to it.",
        "image-classification",
        files=TEXT_FILES,
    ),
)


def build_mvpdr(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.image_text import mvpdr

    return mvpdr.create(config, facts)


def check_mvpdr(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    c = config
    check_text(c)
    require_one_of(c, "mvpdr.prompts", "descriptions", "captions")
    for key in ("max_prompts", "per_class", "width", "align_steps"):
        require_within(c, f"mvpdr.{key}", 1)
    require_within(c, "mvpdr.align_batch", 2)
    require_within(c, "mvpdr.align_rate", 0, open_low=True)
    for key in ("alpha", "beta", "gamma", "text_weight"):
        require_within(c, f"mvpdr.{key}", 0)
    if not c.data.cache.enabled:
        raise impossible(c, "data.cache.enabled", "mvpdr makes its prototypes from cached features: set True")
    if c.mvpdr.clip:
        if c.model.trunk:
            raise impossible(c, "model.trunk", "mvpdr.clip brings its own image encoder: leave it empty")
        if c.pretrained.source:
            raise impossible(c, "pretrained.source", "mvpdr.clip brings its own weights: leave it empty")
    elif not c.text.freeze:
        raise impossible(c, "text.freeze", "mvpdr works on frozen encoders: set True")


def mvpdr_reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`."""
    own = ["clip", "prompts", "per_class", "alpha", "beta", "gamma", "text_weight"]
    text = ["max_tokens"]
    if config.mvpdr.prompts == "captions":
        own, text = [*own, "max_prompts"], [*text, "allow_empty"]
    else:
        text = [*text, "descriptions"]
    if not config.mvpdr.clip:  # the common space is learned, on captions where the data have them
        own = [*own, "width", "align_steps", "align_batch", "align_rate"]
        text = [*text, "encoder", "freeze", "allow_empty"]
    return (*(f"mvpdr.{key}" for key in own), *(f"text.{key}" for key in text))


MVPDR = TaskRecord(
    "mvpdr",
    build_mvpdr,
    sections={"mvpdr": mvpdr_section, "text": text_section},
    check=check_mvpdr,
    reads=mvpdr_reads,
    frozen_trunk=lambda config: bool(config.mvpdr.clip),
    training_free=True,
    builds={"mvpdr": ("freeze_trunk", "trunk", "trunk_features")},
    sharing=Sharing(
        "Names the class of an image by its nearest prototypes in a space that images and texts share.",
        "image-classification",
        files=(*TEXT_FILES, "mvpdr.clip"),
    ),
)
