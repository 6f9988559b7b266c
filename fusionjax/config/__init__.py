"""Run configurations: every field and its default, the argument parser, and the one validation.

A config file is Python: `get_config(arg)` takes `default()`, fills in what differs and returns it. `--config.a.b=value`
overrides a field. No default value lives anywhere else, and a field that is not below is an error.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fusionjax.config import spectral
from fusionjax.config.validation import ABLATIONS, Rules, impossible
from fusionjax.errors import UserError

__all__ = ["ABLATIONS", "check_key", "default", "from_json", "impossible", "parse_arg", "validate"]


def default() -> ConfigDict:
    """Every field of a run, with its default. Shapes the type checks too: an override keeps the type found here."""
    c = ConfigDict()
    c.task = "classification"  # classification, reid, fusion, mvpdr, spectral, vqa, trimodal, audiovisual
    c.seed = 0
    c.precision = "float32"  # of the computation; parameters and optimiser state are float32 always

    c.data = ConfigDict()
    c.data.source = (
        "folder"  # folder, manifest, prepared, tfds, openmoji, or a data set's name: fusionjax.data.datasets
    )
    c.data.root = (
        ""  # the folder (or manifest file) of the data set; for tfds its data_dir, "" for TFDS's own
    )
    c.data.builder = ""  # tfds only: name of the builder
    c.data.modalities = ()  # of images with more than red, green and blue: (name, its channels) for each; () for RGB
    c.data.channels = ()  # names of their channels, by which modalities may name them; () for numbers from 0
    c.data.value_range = ()  # (low, high) of their pixels; () for 0 … 255 of uint8, else each modality's in training
    c.data.train_split = "train"
    c.data.eval_splits = ("test",)
    c.data.label = "label"  # what is a class: label, or the column identity
    c.data.selected_classes = ()  # names of the classes to keep, in the order of their labels; () for all
    c.data.carry = ()  # further columns of whole numbers that travel with an image, e.g. ("camera",)
    c.data.per_identity = 0  # K: batches of batch_size / K classes with K images each; 0 for any images
    c.data.renderings = ("color",)  # openmoji: of color and line, an image for each
    c.data.languages = (
        "en",
    )  # stamps: of the captions; training draws one an epoch, the first is the test's
    c.data.audio_languages = ("fr",)  # stamps: of the spoken descriptions, likewise
    c.data.sound = "description"  # stamps: description, effect, any
    c.data.questions = ""  # vqa: captions: made of them (stamps); columns: the data's own; "" for none
    c.data.question_types = ()  # of those that are made: category, is_it, which, what; () for all
    c.data.answers = 1000  # vqa: answers at most, the most frequent in training
    c.data.answer_pictures = 3  # vqa: pictures that an answer must belong to
    c.data.fractions = (
        0.7,
        0.15,
        0.15,
    )  # train, val, test where the source has no official split; drawn by `seed`
    c.data.resize = (
        256  # shorter side for crop="resized" at test; both sides, squashed, when resize_mode="squash"
    )
    c.data.resize_mode = "shorter"  # shorter, squash
    c.data.image_size = 224
    c.data.image_shape = ()  # (rows, columns) where images are not square: resized to it, whatever resize and image_size are
    c.data.interpolation = "bilinear"  # bilinear, bicubic
    c.data.mean = (
        0.485,
        0.456,
        0.406,
    )  # a channel, of pixels in 0 … 1; () with modalities: measured in training
    c.data.std = (0.229, 0.224, 0.225)
    c.data.threads = 8
    c.data.prefetch = 64  # examples decoded ahead
    c.data.max_bad_fraction = 0.01  # unreadable images per epoch above which the run stops
    c.data.max_pixels = 100_000_000
    c.data.check_counts = True  # compare with the published number of images

    c.data.augment = ConfigDict()
    c.data.augment.crop = (
        "random"  # random: of the resized image; random_resized: area and aspect drawn; none: centre
    )
    c.data.augment.scale = (0.08, 1.0)  # random_resized: share of the area
    c.data.augment.ratio = (0.75, 4 / 3)  # random_resized: aspect
    c.data.augment.pad = 0  # pixels of border before a random crop
    c.data.augment.flip = 0.5
    c.data.augment.rotate = 0.0  # degrees, ±
    c.data.augment.jitter = 0.0  # brightness, contrast, saturation, ±
    c.data.augment.rand_operations = 0  # RandAugment: operations an image; 0 for none
    c.data.augment.rand_magnitude = 9.0  # RandAugment: 0 … 10
    c.data.augment.erase = 0.0  # probability of random erasing
    c.data.augment.erase_fill = "mean"  # mean: one colour; noise: normal, of the data's mean and std

    c.data.cache = ConfigDict()  # outputs of a frozen trunk, computed once
    c.data.cache.enabled = False
    c.data.cache.passes = 3  # differently augmented copies of the training split
    c.data.cache.batch_size = 32
    c.data.cache.folder = ""  # "" the workdir's own; a folder that runs share computes the same features once

    c.model = ConfigDict()
    c.model.name = "dcal_vit_base_patch16_224"  # python -m fusionjax.models lists the names
    c.model.ablation = "full"  # sa_only, sa_glca, sa_pwca, full
    c.model.width = c.model.depth = c.model.heads = c.model.patch = 0  # 0: what the name says
    c.model.mlp_ratio = 0.0  # 0: what the name says
    c.model.drop_path = 0.0  # of the last block; rises linearly from 0
    c.model.dropout = 0.0
    c.model.remat = False  # recompute blocks in the backward pass: memory for time
    c.model.trunk = ""  # name of a convolutional trunk whose feature map is the token grid
    c.model.trunk_features = ""  # EfficientNet: head, stride32, stride16; "" for the trunk's usual output
    c.model.train_trunk_from = (
        ""  # "stride16": what follows that map of an EfficientNet trains, whatever freeze_trunk says
    )
    c.model.freeze_trunk = False  # evaluation mode, no gradient
    c.model.trunk_norm = False  # batch normalisation of the trunk's feature map
    c.model.ratio = 0.1  # R: share of the patch tokens that GLCA queries with
    c.model.glca_input = "last"  # last, penultimate
    c.model.partner_stream = "pwca"  # pwca, sa
    c.model.stride = 0  # from one patch to the next; less than the patch: they overlap; 0 for the patch
    c.model.cameras = 0  # of the camera embedding (SIE), whose index the column camera is; 0 for none
    c.model.camera_scale = 3.0  # its factor

    c.model.crossvit = ConfigDict()  # fields of models.crossvit.CrossViT; () for what the name says
    c.model.crossvit.img_size = ()
    c.model.crossvit.patch_size = ()
    c.model.crossvit.embed_dim = ()
    c.model.crossvit.depth = ()  # a stage: blocks of each branch, then of the fusion
    c.model.crossvit.num_heads = ()
    c.model.crossvit.mlp_ratio = ()

    c.fusion = ConfigDict()  # task fusion: two token sequences and what becomes of them
    c.fusion.mode = "fusion"  # fusion, concat (no cross-attention), image, text
    c.fusion.head = "concat"  # concat, adaptive, bilinear, attention, bottleneck, low_rank
    c.fusion.bilinear_form = "full"  # full, hadamard
    c.fusion.bottleneck_tokens = 4
    c.fusion.rank = 4  # low_rank

    c.mvpdr = ConfigDict()  # task mvpdr: prototypes in the common space of an image and a text encoder
    c.mvpdr.clip = ""  # a folder, or hub:<owner>/<name>[@revision]; "" projects model.trunk and text.encoder into a space
    c.mvpdr.prompts = (
        "descriptions"  # of the classes, text.descriptions; captions: those of a class's training examples
    )
    c.mvpdr.max_prompts = 512  # captions of a class; of more, so many are drawn by `seed`
    c.mvpdr.per_class = 16  # K: visual prototypes of a class
    c.mvpdr.alpha = 0.3  # of the visual scores
    c.mvpdr.beta = 0.5  # of the nearest prompt, and of a visual prototype's distance
    c.mvpdr.gamma = 0.5  # of the mean over the prompts
    c.mvpdr.text_weight = 0.1  # of each of the two text losses
    c.mvpdr.width = 256  # of the common space, and its training, where there is no CLIP
    c.mvpdr.align_steps = 1000  # at most, where there is a split "val" to choose by
    c.mvpdr.align_batch = 256
    c.mvpdr.align_rate = 1e-3

    c.text = ConfigDict()
    c.text.kind = (
        "instance"  # instance: the column caption; bank: descriptions of all classes; class: of the true one
    )
    c.text.encoder = (
        ""  # of BERT's kind, with its tokenizer: a folder, package:<name>, or hub:<owner>/<name>[@revision]
    )
    c.text.freeze = True  # the encoder does not train, and runs once a text
    c.text.max_tokens = 64
    c.text.descriptions = ""  # bank and class: plant_village, or a JSON file: class → texts
    c.text.bank_level = "description"  # what a key of the bank is: a description's mean vector, or each token
    c.text.allow_empty = False  # a caption without a word is masked, not an error
    c.text.allow_label_leak = False  # class: let evaluation read it; the report says that it measures nothing

    c.trimodal = ConfigDict()  # tasks trimodal and audiovisual
    c.trimodal.modalities = ("image", "audio", "text")  # what the model reads
    c.trimodal.pairings = ("image_from_audio", "audio_from_image", "text_from_image")  # who reads whom
    c.trimodal.hidden = 256  # of the classifier
    c.trimodal.modality_dropout = 0.0  # probability that training hides a modality of an example

    c.audio = ConfigDict()
    c.audio.encoder = "mel"  # mel, a small one over log-mel frames, from scratch; wav2vec2_base
    c.audio.source = ""  # its weights, as pretrained.source
    c.audio.freeze = False  # the encoder does not train
    c.audio.seconds = 4.0  # of a clip: a longer sound is cut, a shorter one masked
    c.audio.width, c.audio.depth, c.audio.heads = 128, 2, 4  # mel
    c.audio.dropout = 0.1
    c.audio.gain = 6.0  # decibels, ±
    c.audio.noise = 0.5  # probability of noise, 15 to 40 dB below the sound
    c.audio.shift = 0.1  # seconds, ±
    c.audio.hide_frames = c.audio.hide_bands = 0.1  # SpecAugment: share of frames and of mel bands
    c.audio.memory = 256  # MiB of decoded sounds that a split keeps

    c.pretrained = ConfigDict()
    c.pretrained.source = (
        ""  # a .safetensors, .npz or .pth file, package:<name>, or hub:<owner>/<name>[@revision][/file]
    )
    c.pretrained.name = ""  # the model those weights are of; "" for the backbone of `model.name`
    c.pretrained.into = ""  # "" the whole model, "trunk" its trunk
    c.pretrained.skip = ()  # parameter patterns (regular expressions) that stay as initialised

    c.loss = ConfigDict()
    c.loss.label_smoothing = 0.0
    c.loss.focal_gamma = 0.0  # focus of the focal loss; 0 for cross-entropy
    c.loss.focal_alpha = 1.0  # its factor
    c.loss.class_weights = ()  # a factor for each class
    c.loss.balanced = False  # the factors are inverse to the classes' numbers of training examples
    c.loss.branch_weighting = "uncertainty"  # uncertainty, sum
    c.loss.uncertainty_init = 0.0
    c.loss.pair_group = (
        0  # images that PWCA or mixing may bring together; 0 for a device's share of the batch
    )
    c.loss.mixup = c.loss.cutmix = 0.0  # α of each; where both are on, a coin a batch decides
    c.loss.identity_weight = 1.0  # reid: of the cross-entropy over identities
    c.loss.metric = "triplet"  # reid: triplet (batch-hard), circle
    c.loss.metric_weight = 1.0
    c.loss.margin = 0.0  # triplet: 0 for the soft margin; circle: its m, 0 for 0.25
    c.loss.circle_scale = 64.0
    c.loss.center_weight = 0.0  # reid: of the centre loss; 0 for none

    c.spectral = spectral.section()

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # adamw, adam, sgd, lars
    c.optim.learning_rate = 1e-3
    c.optim.schedule = "cosine"  # cosine, constant
    c.optim.final_lr = 0.0
    c.optim.warmup_epochs = 0.0
    c.optim.weight_decay = 0.0
    c.optim.no_decay = ()  # patterns of parameters that are not decayed
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.momentum = 0.9
    c.optim.trust_coefficient = 0.001  # lars
    c.optim.clip_norm = 0.0  # 0: no clipping
    c.optim.accumulate = 1  # micro-batches a step
    c.optim.layer_decay = 1.0  # learning rate factor from one block to the one below
    c.optim.lr_rules = ()  # ((pattern, factor), …), multiplied
    c.optim.freeze = ()  # patterns of parameters that do not train
    c.optim.ema_decay = 0.0  # 0: none; else the averaged parameters are evaluated and served

    c.train = ConfigDict()
    c.train.batch_size = 64  # of all devices together
    c.train.epochs = 10.0
    c.train.steps = 0  # > 0 overrides epochs
    c.train.log_every = 50
    c.train.checkpoint_every = 1000  # steps
    c.train.eval_every_epochs = 1.0  # 0: at the end only
    c.train.best_metric = ""  # e.g. val/accuracy: that checkpoint is reported; "" for the last one

    c.evaluation = ConfigDict()
    c.evaluation.batch_size = 64
    c.evaluation.probe = False  # a reference on the frozen trunk's features, reported beside the result
    c.evaluation.metric = "cosine"  # reid: cosine, euclidean
    c.evaluation.average_precision = "step"  # reid: step, or trapezoid of the official MATLAB
    c.evaluation.flip = False  # reid: mean of the features of an image and of its mirror image
    c.evaluation.rerank = False  # reid: also the numbers after k-reciprocal re-ranking
    c.evaluation.rerank_k1, c.evaluation.rerank_k2, c.evaluation.rerank_lambda = 20, 6, 0.3

    c.report = ConfigDict()
    c.report.enabled = True
    c.report.examples = 12  # attention maps of as many right and as many wrong examples
    c.lock()
    return c


def parse_arg(arg: str | None, **spec: Any) -> ConfigDict:
    """Reads a config's own argument, `name=value,flag,…`, strictly.

    Args:
        arg: what stands after the colon of `--config=file.py:arg`; None or "" for none.
        **spec: name → default. A bool, int, float or str also gives the type (a bare `name` sets a bool to True); a
            tuple of strings gives the allowed words, the first of which is the default.

    Returns:
        ConfigDict of every name in `spec`.

    Raises:
        UserError: an unknown name, a value of the wrong type, a word that is not allowed.

    >>> parse_arg("res=128,runlocal", res=224, runlocal=False).res
    128
    """
    out = ConfigDict({k: v[0] if isinstance(v, tuple) else v for k, v in spec.items()})
    for item in filter(None, (arg or "").split(",")):
        key, eq, text = item.partition("=")
        if key not in spec:
            raise UserError(
                f"config argument {key!r} is not known; allowed: {', '.join(sorted(spec))}{_near(key, spec)}"
            )
        want = spec[key]
        if isinstance(want, tuple):
            if text not in want:
                raise UserError(f"config argument {key}={text!r}: allowed are {', '.join(want)}")
            out[key] = text
        elif isinstance(want, bool):
            words = {"": not eq, "true": True, "1": True, "false": False, "0": False}
            if text.lower() not in words or (eq and not text):
                raise UserError(f"config argument {key}={text!r}: allowed are true and false")
            out[key] = words[text.lower()]
        else:
            try:
                out[key] = type(want)(text)
            except ValueError:
                raise UserError(f"config argument {key}={text!r} is not a {type(want).__name__}") from None
    return out


def check_key(name: str) -> None:
    """Whether a dotted name, config.section.field, is a field; a UserError that names what is there if not."""
    section: Any = default()
    path = "config"
    for part in name.split(".")[1:]:
        if not isinstance(section, ConfigDict):
            raise UserError(f"{name} is not known: {path} is a field, not a section")
        if part not in section:
            raise UserError(f"{name} is not known{_near(part, section)}; {path} has {', '.join(section)}")
        section, path = section[part], f"{path}.{part}"


def from_json(data: Mapping[str, Any]) -> ConfigDict:
    """The config of a workdir's config.json; a field that this version does not know is a UserError."""
    config = default()
    with config.unlocked():
        _fill(config, data, "")
    return validate(config)


def validate(config: ConfigDict) -> ConfigDict:
    """Checks a whole config before anything is allocated; returns it locked.

    Raises:
        UserError: the first field that is unknown, of the wrong type or impossible, with what is allowed.
    """
    _same_shape(config, default(), "")
    rules = Rules(config)
    rules.check()
    spectral.check(config, default(), rules.fail)
    config.lock()
    return config


def _near(word: str, words: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _fill(config: ConfigDict, data: Mapping[str, Any], path: str) -> None:
    for key, value in data.items():
        name = f"{path}{key}"
        if key not in config:
            raise UserError(f"config.{name} is not a field of this version{_near(key, config)}")
        if isinstance(value, Mapping) and isinstance(config.get(key), ConfigDict):
            _fill(config[key], value, f"{name}.")
        else:
            config[key] = _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _same_shape(config: ConfigDict, schema: ConfigDict, path: str) -> None:
    for key, value in config.items():
        name = f"{path}{key}"
        if key not in schema:
            raise UserError(f"config.{name} is not known{_near(key, schema)}; allowed: {', '.join(schema)}")
        want = schema[key]
        if isinstance(want, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(
                    f"config.{name}={value!r} must be a section with the fields {', '.join(want)}"
                )
            _same_shape(value, want, f"{name}.")
        elif isinstance(want, float) and isinstance(value, int) and not isinstance(value, bool):
            config[key] = float(value)
        elif type(value) is not type(want):
            raise UserError(f"config.{name}={value!r} must be of type {type(want).__name__}, e.g. {want!r}")
    for key in schema:
        if key not in config:
            raise UserError(f"config.{path}{key} is missing; its default is {schema[key]!r}")
