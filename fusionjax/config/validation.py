"""Which values a config may have: rules on single fields and between fields."""

import math
from typing import Any

from ml_collections import ConfigDict

from fusionjax.errors import UserError

ABLATIONS = {
    "sa_only": ("sa",),
    "sa_glca": ("sa", "glca"),
    "sa_pwca": ("sa", "pwca"),
    "full": ("sa", "glca", "pwca"),
}
"""Branches that train, by the name of the ablation (docs/methods/dcal.md; table 5 of the paper)."""


def impossible(config: ConfigDict, key: str, allowed: str) -> UserError:
    """The error of a field whose value cannot be: its name, its value and what is allowed."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return UserError(f"config.{key}={value!r} is not possible: {allowed}")


def reported_splits(config: ConfigDict) -> tuple[str, ...]:
    """Names under which the scores of `data.eval_splits` appear, e.g. the test of test/mAP.

    Re-identification scores query against gallery as "test", and a split against itself without its suffix:
    test_all is "test".
    """
    splits = config.data.eval_splits
    if config.task != "reid":
        return tuple(splits)
    return tuple(dict.fromkeys("test" if s in ("query", "gallery") else s.partition("_")[0] for s in splits))


class Rules:
    """Rules on single fields and between fields."""

    def __init__(self, config: ConfigDict):
        self.config = config

    def fail(self, key: str, allowed: str) -> None:
        raise impossible(self.config, key, allowed)

    def get(self, key: str) -> Any:
        value = self.config
        for part in key.split("."):
            value = value[part]
        return value

    def one_of(self, key: str, *words: str) -> None:
        if self.get(key) not in words:
            self.fail(key, f"allowed are {', '.join(words)}")

    def within(self, key: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        value = self.get(key)
        inside = (low < value if open_low else low <= value) and value <= high
        if not inside or not math.isfinite(value):
            bracket = "(" if open_low else "["
            self.fail(key, f"allowed is {bracket}{low:g}, {high:g}{')' if high == math.inf else ']'}")

    def check(self) -> None:
        """Raises a UserError for the first field that cannot be."""
        c = self.config
        self.one_of("precision", "float32", "bfloat16")
        self.one_of("data.resize_mode", "shorter", "squash")
        self.one_of("data.interpolation", "bilinear", "bicubic")
        self.one_of("data.augment.crop", "random", "random_resized", "none")
        self.one_of("data.augment.erase_fill", "mean", "noise")
        self.one_of("data.label", "label", "identity")
        self.one_of("loss.metric", "triplet", "circle")
        self.one_of("evaluation.metric", "cosine", "euclidean")
        self.one_of("evaluation.average_precision", "step", "trapezoid")
        self.within("evaluation.rerank_lambda", 0, 1)
        self.one_of("fusion.mode", "fusion", "concat", "image", "text")
        self.one_of("fusion.bilinear_form", "full", "hadamard")
        self.one_of("text.kind", "instance", "bank", "class")
        self.one_of("text.bank_level", "description", "token")
        self._shape()
        self._losses()
        self._audio()
        self._identities()
        self._mvpdr()
        self.within("data.augment.rand_magnitude", 0, 10)
        self.within("text.max_tokens", 8, 512)
        self.one_of("model.ablation", *ABLATIONS)
        self.one_of("model.glca_input", "last", "penultimate")
        self.one_of("model.partner_stream", "pwca", "sa")
        self.one_of("model.trunk_features", "", "head", "stride32", "stride16")
        self.one_of("model.train_trunk_from", "", "stride16")
        self.within("model.ratio", 0, 1, open_low=True)
        self.within("model.drop_path", 0, 0.999)
        self.within("model.dropout", 0, 0.999)
        self.one_of("loss.branch_weighting", "uncertainty", "sum")
        self.one_of("optim.name", "adamw", "adam", "sgd", "lars")
        self.one_of("optim.schedule", "cosine", "constant")
        self.one_of("pretrained.into", "", "trunk")
        for key in ("data.image_size", "data.resize", "data.threads", "data.prefetch", "data.max_pixels",
                    "data.cache.passes", "data.cache.batch_size", "optim.accumulate", "train.batch_size",
                    "evaluation.rerank_k1", "evaluation.rerank_k2", "fusion.bottleneck_tokens", "fusion.rank",
                    "train.log_every", "train.checkpoint_every", "evaluation.batch_size"):  # fmt: skip
            self.within(key, 1)
        for key in ("data.augment.flip", "data.augment.erase", "data.augment.jitter", "loss.label_smoothing",
                    "data.max_bad_fraction"):  # fmt: skip
            self.within(key, 0, 1)
        for key in ("optim.weight_decay", "optim.final_lr", "optim.warmup_epochs", "optim.clip_norm", "train.epochs",
                    "train.steps", "train.eval_every_epochs", "data.augment.rotate", "data.augment.pad",
                    "report.examples", "loss.pair_group", "loss.mixup", "loss.cutmix", "data.augment.rand_operations",
                    "model.stride", "model.cameras", "data.per_identity", "loss.identity_weight", "loss.metric_weight",
                    "loss.margin", "loss.center_weight",
                    "model.width", "model.depth", "model.heads", "model.patch", "model.mlp_ratio"):  # fmt: skip
            self.within(key, 0)
        self.within("seed", 0, 2**32 - 1)
        self.within("optim.learning_rate", 0, open_low=True)
        self.within("optim.eps", 0, open_low=True)
        self.within("optim.trust_coefficient", 0, open_low=True)
        for key in ("data.augment.scale", "data.augment.ratio"):
            pair = self.get(key)
            if (
                len(pair) != 2
                or not all(isinstance(v, float | int) for v in pair)
                or not 0 < pair[0] <= pair[1]
            ):
                self.fail(key, "two numbers, 0 < low <= high")
        if c.data.augment.scale[1] > 1:
            self.fail("data.augment.scale", "shares of the area, at most 1")
        if c.evaluation.probe and not c.data.cache.enabled and c.task != "spectral":
            self.fail(
                "evaluation.probe",
                "it reads the cached features of a frozen trunk: set data.cache.enabled=True",
            )
        if not c.pretrained.source and (c.pretrained.name or c.pretrained.skip):
            self.fail("pretrained.source", "pretrained.name and pretrained.skip need a source")
        self.within("optim.layer_decay", 0, 1, open_low=True)
        self.within("optim.ema_decay", 0, 0.999999)
        for key in ("optim.b1", "optim.b2", "optim.momentum"):
            self.within(key, 0, 0.999999)
        if c.train.epochs == 0 and c.train.steps == 0 and c.task != "mvpdr":
            self.fail("train.epochs", "set train.epochs or train.steps")
        if (
            c.data.image_size > c.data.resize
            and not c.data.image_shape
            and c.data.augment.crop != "random_resized"
        ):
            self.fail("data.image_size", f"a crop cannot be larger than data.resize={c.data.resize}")
        if c.train.batch_size % c.optim.accumulate:
            self.fail("train.batch_size", f"it must be a multiple of optim.accumulate={c.optim.accumulate}")
        self._fractions()
        self._group()
        if not c.data.eval_splits:
            self.fail("data.eval_splits", "name at least one split")
        split, _, metric = c.train.best_metric.partition("/")
        if c.train.best_metric and (split not in reported_splits(c) or not metric):
            names = ", ".join(reported_splits(c))
            self.fail(
                "train.best_metric",
                f"it is <split>/<metric>, and a split of data.eval_splits={c.data.eval_splits} is reported as {names}",
            )
        frozen_pair = c.task == "mvpdr" and c.mvpdr.clip
        if c.data.cache.enabled and not c.model.trunk and not frozen_pair:
            self.fail("data.cache.enabled", "only the outputs of a frozen model.trunk are cached")
        if c.data.cache.enabled and not c.model.freeze_trunk and not frozen_pair:
            self.fail(
                "data.cache.enabled", "it needs a trunk that does not train: set model.freeze_trunk=True"
            )
        if c.model.width and c.model.heads and c.model.width % c.model.heads:
            self.fail("model.heads", f"it must divide model.width={c.model.width}")
        if c.pretrained.into == "trunk" and not c.model.trunk:
            self.fail("pretrained.into", "model.trunk names no trunk")
        self._channels()
        for rule in c.optim.lr_rules:
            well = isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
            if not well or not isinstance(rule[1], float | int) or rule[1] < 0:
                self.fail("optim.lr_rules", "a tuple of (pattern, factor)")

    def _channels(self) -> None:
        data = self.config.data
        for key in ("mean", "std"):
            if data.modalities and not data[key]:
                continue
            if not data.modalities and len(data[key]) != 3:
                self.fail(f"data.{key}", "three numbers, one a channel")
            if not all(isinstance(v, float | int) for v in data[key]):
                self.fail(f"data.{key}", "numbers, one a channel")
        if data.std and min(data.std) <= 0:
            self.fail("data.std", f"{'' if data.modalities else 'three '}positive numbers, one a channel")
        low_high = data.value_range
        if low_high and (
            len(low_high) != 2
            or not all(isinstance(v, float | int) for v in low_high)
            or low_high[0] >= low_high[1]
        ):
            self.fail("data.value_range", "() or two numbers, low < high")
        if not data.modalities:
            for key in ("channels", "value_range"):
                if data[key]:
                    self.fail(f"data.{key}", "it is of images whose channels data.modalities names")
        elif self.config.task not in ("spectral", "classification"):
            self.fail("data.modalities", f"the task {self.config.task!r} reads RGB images")
        else:
            for key in ("rotate", "jitter", "rand_operations", "erase"):
                if data.augment[key]:
                    self.fail(
                        f"data.augment.{key}", "it is of RGB images; data.modalities are crop and flip alone"
                    )

    def _losses(self) -> None:
        c = self.config.loss
        self.within("loss.focal_gamma", 0)
        self.within("loss.focal_alpha", 0, open_low=True)
        if c.focal_gamma and c.label_smoothing:
            self.fail("loss.focal_gamma", "the focal loss has no label smoothing: set loss.label_smoothing=0")
        if not all(isinstance(v, float | int) and math.isfinite(v) and v >= 0 for v in c.class_weights):
            self.fail("loss.class_weights", "numbers of at least 0, one a class")
        if c.class_weights and c.balanced:
            self.fail("loss.balanced", "loss.class_weights are given already")
        if (c.mixup or c.cutmix) and self.config.task not in ("classification", "reid"):
            self.fail(
                "loss.mixup" if c.mixup else "loss.cutmix", "only classification mixes images: set it to 0"
            )
        weighted = c.focal_gamma or c.class_weights or c.balanced
        if weighted and self.config.task in ("reid", "mvpdr"):
            self.fail("task", "loss.focal_gamma, class_weights and balanced are of classification and fusion")

    def _audio(self) -> None:
        c = self.config
        self.one_of("data.questions", "", "captions", "columns")
        self.one_of("data.sound", "description", "effect", "any")
        self.within("data.answers", 2)
        self.within("data.answer_pictures", 1)
        if (c.task == "vqa") != bool(c.data.questions):
            self.fail(
                "data.questions", "the task vqa asks questions, captions or columns; no other task does"
            )
        if c.data.questions == "captions":
            # "What is this?" is answered with the noun of an English sentence.
            if "what" in (c.data.question_types or ("what",)) and tuple(c.data.languages[:1]) != ("en",):
                self.fail("data.languages", "questions are made of English captions: 'en' comes first")
        elif c.data.question_types:
            self.fail("data.question_types", "only questions that are made of captions have such types")
        if c.data.source == "vqa2" and c.data.questions != "columns":
            self.fail("data.questions", "VQA v2 has questions of its own: 'columns', with the task vqa")
        if c.task == "vqa" and (c.text.kind != "instance" or c.loss.focal_gamma or c.loss.balanced):
            self.fail(
                "task", "vqa reads its questions as text.kind='instance' and has no focal or balanced loss"
            )
        self.one_of("audio.encoder", "mel", "wav2vec2_base")
        self.within("audio.seconds", 0, 600, open_low=True)
        self.within("trimodal.modality_dropout", 0, 0.999)
        self.within("audio.dropout", 0, 0.999)
        for key in ("audio.width", "audio.heads", "trimodal.hidden"):
            self.within(key, 1)
        for key in ("audio.depth", "audio.gain", "audio.shift", "audio.memory"):
            self.within(key, 0)
        for key in ("audio.noise", "audio.hide_frames", "audio.hide_bands"):
            self.within(key, 0, 1)
        if c.audio.encoder == "mel" and c.audio.source:
            self.fail("audio.source", "there are no weights of mel: choose audio.encoder='wav2vec2_base'")
        read = "text" in c.trimodal.modalities
        if c.task == "audiovisual" and read:
            self.fail("trimodal.modalities", "the task audiovisual reads image and audio, or one of them")
        if c.task == "trimodal" and read and c.text.kind != "instance":
            self.fail("text.kind", "the task trimodal reads the example's own caption: instance")

    def _shape(self) -> None:
        shape = self.config.data.image_shape
        if shape and (len(shape) != 2 or not all(type(v) is int and v > 0 for v in shape)):
            self.fail("data.image_shape", "() or two whole numbers, rows and columns")

    def _identities(self) -> None:
        c = self.config
        k = c.data.per_identity
        if k and c.train.batch_size % k:
            self.fail("data.per_identity", f"it must divide train.batch_size={c.train.batch_size}")
        if c.task == "reid":
            self._reid(k)
        if c.model.cameras and ("camera" not in c.data.carry or c.data.cache.enabled):
            self.fail("model.cameras", "it needs data.carry=('camera',) and data.cache.enabled=False")

    def _reid(self, k: int) -> None:
        c = self.config
        if k < 2:
            self.fail(
                "data.per_identity", "re-identification needs at least 2 images of an identity in a batch"
            )
        if c.data.label != "identity":
            self.fail("data.label", "re-identification learns identities: set data.label='identity'")
        micro = c.train.batch_size // c.optim.accumulate
        if micro % k or micro < 2 * k:
            self.fail(
                "train.batch_size",
                f"a micro-batch of {micro} must hold at least 2 whole identities of data.per_identity={k} images",
            )
        if c.loss.pair_group and (c.loss.pair_group % k or c.loss.pair_group < 2 * k):
            self.fail("loss.pair_group", f"at least 2 whole identities of data.per_identity={k} images")
        splits = c.data.eval_splits
        if ("query" in splits) != ("gallery" in splits):
            self.fail("data.eval_splits", "name query and gallery together")
        if len(splits) - len(reported_splits(c)) != ("query" in splits):
            self.fail("data.eval_splits", "two of them would be reported under one name")
        if c.evaluation.flip and c.data.cache.enabled:
            self.fail("evaluation.flip", "cached features have no mirror image: set data.cache.enabled=False")
        if c.evaluation.probe and "query" in splits:
            self.fail("evaluation.probe", "it needs a split that is its own gallery")

    def _mvpdr(self) -> None:
        c = self.config
        self.one_of("mvpdr.prompts", "descriptions", "captions")
        for key in ("max_prompts", "per_class", "width", "align_steps"):
            self.within(f"mvpdr.{key}", 1)
        self.within("mvpdr.align_batch", 2)
        self.within("mvpdr.align_rate", 0, open_low=True)
        for key in ("alpha", "beta", "gamma", "text_weight"):
            self.within(f"mvpdr.{key}", 0)
        if c.task != "mvpdr":
            return
        if not c.data.cache.enabled:
            self.fail("data.cache.enabled", "mvpdr makes its prototypes of cached features: set True")
        if c.loss.label_smoothing:
            self.fail("loss.label_smoothing", "the loss of mvpdr has none: set 0")
        if c.mvpdr.clip:
            if c.model.trunk:
                self.fail("model.trunk", "mvpdr.clip brings its own image encoder: leave it empty")
            if c.pretrained.source:
                self.fail("pretrained.source", "mvpdr.clip brings its own weights: leave it empty")
        elif not c.text.freeze:
            self.fail("text.freeze", "mvpdr works on frozen encoders: set True")

    def _fractions(self) -> None:
        f = self.config.data.fractions
        if len(f) != 3 or min(f) < 0 or f[0] <= 0 or abs(sum(f) - 1) > 1e-6:
            self.fail("data.fractions", "three shares (train, val, test) that add up to 1")

    def _group(self) -> None:
        c = self.config
        group, micro = c.loss.pair_group, c.train.batch_size // c.optim.accumulate
        pairs = "pwca" in ABLATIONS[c.model.ablation] and c.model.name.startswith("dcal_")
        if not (pairs or c.loss.mixup or c.loss.cutmix):
            return
        if micro < 2:
            self.fail("train.batch_size", "PWCA and mixing pair images: a micro-batch needs at least 2")
        if group and (group < 2 or micro % group):
            self.fail(
                "loss.pair_group",
                f"at least 2, and a divisor of the micro-batch {micro}; 0 for a device's share",
            )
