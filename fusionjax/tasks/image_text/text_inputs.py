"""The texts of a task's examples, as tokens or as features of a frozen encoder, which are computed once."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import files
from fusionjax.config import impossible, naming_field
from fusionjax.data import class_names as names
from fusionjax.data.feature_cache import store
from fusionjax.data.loading.auxiliary import AuxiliaryRows
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.data.text import (
    Texts,
    Tokenise,
    bank_texts,
    class_texts,
    depends_on_labels,
    descriptions,
    fingerprint,
    instance_texts,
    translations,
)
from fusionjax.data.text.features import text_features
from fusionjax.models.backbones import text as text_models
from fusionjax.pretrained import encoders, hub
from fusionjax.tasks.base.protocol import Facts, Say, silent
from fusionjax.types import Array, PyTree

log = logging.getLogger(__name__)


class TextInputs:
    """Which text each example has, by `config.text`, and its encoder.

    Args:
        config: of the run, validated.
        facts: of the data; the texts of its splits are tokenised here, once.
        question: the text of an example is its question, whatever `text.kind` says.

    Attributes:
        kind: of text, see `data.text.Texts`.
        made: split, as `Facts.splits` names it → its texts.
        module: the encoder, without a pooler; its output is "tokens".
        tokenise: texts → tokens.

    Raises:
        UserError: no encoder, one that cannot be read, texts longer than it has positions, a text that is missing, empty, or
            leaks the label without leave.
    """

    def __init__(self, config: ConfigDict, facts: Facts, *, question: bool = False):
        self.config, self.class_names = config, facts.class_names
        self._question, self._splits = question, facts.splits
        c = config.text
        self.kind, self.freeze = c.kind, c.freeze
        if not c.encoder:
            raise impossible(
                config, "text.encoder", "name one: a folder, package:all-minilm-l6-v2, or hub:<owner>/<name>"
            )
        with naming_field("text.encoder"):
            self.folder = hub.files(c.encoder)
            sizes = encoders.text_config(self.folder)
        if c.max_tokens > sizes.positions:
            raise impossible(config, "text.max_tokens", f"the encoder has {sizes.positions} positions")
        # A frozen encoder runs once: in float32, whatever the precision.
        dtype = jnp.float32 if self.freeze else jnp.dtype(config.precision).type
        self.module = text_models.make(sizes, c.encoder, pooler=False, dtype=dtype)
        self.tokenizer = hub.tokenizer(self.folder)
        self.tokenise = Tokenise(
            self.tokenizer,
            fingerprint(self.folder),
            max_tokens=c.max_tokens,
            cache=files.user_cache("tokens"),
        )
        self.made = {
            name: self._make(source, np.asarray(source.labels)) for name, source in self._splits.items()
        }

    def weights(self, *, shapes_only: bool = False, log: Say = silent) -> PyTree:
        """The encoder's published parameters; see `image_model.ReadWeights`."""
        return encoder_weights(self.config, shapes_only=shapes_only, log=log)

    # -- texts ------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def bank(self) -> Texts:
        """The descriptions of all classes."""
        return bank_texts(self._descriptions(), self.tokenise)

    def texts(self, source: Source) -> Texts:
        """Those of a split's examples.

        Raises:
            UserError: a text is missing, empty, or leaks the label without leave.
        """
        for name, known in self._splits.items():
            if known is source:
                return self.made[name]
        return self._make(source, np.asarray(source.labels))

    def fingerprint(self) -> dict[str, str]:
        """Digests of the tokenizer's files, and of the texts of every split with who gets which."""
        total = hashlib.sha256()
        for texts in self.made.values():
            for array in (texts.tokens, texts.mask, texts.index):
                total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return {"tokenizer": self.tokenise.fingerprint[:16], "texts": total.hexdigest()[:16]}

    def from_user(self, words: Sequence[str]) -> Texts:
        """Of a user's texts, one per example; an empty one is masked."""
        shown = [f"text {i + 1}" for i in range(len(words))]
        # Texts of a user are not cached on disk.
        aside = dataclasses.replace(self.tokenise, cache=None)
        found = instance_texts(words, shown, aside, allow_empty=True)
        for note in found.notes:
            log.warning("%s", note)
        return found

    def leaks(self, source: Source) -> bool | None:
        """The label-permutation test of docs/methods/image_text_fusion.md: do a split's texts change with permuted labels?

        None for a split of one class.
        """
        labels = np.asarray(source.labels)
        if len(np.unique(labels)) < 2:
            return None
        return depends_on_labels(lambda y: self._make(source, y), labels, self.config.seed)

    def words(self, texts: Texts, row: int) -> list[str]:
        """The tokens of one text, as they are written."""
        return self.tokenizer.words(texts.tokens[row][texts.mask[row]])

    def words_of(
        self, source: Source | None, index: Sequence[int], texts: Sequence[str] | None = None
    ) -> list[list[str]]:
        """See `explanations.Legible.words`."""
        if self.kind == "bank":
            return [self.bank_words()] * len(index)
        if source is None:
            found, rows = self.from_user(texts or [""] * len(index)), range(len(index))
            return [self.words(found, row) for row in rows]
        found = self.texts(source)
        return [self.words(found, found.row(None, i)) for i in index]

    def bank_words(self) -> list[str]:
        """The descriptions of all classes, in the order of the bank."""
        return [text for own in self._descriptions().texts for text in own]

    def _make(self, source: Source, labels: np.ndarray) -> Texts:
        c = self.config.text
        if self._question:
            return instance_texts(
                list(source.columns["question"]), source.names, self.tokenise, what="question"
            )
        if c.kind == "bank":
            return self.bank
        if c.kind == "class":
            return class_texts(
                self._descriptions(),
                labels,
                self.tokenise,
                seed=self.config.seed,
                allow_label_leak=c.allow_label_leak,
            )
        return instance_texts(
            translations(source), source.names, self.tokenise, labels=labels, allow_empty=c.allow_empty,
            seed=self.config.seed,
        )  # fmt: skip

    def _descriptions(self) -> descriptions.Descriptions:
        c = self.config
        if not c.text.descriptions:
            raise impossible(
                c, "text.descriptions", f"text.kind={c.text.kind!r} needs a built-in name or a JSON file"
            )
        return described(c, self.class_names)

    # -- arrays -----------------------------------------------------------------------------------------------------------

    def padding_example(self) -> Example:
        """What `rows` adds to a padding example; as wide as the first split's texts."""
        widths = (texts.mask.shape[1] for texts in self.made.values())
        mask = np.zeros(next(widths, self.config.text.max_tokens), bool)
        if self.freeze:
            return {"text": np.zeros((len(mask), self.module.config.width), np.float16), "text_mask": mask}
        return {"tokens": np.zeros(len(mask), np.int32), "text_mask": mask}

    def rows(
        self, texts: Texts, params: PyTree, *, folder: Path | None = None, say: Say = silent
    ) -> AuxiliaryRows:
        """Texts as batch keys: "text" (T, C) of a frozen encoder, else "tokens" (T,); and "text_mask" (T,).

        Args:
            texts: with a row for each example.
            params: of the encoder.
            folder, say: see `data.text.features`.
        """

        def choose(index: int, epoch: int | None) -> int:
            return texts.row(epoch, index)

        if not self.freeze:
            return AuxiliaryRows(choose, tokens=texts.tokens, text_mask=texts.mask)
        return AuxiliaryRows(
            choose, text=self.features(texts, params, folder=folder, say=say), text_mask=texts.mask
        )

    def features(
        self, texts: Texts, params: PyTree, *, folder: Path | None = None, say: Say = silent
    ) -> np.ndarray:
        """(M, T, C) float16, see `data.text.features`."""
        params = jax.device_get(params)

        @jax.jit
        def encode(params: PyTree, tokens: Array, mask: Array) -> Array:
            return self.module.apply({"params": params}, tokens, mask)[1]["tokens"]

        placed = jax.device_put(params)
        return text_features(
            texts,
            lambda *batch: encode(placed, *batch),
            weights=f"{self.module.config} {store.digest(params)}",
            folder=folder,
            say=say,
        )

    def bank_shape(self) -> tuple[int, int, int]:
        """Of `bank_features`."""
        m, t = self.bank.tokens.shape
        keys = m * t if self.config.text.bank_level == "token" else m
        return 1, keys, self.module.config.width

    def bank_mask(self) -> np.ndarray:
        """(1, K) bool, False at padding."""
        mask = self.bank.mask
        return mask.reshape(1, -1) if self.config.text.bank_level == "token" else np.any(mask, axis=1)[None]

    def bank_features(self, tokens: Array) -> Array:
        """Token vectors (M, T, C) of the bank as keys (1, K, C): as they are, or each description's mean."""
        if self.config.text.bank_level == "token":
            return tokens.reshape(1, -1, tokens.shape[-1])
        return text_models.masked_mean(tokens, jnp.asarray(self.bank.mask))[None]


def encoder_weights(config: ConfigDict, *, shapes_only: bool = False, log: Say = silent) -> PyTree:
    """The published parameters of `config.text.encoder`, without a pooler; see `image_model.ReadWeights`."""
    _, variables = encoders.text_variables(
        config.text.encoder, shapes_only=shapes_only, log=log, pooler=False
    )
    return variables["params"]


def described(config: ConfigDict, class_names: Sequence[str]) -> descriptions.Descriptions:
    """The descriptions of the classes in `config.text.descriptions`.

    Raises:
        UserError: it cannot be read, or does not describe just these classes.
    """
    # The file may also describe classes that are not selected.
    also: tuple[str, ...] = ()
    if config.data.selected_classes:
        kept = {names.readable(name) for name in class_names}
        also = tuple(k for k in descriptions.read(config.text.descriptions) if names.readable(k) not in kept)
    return descriptions.load(config.text.descriptions, class_names, also=also)
