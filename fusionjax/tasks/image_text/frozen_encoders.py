"""A frozen image encoder and a frozen text encoder: the features of a run's texts and pooled image features."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import files
from fusionjax.config import impossible, naming_field
from fusionjax.data.feature_cache.store import CachedFeatures
from fusionjax.data.source import Source
from fusionjax.data.text import Texts, Tokenise, bank_texts, captions, fingerprint, instance_texts
from fusionjax.models.backbones.text import masked_mean
from fusionjax.pretrained import encoders, hub
from fusionjax.tasks.base.protocol import Facts, Say, silent
from fusionjax.tasks.image_text.text_inputs import TextInputs, described
from fusionjax.types import PyTree

_BATCH = 64


class ClipWeights:
    """The parameters of `config.mvpdr.clip`, whose file is read once: the image tower for the model, the text tower for the
    prompts.

    Args:
        source: of the CLIP.
    """

    def __init__(self, source: str):
        self._source = source
        self._text: PyTree | None = None

    def image(self, *, shapes_only: bool = False, log: Say = silent) -> PyTree:
        """The variables without the text tower; see `image_model.ReadWeights`."""
        params = self._read(shapes_only, log)
        if not shapes_only:
            self._text = _side(params, "text_")
        return {"params": _side(params, "image_")}

    def text(self) -> PyTree:
        """The variables of the text tower, which are not kept here any longer."""
        params, self._text = self._text, None
        return {"params": _side(self._read(False, silent), "text_") if params is None else params}

    def _read(self, shapes_only: bool, log: Say) -> PyTree:
        with naming_field("mvpdr.clip"):
            return encoders.clip_variables(self._source, shapes_only=shapes_only, log=log)[1]["params"]


def _side(params: PyTree, prefix: str) -> PyTree:
    return {name: leaf for name, leaf in params.items() if name.startswith(prefix) or name == "logit_scale"}


class FrozenPair:
    """The texts of a run's training data, as tokens and as vectors.

    Args:
        config: of the run, validated.
        class_names: C names, in the order of the labels.
        clip: the weights of `config.mvpdr.clip`; None where it names none.

    Raises:
        UserError: an encoder that cannot be read; no text where one is needed.
    """

    def __init__(self, config: ConfigDict, class_names: Sequence[str], clip: ClipWeights | None = None):
        self.config, self._clip = config, clip
        if clip is not None:
            self._module, folder = encoders.clip_model(config.mvpdr.clip), hub.files(config.mvpdr.clip)
            longest = min(config.text.max_tokens, self._module.positions)
            tokenizer = hub.tokenizer(folder)
            self._tokenise = Tokenise(
                tokenizer, fingerprint(folder), max_tokens=longest, cache=files.user_cache("tokens")
            )
        else:
            self._text = TextInputs(config, Facts(tuple(class_names)))
            self._tokenise = self._text.tokenise
        self._class_names = class_names

    def descriptions(self) -> Texts:
        """Those of all classes, class by class."""
        return bank_texts(described(self.config, self._class_names), self._tokenise)

    def captions(self, source: Source) -> Texts:
        """The caption of each example."""
        return instance_texts(
            captions(source), source.names, self._tokenise, allow_empty=self.config.text.allow_empty
        )

    def vectors(self, texts: Texts, *, folder: Path | None, say: Callable[[str], None]) -> np.ndarray:
        """(M, Dt) float32: a CLIP's unit vectors, else the means of the tokens.

        Args:
            texts: M of them.
            folder, say: see `data.text.features`.
        """
        if self._clip is not None:
            return self._clip_vectors(texts, self._clip)
        tokens = self._text.features(texts, self._text.weights(), folder=folder, say=say)
        parts = [
            np.asarray(
                masked_mean(jnp.asarray(tokens[i : i + _BATCH]), jnp.asarray(texts.mask[i : i + _BATCH]))
            )
            for i in range(0, len(tokens), _BATCH)
        ]
        return np.concatenate(parts)

    def _clip_vectors(self, texts: Texts, clip: ClipWeights) -> np.ndarray:
        placed = jax.device_put(clip.text())
        encode = jax.jit(lambda *batch: self._module.apply(placed, *batch, method="encode_text")[0])
        count = len(texts.tokens)
        # Padded to whole batches, so that only one program is compiled.
        rows = np.arange(-(-count // _BATCH) * _BATCH) % count
        parts = [
            np.asarray(encode(texts.tokens[rows[i : i + _BATCH]], texts.mask[rows[i : i + _BATCH]]))
            for i in range(0, len(rows), _BATCH)
        ]
        return np.concatenate(parts)[:count]


def pooled(part: CachedFeatures, *, rows: np.ndarray | None = None) -> np.ndarray:
    """Cached features without their grid: (passes, n, Di) float32.

    Args:
        part: of a split, in any number of passes.
        rows: (n,) of its examples; None for all.
    """
    passes, count = part.features.shape[:2]
    rows = np.arange(count) if rows is None else rows
    out = np.zeros((passes, len(rows), part.features.shape[-1]), np.float32)
    for k in range(passes):
        for i in range(0, len(rows), _BATCH):
            block = np.asarray(part.features[k, rows[i : i + _BATCH]], np.float32)
            out[k, i : i + _BATCH] = block.reshape(len(block), -1, block.shape[-1]).mean(1)
    return out


def need_descriptions(config: ConfigDict, why: str) -> None:
    """A UserError where `text.descriptions` names none."""
    if not config.text.descriptions:
        raise impossible(config, "text.descriptions", f"{why}: plant_village, or a JSON file of them")
