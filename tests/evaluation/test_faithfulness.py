"""Measures of explanations on images with a known object, and a score that depends on it alone."""

import numpy as np
import pytest

from fusionjax.evaluation import faithfulness as lib
from fusionjax.interpret.faithfulness_table import Table

SIZE = (24, 32)


@pytest.fixture
def planted(rng):
    """Dark noise with a bright square off the centre: images, masks, and the share of the square that is still there."""
    images = rng.integers(0, 40, (6, *SIZE, 3)).astype(np.uint8)
    masks = np.zeros((6, *SIZE), bool)
    for n, (row, column) in enumerate([(1, 1), (15, 2), (2, 24), (16, 24), (1, 12), (16, 12)]):
        masks[n, row : row + 6, column : column + 6] = True
    images[masks] = 255

    def score(changed, example):
        assert len(changed) == len(example)
        return np.asarray([(x[masks[n]] > 200).mean() for x, n in zip(changed, example, strict=True)])

    return images, masks, score


def test_the_true_mask_beats_the_controls(rng, planted):
    images, masks, score = planted
    maps = {
        "true": masks.astype(float),
        "random": np.stack([lib.random_map(SIZE, rng) for _ in images]),
        "centre": np.repeat(lib.centre_prior(SIZE)[None], 6, 0),
        "wrong": 1.0 - masks,
    }
    found = lib.deletion_insertion(images, maps, score, fill=(20, 20, 20), steps=8)
    deletion, insertion = ({name: found[name][k] for name in maps} for k in (0, 1))
    for other in ("random", "centre", "wrong"):
        assert (deletion["true"] < deletion[other]).all(), other
        assert (insertion["true"] > insertion[other]).all(), other
    # 36 of 768 pixels are gone after the first eighth: the curve is 1, 0, 0 …
    np.testing.assert_allclose(deletion["true"], 1 / 16)
    assert (insertion["true"] >= 15 / 16).all()  # 0, 1, 1 …, and some of the blurred square is bright as well


def test_a_constant_map_removes_pixels_in_random_order(planted):
    images, _, score = planted
    flat = {"flat": np.ones((6, 3, 4))}
    first, again = (lib.deletion_insertion(images, flat, score, fill=(0, 0, 0), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first["flat"], again["flat"])
    assert first["flat"][0].mean() == pytest.approx(0.5, abs=0.1)


def test_shares_of_the_object():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    map = np.array([[3.0, 1.0], [0.0, 0.0]])
    assert lib.points_inside(map, mask) == 1 and lib.points_inside(map[::-1], mask) == 0
    pixels = lib.to_pixels(map, (4, 4))
    assert lib.energy_inside(map, mask) == pytest.approx(pixels[:2, :2].sum() / pixels.sum())
    assert lib.energy_inside(np.ones((2, 2)), mask) == pytest.approx(0.25)
    assert lib.energy_inside(np.zeros((2, 2)), mask) == 0


def test_controls_and_correlation(rng):
    prior = lib.centre_prior((3, 5))
    assert prior.argmax() == 7 and prior[0, 0] == pytest.approx(prior[2, 4])
    noise = rng.random((3, 5))
    assert lib.rank_correlation(noise, np.exp(noise)) == pytest.approx(1)
    assert lib.rank_correlation(noise, -noise) == pytest.approx(-1)
    assert lib.rank_correlation(noise, np.ones((3, 5))) == 0


def test_the_table_says_which_map_beats_the_controls(rng):
    near = rng.normal(0, 0.01, 20)
    values = {
        "rollout": {"deletion": 0.2 + near, "insertion": 0.5 + near, "energy": np.full(20, np.nan)},
        "random": {"deletion": 0.4 + near, "insertion": 0.3 - near, "energy": np.full(20, np.nan)},
        "centre": {"deletion": 0.3 - near, "insertion": 0.5 - near, "energy": np.full(20, np.nan)},
    }
    table = Table(values, {"rollout": "attention rollout"}, "Explanations of 20 images")
    assert table.heads == ["map", "deletion ↓", "insertion ↑"]  # no image has an object
    assert table.rows[0][0] == "attention rollout" and table.rows[0][1].startswith(
        f"{0.2 + near.mean():.3f} [0."
    )
    (said,) = table.verdicts()
    assert said == (
        "attention rollout: better than both controls in deletion; not shown to be better than centre prior in insertion"
    )
    assert table.text().splitlines()[0] == "Explanations of 20 images" and said in table.text()
    few = {k: {"deletion": v["deletion"][:5], "insertion": v["insertion"][:5]} for k, v in values.items()}
    (said,) = Table(few, table.titles, "").verdicts()  # the bootstrap of five images has hardly a width
    assert (
        said
        == "attention rollout: not shown to be better than random and centre prior in deletion, insertion"
    )
    assert "Petsiuk" in table.legend and "Zhang" not in table.legend  # nothing was measured on objects
