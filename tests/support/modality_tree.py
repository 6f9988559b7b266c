"""A manifest of image, sound and text for tests: every one of them tells the class, and some rows lack one."""

import cv2
import numpy as np
import soundfile

from tests.support import pictures, sounds

CLASSES = ("blue", "green", "red")
WORDS = ("a", "thing", "of", "colour", *CLASSES)
HERTZ = (300, 900, 2700)
ODD = {
    "green0": "silent",
    "green1": "stereo",
    "green2": "8 kHz",
    "red0": "damaged",
    "red1": "no sound",
    "red2": "no caption",
}
"""Training example → what is the matter with it."""


def write(root, *, per_class=12, images_missing=False):
    """Writes pictures, sounds and things.csv; returns the manifest.

    Args:
        root: folder.
        per_class: examples of each class: the first two thirds train, the rest test.
        images_missing: the second and the last example of each class have no picture.
    """
    rng, lines = np.random.default_rng(0), ["path,label,split,caption,audio"]
    for k, name in enumerate(CLASSES):
        for i in range(per_class):
            key = f"{name}{i}"
            odd = ODD.get(key, "")
            cv2.imwrite(str(root / f"{key}.png"), pictures.coloured(rng, k))
            samples = sounds.sine(HERTZ[k], 0.2 + 0.02 * i) + 0.01 * rng.standard_normal(
                round(16_000 * (0.2 + 0.02 * i))
            )
            rate = 16_000
            if odd == "silent":
                samples = np.zeros(4_000)
            elif odd == "stereo":
                samples = np.stack([samples, samples], 1)
            elif odd == "8 kHz":
                samples, rate = sounds.sine(HERTZ[k], 0.3, rate=8_000), 8_000
            soundfile.write(root / f"{key}.wav", samples, rate)
            if odd == "damaged":
                (root / f"{key}.wav").write_bytes((root / f"{key}.wav").read_bytes()[:2_000])
            caption = "" if odd == "no caption" else f"a thing of colour {name}"
            audio = "" if odd == "no sound" else f"{key}.wav"
            path = "" if images_missing and i in (1, per_class - 1) else f"{key}.png"
            lines.append(f"{path},{name},{'train' if i < 2 * per_class // 3 else 'test'},{caption},{audio}")
    (root / "things.csv").write_text("\n".join(lines) + "\n")
    return root / "things.csv"
