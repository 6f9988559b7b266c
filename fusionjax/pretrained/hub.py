"""The only module that uses transformers, its tokenizers and the Hugging Face hub.

A source is a folder, "package:all-minilm-l6-v2" (an installed package) or "hub:owner/name", "hub:owner/name@revision";
`weights` also accepts a file of a repository, "hub:owner/name@revision/file". Downloads stay in the cache of the hub. No code
of a checkpoint is ever executed; weights are read as safetensors, or from a .bin file by the restricted reader.
"""

import dataclasses
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.backbones import clip, text
from fusionjax.models.backbones.records import clip as clip_family
from fusionjax.models.backbones.records import text as text_family
from fusionjax.pretrained.convert import abstract, place
from fusionjax.pretrained.files import FOLDER_FILES, check_suffix, package_file, read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The packages that hold config.json and the tokenizer beside the weights.
WHOLE_PACKAGES = ("all-minilm-l6-v2",)
# Old names of repositories, without an owner.
ALIASES = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "distilbert-base-uncased": "distilbert/distilbert-base-uncased",
}
# A revision may itself hold slashes only as refs/pr/1 does.
ADDRESS = re.compile(
    r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>refs/\w+/[\w.-]+|[^@/\s]+))?(/(?P<file>[^@\s]+))?"
)
PATTERNS = ("*.safetensors", "*.json", "*.txt")
# Subfolders hold other formats and settings of other tools.
NESTED = "*/*"


class Tokenizer:
    """Texts → arrays of a fixed shape. Created by `tokenizer`.

    Attributes:
        vocab: size of the vocabulary.
        pad: id of the padding token.
    """

    def __init__(self, inner: "PreTrainedTokenizerBase"):
        self._inner = inner
        # Padding and truncation are state of the tokenizer, so only one thread at a time may use it.
        self._lock = threading.Lock()
        self.vocab = len(inner)
        self.pad = inner.pad_token_id

    def __call__(self, texts: Sequence[str], max_length: int) -> dict[str, np.ndarray]:
        """Tokenises texts, truncated and padded to `max_length`.

        Args:
            texts: B texts.
            max_length: T.

        Returns:
            "input_ids", "attention_mask" (0 at padding) and "token_type_ids" (zeros), each (B, T) int32.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one str; pass a list of texts")
        if not len(texts):
            empty = np.zeros((0, max_length), np.int32)
            return {key: empty.copy() for key in ("input_ids", "attention_mask", "token_type_ids")}
        with self._lock:
            out = self._inner(list(texts), padding="max_length", truncation=True, max_length=max_length)
        arrays = {key: np.asarray(out[key], np.int32) for key in ("input_ids", "attention_mask")}
        return arrays | {"token_type_ids": np.zeros_like(arrays["input_ids"])}

    def words(self, ids: Sequence[int]) -> list[str]:
        """The tokens with the given ids, as they are written in the vocabulary."""
        return list(self._inner.convert_ids_to_tokens([int(i) for i in ids]))


def tokenizer(source: str | Path) -> Tokenizer:
    """Loads the tokenizer of a source.

    Args:
        source: see the docstring of the module.

    Raises:
        UserError: the source does not exist, or holds no tokenizer that can be read without executing its code.
    """
    folder = files(source)
    import transformers

    try:
        inner = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    # A damaged file may raise any type.
    except Exception as error:
        raise UserError(f"{source}: its tokenizer cannot be read: {_line(error)}") from None
    if inner.pad_token_id is None:
        raise UserError(f"{source}: its tokenizer has no padding token")
    return Tokenizer(inner)


def text_config(source: str | Path) -> text.TextConfig:
    """The sizes of a BERT or DistilBERT, from its config.json.

    Args:
        source: see the docstring of the module.

    Raises:
        UserError: another kind of model, or a variant that is not supported.
    """
    found = _json(source)
    kind = found.get("model_type")
    if kind not in ("bert", "distilbert"):
        other = "; load_clip reads it" if kind == "clip" else ""
        raise UserError(f"{source}: model_type {kind!r} is not one of bert, distilbert{other}")
    positions = found.get("position_embedding_type") or "absolute"
    if positions != "absolute" or found.get("sinusoidal_pos_embds") or found.get("is_decoder"):
        raise UserError(f"{source}: only encoders with learned absolute positions can be read")
    default = text.TextConfig()
    if kind == "bert":
        names = dict(width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads",
                     ffn="intermediate_size", types="type_vocab_size", epsilon="layer_norm_eps",
                     activation="hidden_act", dropout="hidden_dropout_prob",
                     attention_dropout="attention_probs_dropout_prob")  # fmt: skip
    else:
        names = dict(width="dim", layers="n_layers", heads="n_heads", ffn="hidden_dim",
                     activation="activation", dropout="dropout", attention_dropout="attention_dropout")  # fmt: skip
        default = dataclasses.replace(default, layers=6, types=0, pooler=False)
    names |= dict(vocab="vocab_size", positions="max_position_embeddings")
    config = dataclasses.replace(default, **{ours: found[key] for ours, key in names.items() if key in found})
    return text.make(config, str(source)).config


def load_text(source: str | Path, **overrides: Any) -> tuple[text.TextEncoder, dict[str, Any], Tokenizer]:
    """Loads a pretrained text encoder.

    Args:
        source: see the docstring of the module.
        **overrides: fields of TextEncoder or TextConfig that do not change the shapes of the weights, e.g.
            `output="mean", normalise=True, dropout=0.0`, or `pooler=False` to omit the pooler. By default the encoder has a
            pooler if the checkpoint has one.

    Returns:
        module, variables (NumPy arrays), tokenizer.

    Raises:
        UserError: the source cannot be read, or its tensors do not match its config.

    Example:
        >>> module, variables, tokens = load_text("package:all-minilm-l6-v2", output="mean", normalise=True)
        >>> batch = tokens(["a leaf with rust", "a healthy leaf"], max_length=32)
        >>> vectors, _ = module.apply(variables, batch["input_ids"], batch["attention_mask"])
        >>> vectors.shape
        (2, 384)
    """
    folder = files(source)
    config = text_config(folder)
    tensors = text_family.clean(read(folder))
    pooler = overrides.get("pooler", config.pooler and "pooler.dense.weight" in tensors)
    if not pooler:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("pooler.")}
    module = text.make(config, str(source), **{**overrides, "pooler": pooler})
    variables = place(str(source), text_family.key_map(module, tensors), tensors, abstract(module))
    return module, variables, tokenizer(folder)


def clip_model(source: str | Path, **overrides: Any) -> clip.CLIP:
    """The CLIP module of a source, without weights, from its config.json; arguments and errors as for `load_clip`."""
    found = _json(source)
    if found.get("model_type") != "clip":
        raise UserError(f"{source}: model_type {found.get('model_type')!r} is not clip")
    image, words = (found.get(f"{kind}_config") or {} for kind in ("vision", "text"))
    default = clip.CLIP()
    activation = words.get("hidden_act", default.activation)
    end = words.get("eos_token_id", 49407)
    if image.get("hidden_act", default.activation) != activation:
        raise UserError(f"{source}: the image and text encoders have different activations")
    if {part.get("layer_norm_eps", clip.EPSILON) for part in (image, words)} != {clip.EPSILON}:
        raise UserError(f"{source}: layer_norm_eps is not {clip.EPSILON}")
    return clip.make(
        str(source),
        **dict(
            image_size=image.get("image_size", default.image_size),
            patch=image.get("patch_size", default.patch),
            image=_tower(image, default.image),
            text=_tower(words, default.text),
            vocab=words.get("vocab_size", default.vocab),
            positions=words.get("max_position_embeddings", default.positions),
            projection=found.get("projection_dim", default.projection),
            activation=activation,
            # Early conversions wrongly state 2; their end-of-text token is the one with the highest id.
            end_token=None if end == 2 else end,
        )
        | overrides,
    )


def load_clip(source: str | Path, **overrides: Any) -> tuple[clip.CLIP, dict[str, Any], Tokenizer]:
    """Loads a pretrained CLIP; arguments, results and errors as for `load_text`, with the fields of `clip.CLIP`."""
    folder = files(source)
    module = clip_model(folder, **overrides)
    tensors = clip_family.clean(read(folder))
    variables = place(str(source), clip_family.key_map(module), tensors, abstract(module))
    return module, variables, tokenizer(folder)


def files(source: str | Path) -> Path:
    """The folder with config.json, tokenizer and weights of a source; downloaded first if it is on the hub.

    Args:
        source: see the docstring of the module.

    Raises:
        UserError: the source does not exist, or cannot be downloaded (HF_HUB_OFFLINE is respected).
    """
    name = str(source)
    if name.startswith("package:"):
        folder = _package(name.removeprefix("package:"))
    elif name.startswith("hub:"):
        folder = _snapshot(name)
    else:
        folder = Path(source)
    if not (folder / "config.json").is_file():
        raise UserError(f"{source}: no folder with a config.json")
    return folder


class _Address(NamedTuple):
    """A repository of the hub, or a file in it."""

    repo: str
    revision: str | None
    file: str | None


def weights(source: str) -> Path:
    """The weight file of a source on the hub, downloaded into its cache if necessary.

    Args:
        source: "hub:owner/name", "hub:owner/name@revision", either followed by "/file"; without a file it is
          model.safetensors, else pytorch_model.bin.

    Raises:
        UserError: the source is malformed, or it is neither in the cache nor can be downloaded (HF_HUB_OFFLINE is respected).
    """
    address = _address(source)
    if address.file:
        check_suffix(PurePosixPath(address.file), source)
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    wanted = (address.file,) if address.file else FOLDER_FILES
    failures = []
    for file in wanted:
        try:
            return Path(huggingface_hub.hf_hub_download(address.repo, file, revision=address.revision))
        except EntryNotFoundError as error:
            failures.append(error)
        # The hub's client raises its own errors, its HTTP library's and OSError.
        except Exception as error:
            raise _unreachable(address, error, wanted[0]) from None
    # Not in the cache; it is unknown whether the repository has it.
    absent = [error for error in failures if isinstance(error, LocalEntryNotFoundError)]
    if absent:
        raise _unreachable(address, absent[0], wanted[0])
    if address.file:
        raise UserError(f"{source}: the repository has no such file")
    raise UserError(
        f"{source}: the repository holds neither {' nor '.join(FOLDER_FILES)}; name its file: {source}/FILE"
    )


def _address(source: str) -> _Address:
    name = source.removeprefix("hub:")
    head = re.split("[@/]", name, maxsplit=1)[0]
    found = ADDRESS.fullmatch(ALIASES.get(head, head) + name[len(head) :])
    if found is None or ".." in re.split("[/@]", name):
        raise UserError(f"{source}: expected hub:owner/name, hub:owner/name@revision or hub:owner/name/file")
    return _Address(found["repo"], found["revision"], found["file"])


def _unreachable(address: _Address, error: Exception, file: str = "") -> UserError:
    """The message for an exception of the client of the hub: what failed, and what to do."""
    from huggingface_hub import constants, errors

    at = f"@{address.revision}" if address.revision else ""
    source = f"hub:{address.repo}{at}"
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{source}: accept the terms on its page of the hub, then log in: hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{source}: no such repository; if it is private, log in: hf auth login")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{source}: the repository has no revision {address.revision!r}")
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _line(error)
    command = " ".join(["hf download", address.repo, *([file] if file else [])])
    command += f" --revision {address.revision}" if address.revision else ""
    return UserError(
        f"{source}: cannot be downloaded and is not in the cache ({reason}); download it in advance where there is a network: "
        f"HF_HUB_OFFLINE=0 {command}; or pass the path of a file or folder"
    )


def _package(name: str) -> Path:
    if name.replace("_", "-") not in WHOLE_PACKAGES:
        known = ", ".join(f"package:{known}" for known in WHOLE_PACKAGES)
        raise UserError(f"package:{name}: known are {known}")
    return package_file(name).parent


def _snapshot(source: str) -> Path:
    address = _address(source)
    if address.file:
        raise UserError(f"{source}: a repository is expected, not one of its files")
    import huggingface_hub

    def fetch(*patterns: str) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                address.repo,
                revision=address.revision,
                allow_patterns=list(patterns),
                ignore_patterns=[NESTED],
            )
        )

    # The hub's client raises its own errors, its HTTP library's and OSError.
    try:
        folder = fetch(*PATTERNS)
        if not any((folder / file).is_file() for file in FOLDER_FILES):
            folder = fetch(*PATTERNS, FOLDER_FILES[1])
    except Exception as error:
        raise _unreachable(address, error) from None
    return folder


def _json(source: str | Path) -> dict[str, Any]:
    path = files(source) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a config: {_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a config: a JSON object is expected")
    return found


def _tower(found: Mapping[str, Any], default: clip.Tower) -> clip.Tower:
    names = dict(width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads",
                 ffn="intermediate_size")  # fmt: skip
    return clip.Tower(**{ours: found.get(key, getattr(default, ours)) for ours, key in names.items()})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
