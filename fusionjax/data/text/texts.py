"""The text of each example: its caption, the descriptions of all classes, or those of its true class (which leak the label).

See docs/methods/image_text_fusion.md, "The label must not leak through the text".
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from fusionjax.data.source import Source, listed_columns
from fusionjax.data.text.descriptions import Descriptions
from fusionjax.data.text.tokens import Tokens, check_text
from fusionjax.errors import UserError

KINDS = ("instance", "bank", "class")
LEAK = (
    "This score is not a measurement: every image's text is the description of its true class (text kind 'class', "
    "allow_label_leak=True), so the text alone determines the label."
)
_REFUSED = (
    "text kind 'class' gives each image the description of its true class, so a score would measure nothing: choose "
    "'bank' or 'instance', or set allow_label_leak=True for a score that the report marks as no measurement"
)
SHARED_BY = 10
"""Captions shared by this many images on average, and by no two classes, are taken for descriptions of classes."""
_STREAM = 0x7E87  # keeps these draws apart from others that start from the same seed

Tokeniser = Callable[[Sequence[str]], Tokens]
"""M texts → their tokens, e.g. `tokens.Tokenise`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a split of N examples, created by `instance_texts`, `bank_texts` or `class_texts`.

    Attributes:
        kind: one of `KINDS`.
        tokens: (M, T) int32, M different texts.
        mask: (M, T) bool, False at padding; all False for a text without a word.
        index: (N,) int32, the row of each example at evaluation; None for the bank, whose M rows all belong to every image.
        choices: (N,) int32, the number of rows from `index` on that training samples from; None where each has one row.
        classes: (M,) int32, the class that a row describes; None for captions.
        seed: seed of the sampling.
        leaks: whether the text is selected by the label.
        evaluable: whether evaluation may read the texts; False for leaking texts that were created for training.
        warning: first line of the report; "" for none.
        notes: further lines for the report: truncated or empty texts, classes that share a description.
    """

    kind: str
    tokens: np.ndarray
    mask: np.ndarray
    index: np.ndarray | None = None
    choices: np.ndarray | None = None
    classes: np.ndarray | None = None
    seed: int = 0
    leaks: bool = False
    evaluable: bool = True
    warning: str = ""
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """All lines for the report, starting with `warning`."""
        return [*([self.warning] if self.warning else []), *self.notes]

    def row(self, epoch: int | None, index: int) -> int:
        """The row of `tokens` for one example.

        Args:
            epoch: training epoch, from 0: one of the rows of the example is drawn by (seed, epoch, index). None for
                evaluation: the first row.
            index: position of the example, 0 to N − 1; −1, the index of a padding example, gives row 0.

        Raises:
            UserError: evaluation of leaking texts that does not allow it.
            ValueError: the texts are a bank, which is the same for every example.
        """
        if self.index is None:
            raise ValueError("the bank has no row of an example: every image gets all of them")
        if epoch is None and not self.evaluable:
            raise UserError(_REFUSED)
        if index < 0:
            return 0
        first = int(self.index[index])
        if epoch is None or self.choices is None or self.choices[index] == 1:
            return first
        draw = np.random.default_rng([_STREAM, self.seed, epoch, index])
        return first + int(draw.integers(self.choices[index]))

    def rows(self, epoch: int | None, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """`row` for each of B indices, (B,) int32."""
        return np.asarray([self.row(epoch, int(i)) for i in indices], np.int32)


def captions(source: Source) -> Sequence[str]:
    """The column `caption` of a source, N texts.

    Raises:
        UserError: the source has no such column.
    """
    if "caption" not in source.columns:
        raise UserError(
            f"text kind 'instance' needs a text of each image, but {source.name} has no column caption; its columns are "
            f"{listed_columns(source)}: add one (a manifest can have it), or choose 'bank'"
        )
    return list(source.columns["caption"])


def translations(source: Source) -> list[tuple[str, ...]]:
    """The captions of each example in several languages; the first is used at evaluation.

    They are the lines of the column `translations`; without this column, the column `caption`.

    Raises:
        UserError: the source has neither column.
    """
    if "translations" in source.columns:
        return [tuple(text.split("\n")) for text in source.columns["translations"]]
    return [(text,) for text in captions(source)]


def instance_texts(
    captions: Sequence[str | Sequence[str]],
    names: Sequence[str],
    tokenise: Tokeniser,
    *,
    labels: np.ndarray | None = None,
    allow_empty: bool = False,
    seed: int = 0,
    what: str = "caption",
) -> Texts:
    """Texts of kind "instance": each example has its own text. Equal texts share a row.

    Args:
        captions: N texts, see `captions`; or N sequences of equivalent texts, see `translations`: training draws one of them
            per epoch, evaluation reads the first.
        names: names of the N examples, for messages.
        tokenise: M texts → `Tokens`.
        labels: (N,), used only to warn of captions that are in fact descriptions of classes; None for no check.
        allow_empty: accept an example without a text; all its tokens are masked.
        seed: seed of the sampling.
        what: such a text in messages.

    Raises:
        UserError: a caption is not a text, or has no word while `allow_empty` is False; the message names the example.
    """
    if len(captions) != len(names):
        raise ValueError(f"{len(captions)} captions of {len(names)} examples")
    place: dict[tuple[str, ...], int] = {}
    rows: list[str] = []
    index, choices = np.zeros(len(names), np.int32), np.zeros(len(names), np.int32)
    for i, (given, name) in enumerate(zip(captions, names, strict=True)):
        given = given if isinstance(given, list | tuple) and given else (given,)
        alike = tuple(str(check_text(text, f"the {what} of {name}")).strip() for text in given)
        # The first is in the language of evaluation, even if it is empty; others that are empty are dropped.
        alike = (alike[0], *filter(None, alike[1:])) if alike[0] else ("",)
        index[i], choices[i] = place.setdefault(alike, len(rows)), len(alike)
        if index[i] == len(rows):
            rows.extend(alike)
    found = tokenise(rows)
    worded = np.any(found.mask, axis=1)[index]
    empty = np.flatnonzero(~worded)
    if len(empty) and not allow_empty:
        more = f", nor have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise UserError(
            f"the {what} of {names[empty[0]]} has no word in it{more}: write one"
            + (", or set config.text.allow_empty=True to have it masked" if what == "caption" else "")
        )
    notes = []
    if len(empty):
        notes.append(
            f"{len(empty)} of {len(names)} captions have no word in them and are masked, the first that of {names[empty[0]]}"
        )
    cut = np.flatnonzero(found.cut[index])
    if len(cut):
        notes.append(_cut(len(cut), len(names), "captions", f"that of {names[cut[0]]}", found))
    warning = "" if labels is None else _disguised(index[worded], np.asarray(labels)[worded])
    drawn = choices if bool((choices > 1).any()) else None
    return Texts(
        "instance", found.tokens, found.mask, index, drawn, seed=seed, warning=warning, notes=tuple(notes)
    )


def bank_texts(descriptions: Descriptions, tokenise: Tokeniser) -> Texts:
    """Texts of kind "bank": the descriptions of all classes, class by class, the same for every image whatever its label.

    Args:
        descriptions: descriptions of the classes, in the order of the labels.
        tokenise: M texts → `Tokens`.

    Raises:
        UserError: a description without a word.
    """
    found, classes, _, notes = _described(descriptions, tokenise)
    return Texts("bank", found.tokens, found.mask, classes=classes, notes=notes)


def class_texts(
    descriptions: Descriptions,
    labels: np.ndarray,
    tokenise: Tokeniser,
    *,
    seed: int = 0,
    training: bool = False,
    allow_label_leak: bool = False,
) -> Texts:
    """Texts of kind "class": the description of the true class, which leaks the label.

    Training may use them; evaluation must be allowed explicitly, and then `warning` is not empty.

    Args:
        descriptions: descriptions of the classes, in the order of the labels.
        labels: (N,) integers, the true classes.
        tokenise: M texts → `Tokens`.
        seed: seed of the choice among the descriptions of a class, see `Texts.row`.
        training: the texts are for training only; reading them for evaluation raises.
        allow_label_leak: evaluation may read the texts.

    Raises:
        UserError: neither `training` nor `allow_label_leak`; a description without a word.
    """
    if not (training or allow_label_leak):
        raise UserError(_REFUSED)
    labels = np.asarray(labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(descriptions.class_names):
        raise ValueError(f"labels are not below {len(descriptions.class_names)} classes")
    found, classes, counts, notes = _described(descriptions, tokenise)
    first = np.cumsum(counts) - counts
    return Texts(
        "class", found.tokens, found.mask, first[labels].astype(np.int32), counts[labels].astype(np.int32), classes,
        seed, leaks=True, evaluable=allow_label_leak, warning=LEAK if allow_label_leak else "", notes=notes,
    )  # fmt: skip


def permuted(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random permutation of labels that changes the class of as many examples as possible.

    Args:
        labels: (N,) integers.
        seed: seed of the permutation.

    Returns:
        (N,), of the same dtype.

    Raises:
        UserError: all labels are equal, so no permutation changes one.
    """
    labels = np.asarray(labels)
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) < 2:
        raise UserError("a label-permutation test needs examples of two classes or more")
    shuffled = np.random.default_rng([_STREAM, seed]).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.empty_like(labels)
    # Sorted by class, a shift by the size of the largest class changes every label, unless it has over half of the examples.
    out[order] = np.roll(labels[order], counts.max())
    return out


def depends_on_labels(make: Callable[[np.ndarray], Texts], labels: np.ndarray, seed: int) -> bool:
    """Label-permutation test: whether the texts of the examples change when the labels are permuted.

    Args:
        make: labels (N,) → the texts of the same N examples, everything else unchanged.
        labels: (N,), the true labels.
        seed: seed of the permutation.

    Returns:
        True for text that is selected by the label, unless all classes have the same text; False for captions and the bank.

    Raises:
        UserError: all labels are equal.

    Source: docs/methods/image_text_fusion.md, "The label must not leak through the text".
    """
    before, after = make(np.asarray(labels)), make(permuted(labels, seed))
    if (before.index is None) != (after.index is None):
        return True
    if before.index is None:
        return not _same(_words(before, None), _words(after, None))
    everyone = range(len(before.index))
    for epoch in (None, 0, 1):
        if epoch is None and not (before.evaluable and after.evaluable):
            continue
        if not _same(
            _words(before, before.rows(epoch, everyone)), _words(after, after.rows(epoch, everyone))
        ):
            return True
    return False


def _described(
    descriptions: Descriptions, tokenise: Tokeniser
) -> tuple[Tokens, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Tokens of all descriptions, class by class; the class of each row; the number of rows of each class; notes."""
    counts = np.asarray([len(own) for own in descriptions.texts], np.int64)
    classes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    found = tokenise([text for own in descriptions.texts for text in own])
    empty = np.flatnonzero(~found.mask.any(1))
    if len(empty):
        name = descriptions.class_names[classes[empty[0]]]
        raise UserError(
            f"a description of class {name!r} has no word that the tokenizer knows: write another one"
        )
    notes = descriptions.notes
    cut = np.flatnonzero(found.cut)
    if len(cut):
        first = f"one of class {descriptions.class_names[classes[cut[0]]]!r}"
        notes = (*notes, _cut(len(cut), len(classes), "descriptions", first, found))
    return found, classes, counts, notes


def _cut(count: int, total: int, what: str, first: str, found: Tokens) -> str:
    longest = int(found.mask.sum(1).max())
    return f"{count} of {total} {what} are longer than {longest} tokens (max_tokens) and were truncated, the first {first}"


def _disguised(rows: np.ndarray, labels: np.ndarray) -> str:
    """A warning where captions are shared by many images of one class and by no other class: selected by the label."""
    different = len(np.unique(rows))
    pairs = len(np.unique(np.stack([rows, labels], axis=1), axis=0))
    if len(np.unique(labels)) < 2 or pairs > different or len(rows) < SHARED_BY * different:
        return ""
    return (
        f"This score may be no measurement: {len(rows)} images share {different} captions, and each caption belongs to one "
        "class, so the captions seem to be descriptions of the true class."
    )


def _words(texts: Texts, rows: np.ndarray | None) -> np.ndarray:
    """The tokens of some rows (None for all), −1 where masked."""
    out = np.where(texts.mask, texts.tokens, -1)
    return out if rows is None else out[rows]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of `_words` hold the same texts, whatever their padding."""
    if len(a) != len(b):
        return False
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=-1) for x in (a, b))
    return np.array_equal(a, b)
