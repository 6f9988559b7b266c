"""Maps and figures: what they show, with any name that data may bring."""

import os
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fusionjax.interpret import figures, maps
from tests.support.pages import HOSTILE, NAMES, RNG, attention, blank, example, records, result


def test_grid_drops_leading_tokens():
    weights = np.arange(12.0)
    np.testing.assert_array_equal(maps.to_grid(weights, (3, 4)), weights.reshape(3, 4))
    np.testing.assert_array_equal(maps.to_grid(np.r_[99, weights], (3, 4)), weights.reshape(3, 4))
    for size in (11, 15):
        with pytest.raises(ValueError, match="do not fit"):
            maps.to_grid(np.ones(size), (3, 4))


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_upsample_keeps_place_and_range(method):
    small = np.zeros((4, 6))
    small[1, 4] = 3.0
    large = maps.upsample(small, (40, 60), method)
    assert large.shape == (40, 60) and large.min() == 0 and 0.8 < large.max() <= 1
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert 10 <= row < 20 and 40 <= column < 50
    assert not maps.upsample(np.full((2, 2), 7.0), (8, 8)).any()
    with pytest.raises(ValueError, match="finite"):
        maps.upsample(np.full((2, 2), np.nan), (8, 8))


def test_overlay_blends():
    image = RNG.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    level = np.linspace(0, 1, 72).reshape(8, 9)
    assert maps.overlay(image, level).dtype == np.uint8
    only_map = maps.overlay(image, level, alpha=1.0)
    np.testing.assert_array_equal(only_map, maps.overlay(255 - image, level, alpha=1.0))
    grey = maps.overlay(image, level, alpha=0.0)
    assert (grey == grey[..., :1]).all()
    with pytest.raises(ValueError, match="cover"):
        maps.overlay(image, level.T)
    with pytest.raises(ValueError, match="uint8"):
        maps.overlay(image / 255, level)


def test_selection_covers_its_patches():
    mask = maps.selection_mask(np.array([0, 5]), (2, 3), (10, 11))
    assert mask[:5, :4].all() and mask[5:, 8:].all() and not mask[5:, :7].any()
    assert maps.selection_mask(np.arange(6), (2, 3), (10, 11)).all()
    assert not maps.selection_mask(np.array([], int), (2, 3), (10, 11)).any()
    with pytest.raises(ValueError, match="outside"):
        maps.selection_mask(np.array([6]), (2, 3), (10, 11))
    image = np.full((10, 11, 3), (200, 20, 20), np.uint8)
    shown = maps.show_selection(image, mask)
    assert (shown[2, 1] == (200, 20, 20)).all() and (shown[0, 0] == (230, 159, 0)).all()
    assert len(set(shown[9, 0])) == 1 and shown[9, 0, 0] < 50


def test_every_figure_draws(tmp_path):
    few, many = result(NAMES), result([f"{i:03d}.Black_footed_Albatross" for i in range(200)], 900)
    thirty = result([f"class {i}" for i in range(30)], 300)
    drawn = {
        "few": figures.confusion_matrix(few.confusion, NAMES),
        "some": figures.confusion_matrix(thirty.confusion, thirty.class_names),
        "many": figures.confusion_matrix(many.confusion, many.class_names),
        "empty": figures.confusion_matrix(np.zeros((70, 70), int), ["x"] * 70),
        "curves": figures.curves(records()),
        "bars": figures.per_class_bars(few.per_class),
        "worst": figures.per_class_bars(many.per_class),
        "attention": figures.attention_rows([attention(), example()]),
        "plain": figures.attention_rows([example()], "only the input"),
    }
    for name, figure in drawn.items():
        path = figures.save(figure, tmp_path / f"{name}.png", dpi=60)
        assert not blank(path)
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.png" for name in drawn)


def test_figures_draw_hostile_names(tmp_path):
    r = result(HOSTILE)
    drawn = [
        figures.confusion_matrix(r.confusion, HOSTILE, HOSTILE[2]),
        figures.per_class_bars(r.per_class),
        figures.attention_rows([example(true=HOSTILE[2], predicted=HOSTILE[3])]),
    ]
    for i, figure in enumerate(drawn):
        assert not blank(figures.save(figure, tmp_path / f"{i}.png", dpi=60))


def test_labels_do_not_overlap_with_long_names():
    names = ["Smileys & Emotion", "Animals & Nature", "Travel & Places"] * 3
    figure = figures.confusion_matrix(np.eye(9, dtype=int), names)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    rows = [t.get_window_extent(renderer) for t in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(rows))


def test_curves_take_the_later_record_and_skip_what_is_not_finite():
    log = [{"step": 2, "train/loss": 5.0}, {"step": 1, "train/loss": 4.0}, {"step": 2, "train/loss": 3.0}]
    line = figures.curves([*log, {"step": 3, "train/loss": float("nan")}]).axes[0].lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2], [4.0, 3.0])
    assert figures.curves([]) is None and figures.curves([{"step": 1, "val/nll": 2.0}]) is None


def test_curves_show_accuracies_only():
    log = [
        {
            "step": 1,
            "val/accuracy": 0.5,
            "val/sa/accuracy": 0.4,
            "val/balanced_accuracy": 0.3,
            "val/accuracy_low": 0.2,
        }
    ]
    assert [line.get_label() for line in figures.curves(log).axes[0].lines] == [
        "val/accuracy",
        "val/sa/accuracy",
    ]
