"""Images of any number of channels through transforms and batches; three channels as before."""

import numpy as np
import pytest
from PIL import Image

from fusionjax import config as config_lib
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.errors import UserError


class Bands:
    name, split, class_names, columns = "made", "train", ("a", "b"), {}
    labels, names = np.asarray([0, 1, 0], np.int32), list("xyz")

    def __init__(self, dtype, channels=6):
        self.dtype = np.dtype(dtype)
        rng = np.random.default_rng(0)
        self.images = (200 * rng.uniform(size=(3, 12, 16, channels))).astype(dtype)

    def __len__(self):
        return 3

    def load(self, i):
        return self.images[i]


def data(**fields):
    c = config_lib.default()
    c.data.modalities, c.data.mean, c.data.std = (("rgb", (0, 1, 2)), ("uv", (3, 4, 5))), (), ()
    c.data.resize = c.data.image_size = 8
    c.data.augment.crop, c.data.augment.flip, c.data.threads = "none", 0.0, 1
    for key, value in fields.items():
        section, _, name = key.rpartition("__")
        (c.data[section] if section else c.data)[name] = value
    return config_lib.validate(c).data


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_batches_have_the_dtype_and_channels_of_the_source(dtype):
    source = Bands(dtype)
    (batch,) = pipeline.eval_batches(source, data(), batch_size=4)
    assert batch["image"].shape == (4, 8, 8, 6) and batch["image"].dtype == dtype
    assert batch["valid"].tolist() == [1, 1, 1, 0] and not batch["image"][3].any()
    stream = pipeline.train_dataset(source, data(), seed=0, batch_size=3)
    np.testing.assert_array_equal(np.sort(next(stream)["index"]), [0, 1, 2])
    stream.close()


def test_every_channel_is_resized_as_it_would_be_alone():
    image = Bands(np.float32, 7).images[0]
    for size in ((6, 8), (5, 7), (20, 31)):
        found = transforms.resize(image, *size)
        assert found.shape == (*size, 7)
        for c in range(7):
            alone = transforms.resize(np.ascontiguousarray(image[..., c : c + 1]), *size)
            np.testing.assert_allclose(found[..., c : c + 1], alone, rtol=1e-5)


def test_three_channels_are_what_they_were():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (13, 17, 3), np.uint8)
    want = np.asarray(Image.fromarray(image).resize((11, 9), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(transforms.resize(image, 9, 11), want)
    c = config_lib.default().data
    assert transforms.channels(c) == 3 and transforms.mean_colour(c) == (124, 116, 104)
    assert pipeline.dtype_of(object()) == np.uint8


def test_crop_and_flip_move_all_channels_together_and_padding_is_the_nearest_pixel():
    c = data(augment__crop="random_resized", augment__flip=1.0)
    image = np.arange(12 * 16, dtype=np.float32).reshape(12, 16, 1) * np.ones(6, np.float32)
    out = transforms.train_transform(c)(image, np.random.default_rng(0))
    assert out.shape == (8, 8, 6) and np.ptp(out, axis=2).max() == 0 and out[0, 0, 0] > out[0, -1, 0]
    padded = transforms.pad(image, 2, None)
    assert (
        padded.shape == (16, 20, 6)
        and padded[0, 0, 0] == image[0, 0, 0]
        and padded[-1, -1, 5] == image[-1, -1, 5]
    )


def test_an_image_of_other_channels_is_named():
    source = Bands(np.uint8, 5)
    with pytest.raises(UserError, match=r"3 of 3.*\(12, 16, 5\), not \(H, W, 6\)"):
        list(pipeline.eval_batches(source, data(), batch_size=3))


def test_operations_of_rgb_are_refused():
    with pytest.raises(UserError, match=r"data.augment.jitter=0.4 .*RGB"):
        data(augment__jitter=0.4)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_channels_make_a_picture(channels):
    for dtype in (np.uint8, np.uint16, np.float32):
        made = transforms.picture_of(Bands(dtype, channels).images[0])
        assert made.shape == (12, 16, 3) and made.dtype == np.uint8 and np.ptp(made) > 100
