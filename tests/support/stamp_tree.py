"""A small folder in the layout of Tux Paint's stamps."""

from pathlib import Path

import cv2
import numpy as np

from tests.support.sounds import encoded, sine

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="60pt" height="30pt"><rect width="80" height="40" fill="#0000ff"/></svg>'
CAPTIONS = {"de": "Ein Ding {0}.", "fr": "Une chose {0}.", "zh_CN": "东西 {0}"}


def stamps(root: Path) -> Path:
    """Two classes of ten stamps, each with a captions in four languages, French speech, English for every other one."""
    for k, folder in enumerate(("animals/mammals/dogs", "vehicles")):
        for i in range(10):
            stamp(
                root,
                f"{folder}/{'abcdefghij'[i]}thing",
                100 * k + i,
                f"A {'dog' if k == 0 else 'car'}, kind {k}{i}.",
            )
    return root


def stamp(root: Path, name: str, seed: int, caption: str, *, spoken: bool = True) -> None:
    """One stamp: a red disc of its own size on nothing, captions, speech and for even seeds a sound."""
    path = root / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((40, 30, 4), np.uint8)
    cv2.circle(picture, (15, 20), 3 + seed % 10, (0, 0, 255, 255), -1)
    picture[0, 0, :3] = seed  # different bytes, hidden by the transparency
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    lines = [caption, *(f"{tag}.utf8={text.format(seed)}" for tag, text in CAPTIONS.items())]
    (root / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not spoken:
        return
    sound(root / f"{name}_desc_fr.ogg", 200 + seed)
    if seed % 2 == 0:
        sound(root / f"{name}_desc.ogg", 600 + seed)
        sound(root / f"{name}.ogg", 1_000 + seed)


def sound(path: Path, hertz: float) -> None:
    """A fifth of a second of a tone."""
    suffix = path.suffix[1:].upper()
    path.write_bytes(encoded(sine(hertz, 0.2, 8_000), 8_000, suffix))
