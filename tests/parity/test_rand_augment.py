"""RandAugment's operations against timm's: the same pixels for the same amount."""

import numpy as np
import pytest
from PIL import Image

from tests.parity import torchvision_stub

torchvision_stub.install()

from timm.data import auto_augment  # noqa: E402

from fusionjax.data.image import rand_augment as ours  # noqa: E402
from tests.support import trees  # noqa: E402

THEIRS = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


def test_the_set_is_timms():
    assert list(THEIRS.values()) == auto_augment._RAND_INCREASING_TRANSFORMS
    assert list(THEIRS) == list(ours.OPERATIONS)


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("level", [0.0, 0.35, 0.9, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operation(name, level, sign, monkeypatch):
    picture = Image.fromarray(trees.picture(7, 60, 48))
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda v: sign * v)
    arguments = auto_augment.LEVEL_TO_ARG[THEIRS[name]]
    args = arguments(10 * level, {"translate_pct": 0.45}) if arguments else ()
    if name == "posterize":  # timm's highest level asks for no bit, which today's Pillow refuses
        args = (max(1, args[0]),)
    fill = {"fillcolor": (1, 2, 3), "resample": Image.Resampling.BICUBIC}
    want = auto_augment.NAME_TO_OP[THEIRS[name]](picture, *args, **fill)
    np.testing.assert_array_equal(
        np.asarray(ours.apply(picture, name, level, sign, (1, 2, 3))), np.asarray(want)
    )
