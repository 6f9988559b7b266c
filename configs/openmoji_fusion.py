r"""Image–text fusion on OpenMoji drawings and their names: offline, one or two minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_fusion.py --workdir=runs/openmoji_fusion

Classifies emojis that do not occur in training into nine categories, from drawing and name. EfficientNet-Lite0 (ImageNet) and
MiniLM, both from PyPI packages, are frozen, and their features are cached; cross-attention is trained on the features.
Arguments: head=concat|adaptive|bilinear|hadamard|attention|bottleneck|low_rank, text=instance|bank|class (class leaks the
label and requires --config.text.allow_label_leak=True), baseline=none|image|text|concat|mvpdr|mvpdr_free, seed=<n>,
cache=<folder shared by runs>, encoder=<text encoder>, runlocal. MVPDR uses no text of test images: its prompts are the names
of the training drawings or, with prompts=descriptions, the descriptions of the categories. Its common space is learned from
these names, or is that of a CLIP: clip=<folder or hub:owner/name>.
"""

from ml_collections import ConfigDict

from configs import common
from configs import common_lite0 as lite0
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, **common.fusion_arg(encoder=common.MINILM), cache="")
    c = common.image_text(base.default(), options, descriptions="openmoji")
    c.data.source, c.data.fractions = "openmoji", (0.7, 0.1, 0.2)
    # One drawing per identity: with all skin tones, three of five training images would show people.
    c.data.train_split, c.data.eval_splits = "train_base", ("val", "test")
    c.data.resize, c.data.image_size = 128, 128
    lite0.fusion(c)
    c.data.cache.passes, c.data.cache.folder = 2, options.cache
    c.train.epochs, c.train.eval_every_epochs = 12.0, 3.0
    # The captions score higher than two descriptions per category, on validation too.
    c = common.mvpdr(c, options, descriptions="openmoji", prompts="captions")
    if c.task == "mvpdr" and not c.mvpdr.clip:
        c.mvpdr.align_steps = 320
    return lite0.run_local(c) if options.runlocal else c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: unimodal baselines, concatenation, MVPDR and all heads."""
    heads = {f"cross-attention, {h} head": f"head={h}" for h in common.FUSION_HEADS if h != "hadamard"}
    return {
        "concat without cross-attention": "baseline=concat",
        "image only": "baseline=image",
        "text only": "baseline=text",
        "MVPDR, training-free": "baseline=mvpdr_free",
        "MVPDR, trained": "baseline=mvpdr",
        **heads,
        "cross-attention, bank of descriptions": "text=bank",
    }
