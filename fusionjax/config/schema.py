"""The fields of every run, with their defaults. A task's own sections stand beside the task: `register.TaskRecord`."""

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.errors import UserError


def default() -> ConfigDict:
    """Every field of a run, with its default. Shapes the type checks too: an override keeps the type found here.

    Raises:
        UserError: two tasks have different sections of one name.
    """
    c = ConfigDict()
    c.task = "classification"  # see fusionjax.register.tasks
    c.seed = 0
    c.precision = "float32"  # of the computation; parameters and optimiser state are float32 always
    c.data = _data()
    c.model = _model()
    for name, section in task_sections().items():
        c[name] = section
    c.pretrained = _pretrained()
    c.loss = _loss()
    c.optim = _optim()
    c.train = _train()
    c.evaluation = _evaluation()
    c.report = _report()
    c.lock()
    return c


def task_sections() -> dict[str, ConfigDict]:
    """The sections of all registered tasks, in the order of their registration; tasks may share one.

    Raises:
        UserError: as `default`.
    """
    makers: dict[str, object] = {}
    sections: dict[str, ConfigDict] = {}
    for task, record in register.tasks.records():
        for name, make in record.sections.items():
            if makers.setdefault(name, make) is not make or name in CORE:
                raise UserError(
                    f"the task {task!r} has a section {name!r}, and so has another: choose another name"
                )
            if name not in sections:
                sections[name] = make()
    return sections


def examples() -> dict[str, tuple[object, ...]]:
    """Dotted name of a tuple that is empty by default → an example of it, whose elements have all possible types."""
    of_tasks = {
        name: value for _, record in register.tasks.records() for name, value in record.examples.items()
    }
    return {**_EXAMPLES, **of_tasks}


_EXAMPLES: dict[str, tuple[object, ...]] = {
    "data.modalities": (("rgb", (0, 1, 2)), ("uv", ("ultraviolet",))),
    "data.channels": ("red", "green", "blue"),
    "data.value_range": (0.0, 65535.0),
    "data.selected_classes": ("airport", "harbour"),
    "data.carry": ("camera",),
    "data.question_types": ("category",),
    "data.image_shape": (256, 128),
    "model.crossvit.img_size": (240, (224, 224)),
    "model.crossvit.patch_size": (12, 16),
    "model.crossvit.embed_dim": (192, 384),
    "model.crossvit.depth": ((1, 4, 0),),
    "model.crossvit.num_heads": (6, 6),
    "model.crossvit.mlp_ratio": (4.0, 4.0, 1.0),
    "pretrained.skip": ("head/.*",),
    "loss.class_weights": (1.0, 2.5),
    "optim.no_decay": ("bias$",),
    "train.trackers": ("wandb", "trackio"),
    "optim.lr_rules": (("bias$", 2.0),),
    "optim.freeze": ("^trunk/",),
}
CORE = ("data", "model", "pretrained", "loss", "optim", "train", "evaluation", "report")
"""Sections of every run."""


def _data() -> ConfigDict:
    c = ConfigDict()
    c.source = "folder"  # see fusionjax.register.datasets
    c.root = ""  # the folder (or manifest file) of the data set; for tfds its data_dir, "" for TFDS's own
    c.builder = ""  # tfds: name of the builder
    # Images with more channels than red, green and blue: (name, its channels) for each modality; () for RGB.
    c.modalities = ()
    c.channels = ()  # names of their channels, by which modalities may name them; () for numbers from 0
    # (low, high) of pixels. With modalities, () for 0 … 255 of uint8, else each modality's in training; without, of greyscale
    # images of more than 8 bits, () for what the file declares.
    c.value_range = ()
    c.nodata = "mean"  # what fills values that a GeoTIFF declares as no data: mean, of the image's channel, or a number
    c.train_split = "train"
    c.eval_splits = ("test",)
    c.label = "label"  # what is a class: label, or the column identity
    c.selected_classes = ()  # names of the classes to keep, in the order of their labels; () for all
    c.carry = ()  # further columns of whole numbers that travel with an image, e.g. ("camera",)
    c.per_identity = 0  # K: batches of batch_size / K classes with K images each; 0 for any images
    c.renderings = ("color",)  # openmoji: of color and line, an image for each
    c.languages = ("en",)  # stamps: of the captions; training draws one per epoch, the test takes the first
    c.audio_languages = ("fr",)  # stamps: of the spoken descriptions, likewise
    c.sound = "description"  # stamps: description, effect, any
    c.questions = ""  # vqa: captions: made of them (stamps); columns: the data's own; "" for none
    c.question_types = ()  # of those that are made: category, is_it, which, what; () for all
    c.answers = 1000  # vqa: answers at most, the most frequent in training
    c.answer_pictures = 3  # vqa: pictures that an answer must belong to
    c.fractions = (0.7, 0.15, 0.15)  # train, val, test where there is no official split; drawn by `seed`
    # Shorter side for the centre crop at test; both sides, squashed, when resize_mode="squash".
    c.resize = 256
    c.resize_mode = "shorter"  # shorter, squash
    c.image_size = 224
    c.image_shape = ()  # (rows, columns) where images are not square: resized to it, without a crop
    c.interpolation = "bilinear"  # bilinear, bicubic
    c.mean = (0.485, 0.456, 0.406)  # a channel, of pixels in 0 … 1; () with modalities: measured in training
    c.std = (0.229, 0.224, 0.225)
    c.threads = 8
    c.prefetch = 64  # examples decoded ahead
    c.max_bad_fraction = 0.01  # unreadable images per epoch above which the run stops
    c.max_pixels = 100_000_000
    c.check_counts = True  # compare with the published number of images
    c.augment = _augment()
    c.cache = _cache()
    return c


def _augment() -> ConfigDict:
    """What training does to an image beside resizing it."""
    c = ConfigDict()
    c.crop = "random"  # random: of the resized image; random_resized: area and aspect drawn; none: centre
    c.scale = (0.08, 1.0)  # random_resized: share of the area
    c.ratio = (0.75, 4 / 3)  # random_resized: aspect
    c.pad = 0  # random: pixels of border before the crop
    c.flip = 0.5
    c.rotate = 0.0  # degrees, ±
    c.jitter = 0.0  # brightness, contrast, saturation, ±
    c.rand_operations = 0  # RandAugment: operations per image; 0 for none
    c.rand_magnitude = 9.0  # RandAugment: 0 … 10
    c.erase = 0.0  # probability of random erasing
    c.erase_fill = "mean"  # mean: one colour; noise: normal, of the data's mean and std
    return c


def _cache() -> ConfigDict:
    """Outputs of a frozen trunk, computed once."""
    c = ConfigDict()
    c.enabled = False
    c.passes = 3  # differently augmented copies of the training split
    c.batch_size = 32
    c.folder = ""  # "" the workdir's own; a folder that runs share computes the same features once
    return c


def _model() -> ConfigDict:
    c = ConfigDict()
    c.name = "dcal_vit_base_patch16_224"  # python -m fusionjax.models lists the names
    c.ablation = "full"  # sa_only, sa_glca, sa_pwca, full
    c.width = c.depth = c.heads = c.patch = 0  # 0: what the name says
    c.mlp_ratio = 0.0  # 0: what the name says
    c.drop_path = 0.0  # of the last block; rises linearly from 0
    c.dropout = 0.0
    c.remat = False  # recompute blocks in the backward pass: memory for time
    c.trunk = ""  # name of a convolutional trunk whose feature map is the token grid
    c.trunk_features = ""  # EfficientNet: head, stride32, stride16; "" for the trunk's usual output
    # "stride16": what follows that map of an EfficientNet trains, whatever freeze_trunk says.
    c.train_trunk_from = ""
    c.freeze_trunk = False  # evaluation mode, no gradient
    c.frozen_blocks = 0  # of a ViT or DCAL: the embedding and this many of the lowest blocks do not train
    c.trunk_norm = False  # batch normalisation of the trunk's feature map
    c.ratio = 0.1  # R: share of the patch tokens that GLCA queries with
    c.glca_input = "last"  # last, penultimate
    c.partner_stream = "pwca"  # pwca, sa
    c.stride = 0  # from one patch to the next; less than the patch: they overlap; 0 for the patch
    c.cameras = 0  # of the camera embedding (SIE), whose index the column camera is; 0 for none
    c.camera_scale = 3.0  # its factor
    c.crossvit = _crossvit()
    return c


def _crossvit() -> ConfigDict:
    """Fields of `models.backbones.crossvit.CrossViT`; () for what the name says."""
    c = ConfigDict()
    c.img_size = ()
    c.patch_size = ()
    c.embed_dim = ()
    c.depth = ()  # per stage: blocks of each branch, then of the fusion
    c.num_heads = ()
    c.mlp_ratio = ()
    return c


def _pretrained() -> ConfigDict:
    c = ConfigDict()
    # A .safetensors, .npz or .pth file, package:<name>, or hub:<owner>/<name>[@revision][/file]; any of them with #<part>,
    # of a file that holds several models: dino.pth#teacher.
    c.source = ""
    c.name = ""  # the model those weights are of; "" for the backbone of `model.name`
    c.into = ""  # "" the whole model, "trunk" its trunk
    c.skip = ()  # parameter patterns (regular expressions) that stay as initialised
    return c


def _loss() -> ConfigDict:
    c = ConfigDict()
    c.label_smoothing = 0.0
    c.focal_gamma = 0.0  # focus of the focal loss; 0 for cross-entropy
    c.focal_alpha = 1.0  # its factor
    c.class_weights = ()  # a factor for each class
    c.balanced = False  # the factors are inverse to the classes' numbers of training examples
    c.branch_weighting = "uncertainty"  # uncertainty, sum
    c.uncertainty_init = 0.0
    # Images that PWCA or mixing may bring together; 0 for a device's share of the batch.
    c.pair_group = 0
    c.mixup = c.cutmix = 0.0  # α of each; where both are on, each batch takes one, with probability 0.5
    c.identity_weight = 1.0  # reid: of the cross-entropy over identities
    c.metric = "triplet"  # reid: triplet (batch-hard), circle
    c.metric_weight = 1.0
    c.margin = 0.0  # triplet: 0 for the soft margin; circle: its m, 0 for 0.25
    c.circle_scale = 64.0
    c.center_weight = 0.0  # reid: of the centre loss; 0 for none
    return c


def _optim() -> ConfigDict:
    c = ConfigDict()
    c.name = "adamw"  # adamw, adam, sgd, lars
    c.learning_rate = 1e-3
    c.schedule = "cosine"  # cosine, constant
    c.final_lr = 0.0  # cosine
    c.warmup_epochs = 0.0
    c.weight_decay = 0.0
    c.decay_all = False  # decay biases, scales of norms, tokens and positions too
    c.no_decay = ()  # patterns of parameters that are not decayed
    c.b1 = 0.9  # adamw, adam
    c.b2 = 0.999
    c.eps = 1e-8
    c.momentum = 0.9  # sgd, lars
    c.trust_coefficient = 0.001  # lars
    c.clip_norm = 0.0  # 0: no clipping
    c.accumulate = 1  # micro-batches per step
    c.layer_decay = 1.0  # learning rate factor from one block to the one below
    c.lr_rules = ()  # ((pattern, factor), …), multiplied
    c.freeze = ()  # patterns of parameters that do not train
    c.ema_decay = 0.0  # 0: none; else the averaged parameters are evaluated and served
    return c


def _train() -> ConfigDict:
    c = ConfigDict()
    c.batch_size = 64  # of all devices together
    c.epochs = 10.0
    c.steps = 0  # > 0 overrides epochs
    c.log_every = 50
    c.checkpoint_every = 1000  # steps
    c.checkpoint_minutes = 5.0  # a checkpoint too where the last is older; 0 for none
    c.skip_nonfinite = 0  # batches with a loss or gradient of NaN or Inf to pass over before the run stops
    c.eval_every_epochs = 1.0  # 0: at the end only
    c.trackers = ()  # beside metrics.jsonl and TensorBoard: wandb, mlflow, trackio
    c.tracker_project = "fusionjax"
    c.best_metric = ""  # e.g. val/accuracy: that checkpoint is reported; "" for the last one
    return c


def _evaluation() -> ConfigDict:
    c = ConfigDict()
    c.batch_size = 64
    c.probe = False  # a reference on the frozen trunk's features, reported beside the result
    c.metric = "cosine"  # reid: cosine, euclidean
    c.average_precision = "step"  # reid: step, or trapezoid of the official MATLAB
    c.flip = False  # reid: mean of the features of an image and of its mirror image
    c.rerank = False  # reid: also the numbers after k-reciprocal re-ranking
    c.rerank_k1, c.rerank_k2, c.rerank_lambda = 20, 6, 0.3
    return c


def _report() -> ConfigDict:
    c = ConfigDict()
    c.enabled = True
    c.examples = 12  # attention maps of as many right and as many wrong examples
    return c
