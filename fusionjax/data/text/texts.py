"""What text a sample gets: its own, the descriptions of all classes, or those of its true class, which leak the label.

docs/methods/image_text_fusion.md: "The label must not leak through the text".
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from fusionjax.data.source import Source
from fusionjax.data.text.descriptions import Descriptions
from fusionjax.data.text.tokens import Tokens, check_text
from fusionjax.errors import UserError

KINDS = ("instance", "bank", "class")
LEAK = (
    "This score is not a measurement: every image's text is the description of its true class (text kind 'class', "
    "allow_label_leak=True), so the text alone tells the label."
)
_REFUSED = (
    "text kind 'class' gives each image the description of its true class, so a score would measure nothing: choose "
    "'bank' or 'instance', or set allow_label_leak=True for a score that the report marks as no measurement"
)
SHARED_BY = 10
"""Captions that so many images share on average, and no two classes do, are descriptions of classes."""
_STREAM = 0x7E87  # keeps these draws apart from others that start from the same seed

Tokeniser = Callable[[Sequence[str]], Tokens]


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a split of N examples. Made by `instance_texts`, `bank_texts` or `class_texts`.

    Attributes:
        kind: one of `KINDS`.
        tokens: (M, T) int32, M different texts.
        mask: (M, T) bool, False at padding; all False for a text without a word.
        index: (N,) int32, the row of each example at evaluation; None for the bank, all M rows of which belong to every image.
        choices: (N,) int32, how many rows from `index` on training draws from; None where there is but one.
        classes: (M,) int32, the class that a row describes; None for captions.
        seed: of the draws.
        leaks: whether the text is looked up by the label.
        evaluable: whether evaluation may read it; False for leaking texts that were made for training.
        warning: what a report must put first; "" for none.
        notes: further lines for a report: texts that were cut or are empty, classes that share a description.
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
        """All lines for the report, `warning` first."""
        return [*([self.warning] if self.warning else []), *self.notes]

    def row(self, epoch: int | None, index: int) -> int:
        """The row of `tokens` that example `index` gets.

        Args:
            epoch: of training, from 0: one of a class's descriptions is drawn from (seed, epoch, index). None for evaluation:
                the first.
            index: of the example, 0 to N − 1; −1, the index of padding in a batch, gets row 0.

        Raises:
            UserError: evaluation of leaking texts that were not allowed for it.
            ValueError: the bank, which is the same for every example.
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
        """`row` of B examples, (B,) int32."""
        return np.asarray([self.row(epoch, int(i)) for i in indices], np.int32)


def captions(source: Source) -> Sequence[str]:
    """The column caption of a source.

    Raises:
        UserError: it has none.
    """
    if "caption" not in source.columns:
        raise UserError(
            f"text kind 'instance' needs a text of each image, but {source.name} has no column caption; its columns are "
            f"{', '.join(source.columns) or 'none'}: add one (a manifest can have it), or choose 'bank'"
        )
    return source.columns["caption"]


def translations(source: Source) -> list[tuple[str, ...]]:
    """The captions of each example in several languages, the test's first: the column translations, one a line.

    Where there is no such column, the column caption.

    Raises:
        UserError: it has neither.
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
) -> Texts:
    """Kind "instance": a text that belongs to the example. Equal texts share a row.

    Args:
        captions: N texts, see `captions`; or N times one or more that say the same, see `translations`: training draws one of
            them an epoch, evaluation reads the first.
        names: of the N examples, for messages.
        tokenise: M texts → `Tokens`.
        labels: (N,), only looked at: captions that are descriptions of classes in disguise give a warning.
        allow_empty: take an example without a text as one whose tokens are all masked.
        seed: of the draws.

    Raises:
        UserError: a caption that is no text, or has no word in it while `allow_empty` is False; with the example's name.
    """
    if len(captions) != len(names):
        raise ValueError(f"{len(captions)} captions of {len(names)} examples")
    place: dict[tuple[str, ...], int] = {}
    rows: list[str] = []
    index, choices = np.zeros((2, len(names)), np.int32)
    for i, (given, name) in enumerate(zip(captions, names, strict=True)):
        given = given if isinstance(given, list | tuple) and given else (given,)
        alike = tuple(str(check_text(text, f"the caption of {name}")).strip() for text in given)
        # The first stands for the test's language, even if it is empty; another one that is empty says nothing.
        alike = (alike[0], *filter(None, alike[1:])) if alike[0] else ("",)
        index[i], choices[i] = place.setdefault(alike, len(rows)), len(alike)
        if index[i] == len(rows):
            rows.extend(alike)
    found = tokenise(rows)
    worded = found.mask.any(1)[index]
    empty = np.flatnonzero(~worded)
    if len(empty) and not allow_empty:
        more = f", nor have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise UserError(
            f"the caption of {names[empty[0]]} has no word in it{more}: write one, or set allow_empty=True to have it masked"
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
    drawn = choices if (choices > 1).any() else None
    return Texts(
        "instance", found.tokens, found.mask, index, drawn, seed=seed, warning=warning, notes=tuple(notes)
    )


def bank_texts(descriptions: Descriptions, tokenise: Tokeniser) -> Texts:
    """Kind "bank": the descriptions of all classes, class by class, the same for every image, whatever its label.

    Args:
        descriptions: of the classes, in the order of the labels.
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
    """Kind "class": the description of the true class, which tells the label.

    Training may use it; for evaluation it is refused unless allowed, and then `warning` is not empty.

    Args:
        descriptions: of the classes, in the order of the labels.
        labels: (N,) whole numbers, the true classes.
        tokenise: M texts → `Tokens`.
        seed: of the choice among a class's descriptions, see `Texts.row`.
        training: the texts are not for evaluation; reading them for it is an error.
        allow_label_leak: let evaluation read them.

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
    """A permutation of labels that gives as many examples as possible another class, and none its own if it can.

    Args:
        labels: (N,) whole numbers.
        seed: of the permutation.

    Raises:
        UserError: all labels are the same, so that no permutation changes one.
    """
    labels = np.asarray(labels)
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) < 2:
        raise UserError("a label-permutation test needs examples of two classes or more")
    shuffled = np.random.default_rng([_STREAM, seed]).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.empty_like(labels)
    # Sorted by class, a shift by the largest class's size leaves no class where it was, unless it has over half of all.
    out[order] = np.roll(labels[order], counts.max())
    return out


def depends_on_labels(make: Callable[[np.ndarray], Texts], labels: np.ndarray, seed: int) -> bool:
    """The label-permutation test: whether the text that an example gets changes when the labels are permuted.

    Args:
        make: labels (N,) → the texts of the same N examples, all else unchanged.
        labels: (N,), the true ones.
        seed: of the permutation.

    Returns:
        True for text that is looked up by the label, unless all classes have the same text; False for captions and the bank.

    Raises:
        UserError: all labels are the same.
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
    """Tokens of all descriptions, class by class; the class of each row, how many each class has, notes."""
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
    return f"{count} of {total} {what} are longer than {longest} tokens (max_tokens) and were cut there, the first {first}"


def _disguised(rows: np.ndarray, labels: np.ndarray) -> str:
    """A line where captions are shared by many images of a class and by none of another: a look-up by the label."""
    different = len(np.unique(rows))
    pairs = len(np.unique(np.stack([rows, labels], axis=1), axis=0))
    if len(np.unique(labels)) < 2 or pairs > different or len(rows) < SHARED_BY * different:
        return ""
    return (
        f"This score may be no measurement: {len(rows)} images share {different} captions, and each caption belongs to one "
        "class, so the captions seem to be descriptions of the true class."
    )


def _words(texts: Texts, rows: np.ndarray | None) -> np.ndarray:
    """Tokens of rows (all if None), −1 where masked."""
    out = np.where(texts.mask, texts.tokens, -1)
    return out if rows is None else out[rows]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of `_words` hold the same texts, however far they are padded."""
    if len(a) != len(b):
        return False
    width = max(a.shape[1], b.shape[1])
    wide = [np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=-1) for x in (a, b)]
    return np.array_equal(*wide)
