"""Augmentation on the device against NumPy, scipy and colorsys, and what each operation must leave alone."""

import colorsys
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fusionjax.errors import UserError
from fusionjax.train.augment import multispectral
from fusionjax.train.augment.multispectral import Colour, Geometry, Intensity, Spec

STILL = Geometry(crop_probability=0, flip_probability=0, rotation_probability=0)
PLAIN = Colour(jitter_probability=0, grayscale_probability=0, blur_probability=0)
QUIET = Intensity(noise_probability=0, gamma_probability=0)
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}

augment = jax.jit(multispectral.augment, static_argnames="spec")
draws = jax.jit(
    jax.vmap(multispectral.draw_warp, (0, None, None)), static_argnums=(1, 2)
)  # of many keys, the same distribution


def only(modality, **changes):
    """A spec that does one thing, always."""
    return Spec(STILL, (dataclasses.replace(modality, **changes),))


def images(rng, n=4, size=(12, 10), channels=6):
    return rng.uniform(size=(n, *size, channels)).astype(np.float32)


def grey(x):
    return (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]


def coordinates(height, width, modalities=2):
    """Each channel pair holds its pixel's row and column, scaled into 0 … 1."""
    y, x = np.mgrid[:height, :width] / 64.0
    return np.stack([y, x] * modalities, -1).astype(np.float32)


def test_default_does_all_and_stays_in_range(rng):
    x = images(rng, 8)
    out = augment(jax.random.key(0), x, Spec())
    assert out.shape == x.shape and out.dtype == jnp.float32
    assert out.min() >= 0 and out.max() <= 1 and np.isfinite(out).all()
    assert (np.abs(out - x).mean((1, 2, 3)) > 1e-3).all()
    np.testing.assert_array_equal(out, augment(jax.random.key(0), x, Spec()))
    other = augment(jax.random.key(1), x, Spec())
    assert (np.abs(out - other).mean((1, 2, 3)) > 1e-3).all()


def test_an_image_depends_on_its_own_row_only(rng):
    x = images(rng, 8)
    out = augment(jax.random.key(0), x, Spec())
    y = images(rng, 8)
    y[3] = x[3]
    np.testing.assert_array_equal(augment(jax.random.key(0), y, Spec())[3], out[3])
    np.testing.assert_array_equal(augment(jax.random.key(0), x[:5], Spec()), out[:5])
    same = augment(jax.random.key(0), np.repeat(x[:1], 8, 0), Spec())
    assert len({np.asarray(row).tobytes() for row in same}) == 8  # a key of its own for each


def test_program_does_not_grow_with_the_batch():
    def operations(n):
        x = jax.ShapeDtypeStruct((n, 8, 8, 6), jnp.float32)
        return augment.lower(jax.random.key(0), x, Spec()).as_text().count("stablehlo.")

    assert operations(3) == operations(5) > 100


def test_strength_or_probability_zero_is_the_identity(rng):
    x = images(rng, size=(12, 9), channels=5)
    never = Spec(STILL, (PLAIN, dataclasses.replace(QUIET, channels=(3, 4))))
    np.testing.assert_array_equal(augment(jax.random.key(0), x, never), x)
    weak = Spec(
        Geometry(crop_area=(1, 1), crop_aspect=(1, 1), flip_probability=0, degrees=0),
        (
            Colour(
                jitter_probability=1,
                **NO_JITTER,
                grayscale_probability=0,
                blur_probability=1,
                blur_sigma=(0, 0),
            ),
            Intensity(channels=(3,), noise_probability=1, noise_sigma=0, gamma_probability=0),
            Intensity(channels=(4,), noise_probability=0, gamma_probability=1, gamma=(1, 1)),
        ),
    )
    out = augment(jax.random.key(0), x, weak)
    np.testing.assert_array_equal(out[..., :4], x[..., :4])
    np.testing.assert_allclose(out[..., 4], x[..., 4], rtol=1e-6)  # a power of 1


def test_geometry_is_the_same_for_all_channels():
    """An image of coordinates, twice: whatever moves, both modalities move to the same place."""
    x = np.repeat(coordinates(16, 20)[None], 6, 0)
    out = np.asarray(augment(jax.random.key(3), x, Spec(Geometry(), ())))
    np.testing.assert_array_equal(out[..., :2], out[..., 2:])
    assert (np.abs(out - x).max((1, 2, 3)) > 0.01).all()
    # The places are those of one affine map: exactly so where nothing is mirrored or cut at the edge.
    matrices = np.asarray(draws(jax.random.split(jax.random.key(1), 20), Geometry(), (16, 20)), np.float64)
    y, z = np.mgrid[:16, :20]
    at = np.stack([y - 7.5, z - 9.5, np.ones_like(y)])
    for matrix in matrices:
        want = np.einsum("ij,jhw->hwi", matrix, at)
        inside = ((want >= 0) & (want <= [15, 19])).all(-1)
        got = 64 * np.asarray(warp(x[0], jnp.asarray(matrix, jnp.float32)))[..., :2]
        assert inside.mean() > 0.5
        np.testing.assert_allclose(got[inside], want[inside], atol=2e-4)


warp = jax.jit(multispectral.warp)


def test_warp_equals_scipy(rng):
    for size in ((12, 10), (1, 5)):
        x = rng.uniform(size=(*size, 3)).astype(np.float32)
        for _ in range(10):
            matrix = np.concatenate([rng.normal(size=(2, 2)), 5 + 3 * rng.normal(size=(2, 1))], 1).astype(
                np.float32
            )
            y, z = np.mgrid[: size[0], : size[1]].astype(np.float64)
            centred = np.stack([y - (size[0] - 1) / 2, z - (size[1] - 1) / 2, np.ones(size)])
            at = np.einsum("ij,jhw->ihw", matrix.astype(np.float64), centred)
            want = [ndimage.map_coordinates(x[..., c], at, order=1, mode="reflect") for c in range(3)]
            np.testing.assert_allclose(warp(x, matrix), np.stack(want, -1), atol=2e-5)


def test_drawn_warps(rng):
    """Angles, areas, aspects, flips and places of many draws, read back from the matrices."""
    geometry = Geometry(crop_area=(0.2, 0.9), flip_probability=0.3)
    height, width, n = 30, 20, 4000
    m = np.asarray(draws(jax.random.split(jax.random.key(0), n), geometry, (height, width)), np.float64)
    shares = np.linalg.norm(m[:, :, :2], axis=2)
    flipped = np.linalg.det(m[:, :, :2]) < 0
    assert abs(flipped.mean() - 0.3) < 0.03
    turn = m[:, :, :2] / shares[..., None]
    turn[flipped, 1] *= -1
    np.testing.assert_allclose(turn[:, 0, 0], turn[:, 1, 1], atol=1e-5)
    np.testing.assert_allclose(turn[:, 0, 1], -turn[:, 1, 0], atol=1e-5)
    degrees = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert np.abs(degrees).max() <= 15.001
    assert abs(degrees.mean()) < 0.6 and abs(degrees.std() - 15 / np.sqrt(3)) < 0.4
    area, aspect = shares.prod(1), shares[:, 1] / shares[:, 0]
    assert 0.1999 < area.min() < 0.22 and 0.85 < area.max() < 0.9001
    assert 0.7499 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.3335
    # The crop lies in the image, whose outer edges are −½ and size − ½, and reaches all of it.
    sizes = np.array([height, width])
    low, high = m[:, :, 2] - shares * sizes / 2, m[:, :, 2] + shares * sizes / 2
    assert (low >= -0.5 - 1e-4).all() and (high <= sizes - 0.5 + 1e-4).all()
    assert (low.min(0) < 0.3).all() and (high.max(0) > sizes - 1.3).all()
    still = np.asarray(draws(jax.random.split(jax.random.key(0), 3), STILL, (height, width)))
    np.testing.assert_array_equal(still, [[[1, 0, 14.5], [0, 1, 9.5]]] * 3)


def test_a_crop_that_never_fits_is_cut_to_the_image():
    wide = Geometry(crop_area=(1, 1), crop_aspect=(4, 4), flip_probability=0, degrees=0)
    m = np.asarray(draws(jax.random.split(jax.random.key(0), 3), wide, (8, 8)))
    np.testing.assert_allclose(m[:, [0, 1], [0, 1]], [[0.5, 1]] * 3, rtol=1e-6)


def test_flip_alone_is_exact(rng):
    x = images(rng)
    out = augment(jax.random.key(0), x, Spec(dataclasses.replace(STILL, flip_probability=1), ()))
    np.testing.assert_array_equal(out, x[:, :, ::-1])


def test_hue_equals_colorsys(rng):
    x = rng.uniform(size=(40, 3)).astype(np.float32)
    x[:6] = np.float32([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.2], [0.3, 0.9, 0.9], [0.7, 0.1, 0.7], [1, 0, 0]])
    turned = jax.jit(multispectral.shift_hue)
    for shift in (-0.5, -0.1, 0.07, 1 / 3, 0.5):
        want = []
        for pixel in x.astype(np.float64):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            want.append(colorsys.hsv_to_rgb((h + shift) % 1, s, v))
        np.testing.assert_allclose(turned(x, shift), want, atol=2e-6)
    np.testing.assert_array_equal(turned(x, 0.0), x)


def test_jitter_equals_its_steps_in_numpy(rng):
    """The four operations, one after another in the drawn order, written out for one image."""
    spec = Colour(brightness=0.6, contrast=0.5, saturation=0.8, hue=0.2)
    x = rng.uniform(size=(5, 6, 3)).astype(np.float32)
    jitter = jax.jit(functools.partial(multispectral._jitter, spec=spec))
    orders = set()
    for _ in range(40):
        u = rng.uniform(size=8).astype(np.float32)
        order = np.argsort(u[:4])
        spread = np.array([0.6, 0.5, 0.8])
        factors = 1 - spread + 2 * spread * u[4:7]
        shift = 0.4 * float(u[7]) - 0.2
        want = x.astype(np.float64)
        for operation in order:
            if operation == 3:
                want = np.asarray(multispectral.shift_hue(jnp.asarray(want, jnp.float32), shift), np.float64)
                continue
            towards = [np.zeros_like(want), grey(want).mean() + 0 * want, grey(want) + 0 * want][operation]
            want = np.clip(factors[operation] * want + (1 - factors[operation]) * towards, 0, 1)
        np.testing.assert_allclose(jitter(u, x=x), want, atol=1e-5)
        orders.add(tuple(order))
    assert len(orders) > 15


def test_strength_of_the_jitter(rng):
    """Each operation alone, colours in mid range so that nothing is cut: its factor read back from many images."""
    x = (0.4 + 0.2 * images(rng, 200, (4, 4), 9)).astype(np.float32)
    names = ("brightness", "contrast", "saturation")
    always = dataclasses.replace(PLAIN, jitter_probability=1, **NO_JITTER)
    thirds = [tuple(range(3 * i, 3 * i + 3)) for i in range(3)]
    parts = [dataclasses.replace(always, channels=c, **{n: 0.4}) for n, c in zip(names, thirds, strict=True)]
    out = np.asarray(augment(jax.random.key(0), x, Spec(STILL, parts)))
    for name, third in zip(names, thirds, strict=True):
        rgb, new = x[..., third], out[..., third]
        mean = grey(rgb).mean((1, 2), keepdims=True)
        towards = {"brightness": 0 * rgb, "contrast": mean + 0 * rgb, "saturation": grey(rgb) + 0 * rgb}[name]
        factor = ((new - towards) * (rgb - towards)).sum((1, 2, 3)) / np.square(rgb - towards).sum((1, 2, 3))
        np.testing.assert_allclose(new, towards + factor[:, None, None, None] * (rgb - towards), atol=2e-6)
        assert 0.599 < factor.min() < 0.65 and 1.35 < factor.max() < 1.401
        assert abs(factor.mean() - 1) < 0.06


@pytest.mark.parametrize(
    "changes",
    [
        {"jitter_probability": 1, "brightness": 0, "contrast": 0, "saturation": 0.9, "hue": 0.5},
        {"jitter_probability": 1, "grayscale_probability": 0.5, "blur_probability": 1},
    ],
    ids=["hue and saturation", "all"],
)
def test_colour_touches_its_three_channels_only(rng, changes):
    x = images(rng, channels=7)
    channels = (5, 0, 3)
    out = np.asarray(augment(jax.random.key(0), x, only(PLAIN, channels=channels, **changes)))
    others = np.setdiff1d(np.arange(7), channels)
    np.testing.assert_array_equal(out[..., others], x[..., others])
    assert (np.abs(out - x)[..., channels].mean((1, 2)) > 1e-4).all()
    # What the other channels hold does not matter, and the three are read in the order that they are named in.
    alone = np.ascontiguousarray(x[..., channels])
    again = augment(jax.random.key(0), alone, only(PLAIN, **changes))
    np.testing.assert_allclose(again, out[..., channels], atol=1e-6)


def test_grayscale_and_hue(rng):
    x = images(rng)
    hue = dataclasses.replace(PLAIN, channels=(3, 4, 5), jitter_probability=1, **(NO_JITTER | {"hue": 0.1}))
    spec = Spec(STILL, (dataclasses.replace(PLAIN, grayscale_probability=1), hue))
    out = np.asarray(augment(jax.random.key(0), x, spec))
    np.testing.assert_allclose(out[..., :3], np.repeat(grey(x), 3, -1), atol=1e-6)
    assert (np.abs(out - x)[..., 3:].mean((1, 2, 3)) > 1e-4).all()
    for measure in (np.max, np.min):  # value, and with it chroma, stay
        np.testing.assert_allclose(measure(out[..., 3:], -1), measure(x[..., 3:], -1), atol=1e-6)


def test_blur_equals_scipy(rng):
    x, sigmas = images(rng), (0.1, 2.0)
    always = dataclasses.replace(PLAIN, blur_probability=1)
    parts = [
        dataclasses.replace(always, channels=c, blur_sigma=(v, v))
        for c, v in zip(((0, 1, 2), (3, 4, 5)), sigmas, strict=True)
    ]
    out = augment(jax.random.key(0), x, Spec(STILL, parts))
    for i, sigma in enumerate(sigmas):
        mine, radius = x[..., 3 * i : 3 * i + 3].astype(np.float64), int(np.ceil(3 * sigma))
        want = ndimage.gaussian_filter(mine, sigma, mode="nearest", radius=radius, axes=(1, 2))
        np.testing.assert_allclose(out[..., 3 * i : 3 * i + 3], want, atol=1e-6)


def test_noise_and_gamma(rng):
    x = np.full((60, 12, 10, 6), 0.5, np.float32)
    out = np.asarray(augment(jax.random.key(0), x, only(QUIET, noise_probability=1)))
    np.testing.assert_array_equal(out[..., :3], x[..., :3])
    noise = (out - x)[..., 3:]
    assert abs(noise.std() - 0.1) < 0.002 and abs(noise.mean()) < 0.002
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05

    x = (0.1 + 0.8 * images(rng, 200, (4, 4))).astype(np.float32)
    out = np.asarray(augment(jax.random.key(0), x, only(QUIET, gamma_probability=1)))
    np.testing.assert_array_equal(out[..., :3], x[..., :3])
    gamma = np.log(out[..., 3:]) / np.log(x[..., 3:])
    np.testing.assert_allclose(gamma, gamma[:, :1, :1, :1] + 0 * gamma, atol=1e-4)
    gamma = gamma.mean((1, 2, 3))
    assert 0.799 < gamma.min() < 0.82 and 1.18 < gamma.max() < 1.201


def test_probabilities(rng):
    """Each operation on channels of its own: how many of 1,000 images it changes."""
    n = 1000
    x = images(rng, n, (4, 4), 11)
    parts = (
        (dataclasses.replace(PLAIN, jitter_probability=0.8), 0.8),
        (dataclasses.replace(PLAIN, channels=(3, 4, 5), grayscale_probability=0.2), 0.2),
        (dataclasses.replace(PLAIN, channels=(6, 7, 8), blur_probability=0.5, blur_sigma=(1, 2)), 0.5),
        (dataclasses.replace(QUIET, channels=(9,), noise_probability=0.3), 0.3),
        (dataclasses.replace(QUIET, channels=(10,), gamma_probability=0.6), 0.6),
    )
    moved = np.asarray(augment(jax.random.key(0), x, Spec(STILL, [part for part, _ in parts]))) != x
    shares = [(moved[..., part.channels].any((1, 2, 3)).mean(), p) for part, p in parts]
    keys = jax.random.split(jax.random.key(0), n)
    still = np.float32([[1, 0, 1.5], [0, 1, 1.5]])
    for name, p in (("crop_probability", 0.7), ("rotation_probability", 0.4)):
        matrices = np.asarray(draws(keys, dataclasses.replace(STILL, **{name: p}), (4, 4)))
        shares.append(((matrices != still).any((1, 2)).mean(), p))
    for share, p in shares:
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_defaults_are_those_of_methods():
    colour, band, geometry = Colour(), Intensity(), Geometry()
    assert (colour.brightness, colour.contrast, colour.saturation, colour.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (colour.jitter_probability, colour.grayscale_probability, colour.blur_probability) == (
        0.8,
        0.2,
        0.5,
    )
    assert (band.noise_sigma, band.noise_probability, band.gamma_probability) == (0.1, 0.3, 0.5)
    assert band.gamma == (0.8, 1.2) and geometry.degrees == 15 and geometry.flip_probability == 0.5
    assert Spec().modalities == (colour, band)


def test_two_views(rng):
    x = images(rng, size=(6, 6))
    views = jax.jit(multispectral.two_views, static_argnames="spec")
    one, two = views(jax.random.key(0), x, Spec())
    assert one.shape == two.shape == x.shape
    assert (np.abs(one - two).mean((1, 2, 3)) > 1e-3).all()
    still = np.repeat(coordinates(6, 6)[None], 4, 0)
    for view in views(jax.random.key(0), still, Spec(Geometry(), ())):  # within a view, one geometry
        np.testing.assert_array_equal(view[..., :2], view[..., 2:])


def test_lists_are_taken_and_specs_hash():
    spec = Spec(Geometry(crop_area=[0.2, 1.0]), [Colour(channels=[0, 1, 2]), Intensity(channels=[3])])
    same = Spec(Geometry(crop_area=(0.2, 1.0)), (Colour(channels=(0, 1, 2)), Intensity(channels=(3,))))
    assert spec == same and hash(spec) == hash(same)


def test_mistakes_are_one_line(rng):
    x = images(rng, channels=4)
    for call, message in (
        (lambda: Colour(channels=(0, 1)), "must be three"),
        (lambda: Intensity(channels=(1, 1)), "must be different"),
        (lambda: Intensity(channels=()), "at least one"),
        (lambda: Colour(blur_probability=1.5), "Colour.blur_probability=1.5 must be 0 … 1"),
        (lambda: Colour(hue=0.6), "Colour.hue=0.6 must be 0 … 0.5"),
        (lambda: Colour(blur_sigma=(-1, 2)), "must not be negative"),
        (lambda: Intensity(gamma=(1.2, 0.8)), "a minimum and a maximum"),
        (lambda: Intensity(gamma=(0, 1)), "must begin above 0"),
        (lambda: Intensity(noise_sigma=-1), "noise_sigma=-1 must be at least 0"),
        (lambda: Geometry(crop_area=(0.1, 2)), "at most 1"),
        (lambda: Geometry(degrees=200), "degrees=200 must be 0 … 180"),
        (lambda: multispectral.augment(jax.random.key(0), x, Spec()), "names channel 5, the images have 4"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="images are uint8"):
        multispectral.augment(jax.random.key(0), np.zeros((1, 4, 4, 6), np.uint8), Spec())
