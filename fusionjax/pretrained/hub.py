"""The only module that uses transformers, its tokenizers and the files of the Hugging Face hub.

A source is a folder, "package:all-minilm-l6-v2" (an installed package) or "hub:owner/name", "hub:owner/name@revision";
`weights` also accepts a file of a repository, "hub:owner/name@revision/file". "#part" after a source chooses one of several
models in its weight file, as for `pretrained.read`; config.json and tokenizer are the folder's. Downloads stay in the cache
of the hub. No code of a checkpoint is ever executed; weights are read as safetensors, or from a .bin file by the restricted
reader.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusionjax.errors import UserError
from fusionjax.pretrained import parts
from fusionjax.pretrained.files import FOLDER_FILES, check_suffix, package_file

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
        raise UserError(f"{source}: its tokenizer cannot be read: {line(error)}") from None
    if inner.pad_token_id is None:
        raise UserError(f"{source}: its tokenizer has no padding token")
    return Tokenizer(inner)


def files(source: str | Path) -> Path:
    """The folder with config.json, tokenizer and weights of a source; downloaded first if it is on the hub.

    Args:
        source: see the docstring of the module.

    Raises:
        UserError: the source does not exist, or cannot be downloaded (HF_HUB_OFFLINE is respected).
    """
    name, _ = parts.split(source)
    if name.startswith("package:"):
        folder = _package(name.removeprefix("package:"))
    elif name.startswith("hub:"):
        folder = _snapshot(name)
    else:
        folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"{source}: no folder with a config.json")
    return folder


def fetch(source: str, names: Sequence[str], *, ignore: str = "") -> Path:
    """The folder, in the cache of the hub, with some files of a repository; those that it lacks are absent.

    Args:
        source: "hub:owner/name" or "hub:owner/name@revision".
        names: of the files, or patterns of names.
        ignore: pattern of files to leave out; "" for none.

    Raises:
        UserError: the source is malformed, or it is neither in the cache nor can be downloaded (HF_HUB_OFFLINE is respected).
    """
    address = _repository(source)
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                address.repo,
                revision=address.revision,
                allow_patterns=list(names),
                ignore_patterns=[ignore] if ignore else None,
            )
        )
    # The hub's client raises its own errors, its HTTP library's and OSError.
    except Exception as error:
        raise _unreachable(address, error) from None


def card_metadata(fields: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """The metadata of a model card, YAML without its marks.

    Args:
        fields: of `huggingface_hub.ModelCardData`.
        results: fields of a `huggingface_hub.EvalResult` each.
    """
    import huggingface_hub

    found = [huggingface_hub.EvalResult(**result) for result in results]
    return str(huggingface_hub.ModelCardData(**fields, eval_results=found or None).to_yaml(line_break="\n"))


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


def cached(source: str) -> bool:
    """Whether the weight file of a source on the hub is in its cache; source as for `weights`."""
    import huggingface_hub

    address = _address(source)
    wanted = (address.file,) if address.file else FOLDER_FILES
    found = (
        huggingface_hub.try_to_load_from_cache(address.repo, name, revision=address.revision)
        for name in wanted
    )
    return any(isinstance(path, str) for path in found)


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
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else line(error)
    wanted = file or " ".join(["--include", *(f"'{pattern}'" for pattern in PATTERNS)])
    command = f"hf download {address.repo} {wanted}"
    command += f" --revision {address.revision}" if address.revision else ""
    if file == FOLDER_FILES[0]:
        command += f" (or {FOLDER_FILES[1]}, if the repository has no such file)"
    elif not file:
        command += f" (and {FOLDER_FILES[1]}, if it has no .safetensors)"
    return UserError(
        f"{source}: cannot be downloaded and is not in the cache ({reason}); download it in advance where there is a network: "
        f"HF_HUB_OFFLINE=0 {command}; or pass the path of a file or folder in its place"
    )


def _package(name: str) -> Path:
    if name.replace("_", "-") not in WHOLE_PACKAGES:
        known = ", ".join(f"package:{known}" for known in WHOLE_PACKAGES)
        raise UserError(f"package:{name}: known are {known}")
    return package_file(name).parent


def _snapshot(source: str) -> Path:
    folder = fetch(source, PATTERNS, ignore=NESTED)
    if not any((folder / file).is_file() for file in FOLDER_FILES):
        folder = fetch(source, (*PATTERNS, FOLDER_FILES[1]), ignore=NESTED)
    return folder


def _repository(source: str) -> _Address:
    address = _address(source)
    if address.file:
        raise UserError(f"{source}: a repository is expected, not one of its files")
    return address


def line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
