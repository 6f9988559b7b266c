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
from fusionjax import config as base
from fusionjax.models import registry


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, **common.fusion_arg(encoder=common.MINILM), cache="")
    c = common.image_text(base.default(), options, descriptions="openmoji")
    c.data.source, c.data.fractions = "openmoji", (0.7, 0.1, 0.2)
    # One drawing per identity: with all skin tones, three of five training images would show people.
    c.data.train_split, c.data.eval_splits = "train_base", ("val", "test")
    c.data.resize, c.data.image_size, c.data.cache.passes = 128, 128, 2
    c.data.augment.crop = "random_resized"
    c.data.augment.scale, c.data.augment.ratio = (0.8, 1.0), (0.9, 1.1)
    c.data.cache.enabled, c.data.cache.folder = True, options.cache
    c.model.trunk, c.model.trunk_features = "tf_efficientnet_lite0", "head"
    common.preprocess(c, c.model.trunk)
    c.model.freeze_trunk = c.model.trunk_norm = True
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_ratio, c.model.dropout = 128, 1, 4, 2.0, 0.2
    c.pretrained.source, c.pretrained.into = registry.weights(c.model.trunk), "trunk"
    c.text.max_tokens = 32
    c.optim.learning_rate, c.optim.weight_decay, c.optim.ema_decay = 1e-3, 0.05, 0.99
    c.optim.warmup_epochs = 1.0
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs, c.train.log_every = 64, 12.0, 3.0, 20
    c.evaluation.probe = True
    # The captions score higher than two descriptions per category, on validation too.
    c = common.mvpdr(c, options, descriptions="openmoji", prompts="captions")
    if c.task == "mvpdr" and not c.mvpdr.clip:
        c.mvpdr.align_steps = 320
    return common.run_local_openmoji(c) if options.runlocal else c


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
