"""Normalisation of answers, as in the official evaluation of VQA v2 (Antol et al., ICCV 2015; visualqa.org).

Lower case, number words as digits, no articles, apostrophes in contractions, no punctuation other than apostrophes and colons.
"""

import functools
import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_DIGITS = re.compile(r"\d,\d")
_PERIODS = 32
"""Maximum number of periods removed: the official code passes a flag in place of this number."""
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(i) for i, word in enumerate(_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_WITH_APOSTROPHE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""


def _one_left_out(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# A word that lacks one of its apostrophes gets it back. The exception is in the official list.
_CONTRACTIONS = {bad: word for word in _WITH_APOSTROPHE.split() for bad in _one_left_out(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"


def without_punctuation(text: str) -> str:
    """Removes punctuation as the official evaluation does.

    A mark is removed where the text has it beside a space, or where the text has a comma between digits; otherwise it becomes
    a space. Periods not followed by a digit are removed.
    """
    numbers = _DIGITS.search(text) is not None
    out = text
    for mark in _MARKS:
        beside = numbers or mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside else " ")
    return _PERIOD.sub("", out, count=_PERIODS)


@functools.lru_cache(maxsize=2**16)  # VQA v2 has 6.6 million answers, few of them different
def normalise(text: str) -> str:
    """An answer in the normalised form in which answers are compared.

    >>> normalise("The  Dogs, two of them; dont ask!")
    "dogs 2 of them don't ask"
    """
    words = without_punctuation(one_line(text)).lower().split()
    words = [w for w in (_NUMBERS.get(w, w) for w in words) if w not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(w, w) for w in words)


def one_line(text: str) -> str:
    """The text with line breaks and tabs as spaces, and without surrounding white space."""
    return text.replace("\n", " ").replace("\t", " ").strip()
