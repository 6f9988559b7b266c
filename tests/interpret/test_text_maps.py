"""Attention between image and text: what the numbers are, what the figures show, with any text that data may bring."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fusionjax.interpret import figures, maps, text_attention, text_maps
from fusionjax.interpret.rank_list import RIGHT, WRONG
from fusionjax.interpret.text_maps import TextExample

RNG = np.random.default_rng(0)
HOSTILE = [
    "$\\frac{1}{0}$",
    "a$b",
    "日本",
    "🌿",
    "\x07\n",
    "",
    "_x",
    "<b>",
    "leaf",
    "leaf",
    "x" * 60,
    ".",
    "[SEP]",
]


def picture(size=(28, 28)):
    return RNG.integers(0, 256, (*size, 3)).astype(np.uint8)


def rows(n, t):
    """n rows of t weights that sum to 1."""
    return RNG.dirichlet(np.ones(t), n) if n * t else np.zeros((n, t))


def example(words=("[CLS]", "a", "leaf", "."), grid=(3, 4), size=(28, 28), **parts):
    n, t = grid[0] * grid[1], len(words)
    fields = dict(name="a.jpg", true="rust", predicted="rust", probability=0.75, image=picture(size))
    weights = dict(image_to_text=rows(n, t), text_to_image=rows(t, n))
    return TextExample(words=words, grid=grid, **(fields | weights | parts))


def bank(classes, shares, **parts):
    words = [f"description {i}" for i in range(len(classes))]
    return example(words, image_to_text=np.tile(shares, (12, 1)), classes=classes, **parts)


def titled(figure, title):
    """The axes under a title of a part of the figure."""
    return [axes for axes in figure.axes if axes.figure.get_suptitle() == title]


def written(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_pool_sums_what_words_get_and_averages_what_they_read():
    to_text, to_image = rows(5, 6).astype(np.float32), rows(6, 5).astype(np.float32)
    groups = [0, 1, 1, 0, 2, 1]
    got, read = text_maps.pool(groups, to_text, to_image)
    for m in range(3):
        own = [t for t in range(6) if groups[t] == m]
        np.testing.assert_allclose(got[:, m], sum(to_text[:, t].astype(float) for t in own), rtol=1e-12)
        np.testing.assert_allclose(
            read[m], sum(to_image[t].astype(float) for t in own) / len(own), rtol=1e-12
        )
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(read.sum(1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="no token belongs to number 1"):
        text_maps.pool([0, 0, 2], np.ones((5, 3)), np.ones((3, 5)))
    for to_text, to_image in ((np.ones((5, 2)), np.ones((3, 5))), (np.ones((5, 2)), np.ones((2, 5)))):
        with pytest.raises(ValueError, match="do not fit 3 tokens"):
            text_maps.pool([0, 1, 1], to_text, to_image)


def test_pieces_join_the_word_before():
    tokens = ["[CLS]", "##s", "mil", "##de", "##w", "on", "##", "[UNK]", "##ed", ".", "[SEP]"]
    to_text, to_image = rows(4, len(tokens)), rows(len(tokens), 4)
    words, got, read = text_maps.merge_pieces(tokens, to_text, to_image)
    assert words == ["[CLS]", "s", "mildew", "on", "##", "[UNK]", "ed", ".", "[SEP]"]
    np.testing.assert_allclose(got[:, 2], to_text[:, 2] + to_text[:, 3] + to_text[:, 4], rtol=1e-12)
    np.testing.assert_allclose(read[2], (to_image[2] + to_image[3] + to_image[4]) / 3, rtol=1e-12)
    one_piece = [0, 1, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(got[:, one_piece], to_text[:, [0, 1, 5, 6, 7, 8, 9, 10]], rtol=1e-12)
    np.testing.assert_allclose(read[one_piece], to_image[[0, 1, 5, 6, 7, 8, 9, 10]], rtol=1e-12)
    assert text_maps.merge_pieces(["##s"], np.ones((4, 1)), np.ones((1, 4)))[0] == ["s"]
    words, got, read = text_maps.merge_pieces([], np.ones((4, 0)), np.ones((0, 4)))
    assert (words, got.shape, read.shape) == ([], (4, 0), (0, 4))


def test_special_tokens_and_punctuation_are_told_from_words():
    for word in (
        "[CLS]",
        "[SEP]",
        "[unused1]",
        "<s>",
        "</s>",
        "<|endoftext|>",
        ".",
        "--",
        "“",
        "$",
        "+",
        " ",
        "",
    ):
        assert text_attention.is_aside(word), word
    for word in ("leaf", "3", "日本", "🌿", "don't", "[", "a]", "<", "é"):
        assert text_attention.is_aside(word) == (word in "[<"), word
    assert text_attention.is_special("[CLS]") and not text_attention.is_special(".")


def test_most_read_words_come_first_and_asides_last():
    weights = np.array([[0.5, 0.1, 0.0, 0.1, 0.3], [0.3, 0.1, 0.2, 0.1, 0.3]])
    e = example(["[CLS]", "a", "leaf", "b", "."], (1, 2), image_to_text=weights)
    np.testing.assert_allclose(e.shares(), [0.4, 0.1, 0.1, 0.1, 0.3])
    assert text_maps.most_read(e) == [1, 2, 3, 0, 4] and text_maps.most_read(e, 2) == [1, 2]


def test_each_region_names_the_word_that_it_reads_most():
    e = example(["[CLS]", "a", "leaf", "."], (3, 5))
    expected = [
        [max((1, 2), key=lambda t: e.image_to_text[5 * y + x, t]) for x in range(5)] for y in range(3)
    ]
    assert text_maps.strongest_words(e).tolist() == expected
    weights = np.array([[0.9, 0.05, 0.05, 0], [1, 0, 0, 0], [0.8, 0.1, 0.0, 0.1]])  # alike, none, the second
    e = example(["[CLS]", "a", "leaf", "."], (1, 3), image_to_text=weights)
    assert text_maps.strongest_words(e).tolist() == [[-1, -1, 1]]
    e = example(["[CLS]", "."], (1, 2), image_to_text=np.array([[0.6, 0.4], [0.4, 0.6]]))
    assert text_maps.strongest_words(e).tolist() == [[0, 1]]
    assert text_maps.strongest_words(example(["leaf"], (1, 2), image_to_text=np.ones((2, 1)))).tolist() == [
        [0, 0]
    ]
    assert text_maps.strongest_words(example([], (1, 2))).tolist() == [[-1, -1]]


def test_maps_show_the_right_way_and_do_not_exaggerate():
    to_image = np.full((3, 12), 1 / 12)
    to_image[1] = 0
    to_image[1, 7] = 1  # row 1, column 3
    to_image[2] = 0
    to_text = np.full((12, 3), 0.2)
    to_text[4, 1] = 0.6  # row 1, column 0
    e = example(["a", "b", "c"], image_to_text=to_text, text_to_image=to_image, size=(30, 40))
    even, one, nothing = text_maps.words_to_regions(e, [0, 1, 2])
    level = np.full((30, 40), 0.5)
    np.testing.assert_array_equal(even.picture, maps.overlay(e.image, level))
    np.testing.assert_array_equal(nothing.picture, maps.overlay(e.image, 0 * level))
    np.testing.assert_allclose([even.peak, one.peak, nothing.peak], [1, 12, 0])
    np.testing.assert_array_equal(
        one.picture, maps.overlay(e.image, maps.upsample(to_image[1].reshape(3, 4), (30, 40)))
    )
    back = text_maps.regions_to_words(e, [1])[0]
    scaled = (to_text[:, 1] / to_text[:, 1].mean()).reshape(3, 4)
    low, high = scaled.min(), scaled.max()
    level = (low + maps.upsample(scaled, (30, 40)) * (high - low)) / high
    assert back.peak == pytest.approx(0.6 / (2.8 / 12)) and back.index == 1
    np.testing.assert_array_equal(back.picture, maps.overlay(e.image, level))
    assert [r.index for r in text_maps.words_to_regions(e)] == text_maps.most_read(e)


def test_a_map_that_is_nearly_even_looks_even():
    black = np.zeros((30, 40, 3), np.uint8)
    slight = np.linspace(0.95, 1.05, 12)[None] / 12
    e = example(["a"], text_to_image=slight, image=black)
    picture = text_maps.words_to_regions(e, [0])[0].picture.astype(int)
    purple = maps.overlay(black, np.full((30, 40), 0.5)).astype(int)
    stretched = maps.overlay(black, maps.upsample(slight.reshape(3, 4), (30, 40))).astype(int)
    assert 0 < abs(picture - purple).max() < 10 < 100 < abs(stretched - purple).max()


def test_figure_says_what_it_shows():
    words = ["[CLS]", "a", "leaf", ".", "[SEP]"]
    shares = np.array([0.4, 0.1, 0.25, 0.05, 0.2])
    weights = np.tile(shares, (12, 1))
    weights[::4, 1:3] = weights[::4, 2:0:-1]  # the first column reads "a"
    e = example(words, image_to_text=weights, size=(30, 40))
    wrong = example(words, predicted="scab")
    figure = text_maps.figure([e, wrong], "title")
    captions = [axes.get_xlabel() for axes in titled(figure, "image")]
    assert captions == [
        "rust\n✓ correct (75\N{NO-BREAK SPACE}%)\na.jpg",
        "true: rust\npredicted: scab\n✗ wrong (75\N{NO-BREAK SPACE}%)\na.jpg",
    ]
    np.testing.assert_array_equal(titled(figure, "image")[0].images[0].get_array(), e.image)
    small = titled(figure, "regions that each word attends to (yellow: most)")[:6]
    assert [axes.get_title() for axes in small] == ["leaf", "a", "[CLS]", "[SEP]", ".", ""]
    assert [axes.get_visible() for axes in small] == [True] * 5 + [False]
    readings = text_maps.words_to_regions(e)
    for axes, reading in zip(small, readings, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), reading.picture)
        assert axes.get_xlabel() == f"largest: {reading.peak:.1f} × uniform"
    border = {axes.get_title(): to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in small[:5]}
    assert (border["leaf"], border["a"]) == figures.PALETTE[:2]
    assert border["[CLS]"] == border["."] == text_maps._PALE.upper()

    cells = titled(figure, "word that each region attends to most")[0]
    assert sorted(written(cells)) == ["a", "leaf"]
    tint = cells.images[1].get_array()
    assert [to_hex(c).upper() for c in tint[1, :, :3]] == [figures.PALETTE[1]] + [figures.PALETTE[0]] * 3
    at = {text.get_text(): text.get_position() for text in cells.texts}
    assert at == {"a": (0.5, 1.5), "leaf": (2.5, 1.5)}

    bars = titled(figure, "share of the regions' attention")[0]
    assert [t.get_text() for t in bars.get_yticklabels()] == words
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], weights.mean(0), rtol=1e-12)
    assert written(bars) == [f"{100 * x:.1f}\N{NO-BREAK SPACE}%" for x in weights.mean(0)]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in bars.patches]
    assert colours == [border[word] for word in words]
    assert "uniform attention (20.0\N{NO-BREAK SPACE}%)" in bars.get_xlabel()
    assert {e._suptitle.get_text() for e in figure.subfigs} == {"“a leaf.”"}


def test_a_word_is_written_once_in_each_patch_where_it_has_most_room():
    reads = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 1, 1]])  # "leaf" or "a"
    weights = np.stack([1 - reads.ravel(), reads.ravel()], 1).astype(float)
    figure = text_maps.figure([example(["leaf", "a"], image_to_text=weights, size=(60, 80))])
    cells = titled(figure, "word that each region attends to most")[0]
    found = sorted((text.get_text(), text.get_position()) for text in cells.texts)
    assert found == [("a", (2.0, 0.5)), ("a", (2.5, 2.5)), ("leaf", (1.5, 1.5)), ("leaf", (3.5, 0.5))]
    long = text_maps.figure([example(["antidisestablishment", "a"], image_to_text=weights)])
    cells = titled(long, "word that each region attends to most")[0]
    # Room of a run of three cells, of one cell.
    assert {text for text in written(cells) if text != "a"} == {"antidisestablishment", "antidis…"}


def test_a_long_text_keeps_the_bars_of_words_with_a_map():
    words = [*(f"w{i}" for i in range(9)), *"," * 30]
    shares = np.r_[np.linspace(0.001, 0.009, 9), np.full(30, 0.03)]
    figure = text_maps.figure([example(words, image_to_text=np.tile(shares, (12, 1)))], count=3)
    bars = titled(figure, "share of the regions' attention")[0]
    names = [t.get_text() for t in bars.get_yticklabels()]
    assert len(names) == 14 and names[:4] == ["w6", "w7", "w8", ","] and names[-1] == ", (11)"
    assert (
        f"25 other words: {100 * (shares.sum() - shares[6:20].sum()):.1f}\N{NO-BREAK SPACE}%"
        in bars.get_xlabel()
    )


def test_bank_shows_descriptions_their_classes_and_who_reads_them():
    classes = ["rust", "scab", "rot", "rust", "scab"]
    e = bank(classes, [0.1, 0.3, 0.05, 0.2, 0.15], predicted="scab")
    figure = text_maps.figure([e], "title", count=4)
    order = [1, 3, 4, 0]
    axes = titled(figure, "descriptions with most attention, of 5")[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.3, 0.2, 0.15, 0.1], rtol=1e-12)
    colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert colours == [WRONG, RIGHT, WRONG, RIGHT]
    text = written(axes)
    for k, i in enumerate(order):
        note = "✓ true class" if classes[i] == "rust" else "✗ predicted class"
        assert f"{k + 1}  {classes[i]}  {note}" in text and e.words[i] in text
    assert "30.0\N{NO-BREAK SPACE}%" in text and "5.0\N{NO-BREAK SPACE}%" not in text
    assert "get 30.0\N{NO-BREAK SPACE}% of the attention" in titled(figure, "image")[0].get_xlabel()
    assert "(uniform attention: 40.0\N{NO-BREAK SPACE}%)" in titled(figure, "image")[0].get_xlabel()
    small = titled(figure, "regions that attend to them")
    assert [axes.get_title() for axes in small] == ["1 scab", "2 rust", "3 scab"]
    for axes, reading in zip(small, text_maps.regions_to_words(e, order[:3]), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), reading.picture)
    few = text_maps.bank_figure([bank(["rust"], [0.5])], count=5, maps=2)
    assert [axes.get_visible() for axes in titled(few, "regions that attend to them")] == [True, False]
    other = text_maps.bank_figure([bank(["rot"], [1.0])])
    assert "attention" not in titled(other, "image")[0].get_xlabel()


@pytest.mark.parametrize("size", [(20, 60), (60, 20)])
def test_any_text_is_drawn_inside_the_figure(tmp_path, size):
    hostile = " ".join(HOSTILE)
    drawn = [
        text_maps.figure([example(HOSTILE, size=size, true=hostile, predicted=HOSTILE[2])], hostile),
        text_maps.figure([example(HOSTILE * 9, (9, 9), size), example([], (1, 1), size)]),
        text_maps.figure([example([text], (1, 1), size) for text in HOSTILE[4:6]], count=1),
        text_maps.bank_figure([example(HOSTILE, size=size, classes=HOSTILE, true=HOSTILE[0], predicted=HOSTILE[2]),
                               example([hostile] * 9, size=size, classes=[hostile] * 9, true=hostile)], hostile),
    ]  # fmt: skip
    for i, figure in enumerate(drawn):
        with Image.open(figures.save(figure, tmp_path / f"{i}.png", dpi=50)) as image:
            assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 1
        figure.draw_without_rendering()
        box = figure.bbox.padded(1)
        for axes in (axes for axes in figure.axes if axes.get_visible()):
            for text in (*axes.texts, axes.title, axes.xaxis.label, *axes.get_yticklabels()):
                at = text.get_window_extent()
                inside = box.x0 <= at.x0 and at.x1 <= box.x1 and box.y0 <= at.y0 and at.y1 <= box.y1
                assert inside or not text.get_text(), text.get_text()


def test_the_same_figure_twice(tmp_path):
    e = example(HOSTILE)
    first, second = (figures.save(text_maps.figure([e]), tmp_path / f"{i}.png", dpi=40) for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_mistakes_name_what_does_not_fit():
    assert text_maps.figure([]) is None and text_maps.bank_figure([]) is None
    for count in (0, 7):
        with pytest.raises(ValueError, match="must be 1 to 6"):
            text_maps.figure([example()], count=count)
    for options in ({"count": 0}, {"maps": 0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            text_maps.bank_figure([bank(["rust"], [1.0])], **options)
    for draw in (text_maps.figure, text_maps.bank_figure):
        with pytest.raises(ValueError, match="the class of every description"):
            draw([bank(["rust"], [1.0]), example()])
    for match, parts in {
        r"image_to_text \(12, 3\) is not \(12, 4\)": {"image_to_text": rows(12, 3)},
        r"text_to_image \(12, 4\) is not \(4, 12\)": {"text_to_image": rows(12, 4)},
        "image_to_text has weights that are negative": {"image_to_text": -rows(12, 4)},
        "text_to_image has weights that are negative or not finite": {
            "text_to_image": np.full((4, 12), np.nan)
        },
        "sums to 2: it must be 1 at most": {"image_to_text": 2 * rows(12, 4)},
        "3 classes for 4 descriptions": {"classes": ["a"] * 3},
        "uint8": {"image": picture() / 255},
    }.items():
        with pytest.raises(ValueError, match=match):
            example(**parts)
