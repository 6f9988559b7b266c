"""One label for an image, a sound and a text, any of which may be missing (docs/methods/multimodal.md)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets.manifest import HAS_IMAGE
from fusionjax.data.image.transforms import image_shape
from fusionjax.data.loading.auxiliary import Both, Extra, Rows
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.evaluation import classification
from fusionjax.interpret import maps as maps_lib
from fusionjax.interpret import modality_maps
from fusionjax.models.methods.multimodal import subsets
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.class_task import ClassTask
from fusionjax.tasks.base.image_task import Array, Batch, Outputs, PyTree, average
from fusionjax.tasks.image_text.fusion import spread
from fusionjax.tasks.image_text.text_inputs import TextSide
from fusionjax.tasks.multimodal.audio_inputs import AudioSide
from fusionjax.train import losses


class Trimodal(ClassTask):
    """Classification by up to three modalities. Also scored with every subset of them, the others missing.

    Args:
        config: of the whole run, validated.
        class_names: one a class.

    Attributes:
        modalities: that the model reads.
    """

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        self.modalities = tuple(config.trimodal.modalities)
        self.sound = AudioSide(config) if "audio" in self.modalities else None
        self.side = TextSide(config, class_names) if "text" in self.modalities else None
        audio, text = (side and side.module for side in (self.sound, self.side))
        super().__init__(
            config, class_names, model_factory.trimodal_model(config, len(class_names), audio, text)
        )
        self.subsets = subsets(self.modalities)
        self.branches = (*("_".join(s) for s in self.subsets[:-1]), "combined")
        self.score_names = (*ClassTask.score_names, *(f"accuracy_{b}" for b in self.branches[:-1]))
        self.example_keep = (*(f"reads/{p}" for p in self.module.fusion.pairings), "mask/", "sound/")
        self._sounds: dict[str, Any] = {}

    # -- weights ----------------------------------------------------------------------------------------------------------

    def init(self, key: Array) -> dict[str, PyTree]:
        """Fresh variables."""
        images = jnp.zeros((1, *image_shape(self.config.data), 3), jnp.float32)
        given = {} if self.sound is None else self.sound.inputs({"label": jnp.zeros(1)})
        if self.side is not None:
            given |= {"tokens": jnp.zeros((1, 8), jnp.int32), "text_mask": jnp.ones((1, 8), bool)}
        return self.module.init({"params": key}, images, **given)

    def load_pretrained(
        self, variables: dict[str, PyTree], weights: PyTree | None = None, log=lambda text: None
    ) -> dict[str, PyTree]:
        """As every image task; also the published weights of the encoders of text and sound."""
        variables = super().load_pretrained(variables, weights, log)
        found = {
            "text": self.side and self.side.weights(),
            "audio": self.sound and self.sound.weights(),
        }
        return {
            **variables,
            "params": variables["params"] | {k: v for k, v in found.items() if v is not None},
        }

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that must not move, weight decay included."""
        c = self.config
        still = {
            "^trunk/": "image" in self.modalities and c.model.freeze_trunk,
            "^audio/": self.sound is not None and c.audio.freeze,
            "^text/": self.side is not None and self.side.freeze,
        }
        return tuple(pattern for pattern, frozen in still.items() if frozen)

    # -- data -------------------------------------------------------------------------------------------------------------

    def check(self, sources: Mapping[str, Source]) -> None:
        """Also makes the texts of every split."""
        super().check(sources)
        for source in sources.values():
            if self.side is not None:
                self.side.texts(source)
            if self.sound is not None:
                self.sound.rows(source)

    def padding(self, sources: Mapping[str, Source]) -> Example:
        """See `ImageTask`."""
        source = next(iter(sources.values()))
        words = {} if self.side is None else self.side.padding(source)
        sound = {} if self.sound is None else self.sound.padding()
        seen = "image" in self.modalities and HAS_IMAGE in source.columns
        return words | sound | ({"image_present": np.zeros((), np.int32)} if seen else {})

    def extras(
        self,
        sources: Mapping[str, Source],
        variables: dict[str, PyTree],
        *,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Extra]:
        """See `ImageTask`."""
        found: dict[str, Extra] = {}
        for name, source in sources.items():
            parts: list[Extra] = []
            if self.side is not None:
                texts = self.side.texts(source)
                parts.append(self.side.rows(texts, variables["params"]["text"], folder=folder, say=say))
            if self.sound is not None:
                self._sounds[name] = self.sound.rows(source)
                parts.append(self._sounds[name])
            if "image" in self.modalities and HAS_IMAGE in source.columns:
                there = np.asarray(source.columns[HAS_IMAGE], np.int32)
                parts.append(Rows(lambda index, epoch: index, image_present=there))
            if parts:
                found[name] = Both(*parts)
        return found

    def given(
        self,
        texts: Sequence[str] | None,
        variables: dict[str, PyTree],
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Extra | None:
        """See `ImageTask`."""
        parts: list[Extra] = []
        if self.side is not None and texts is not None:
            parts.append(self.side.rows(self.side.given(texts), variables["params"]["text"]))
        if self.sound is not None and sounds is not None:
            parts.append(self.sound.given(sounds))
        return Both(*parts) if parts else None

    @property
    def reads_text(self) -> bool:
        """Whether an example has a text of its own."""
        return self.side is not None

    @property
    def reads_sound(self) -> bool:
        """Whether an example may have a sound."""
        return self.sound is not None

    def warnings(self) -> list[str]:
        """Sounds that are damaged or silent, and what there is to say of the texts."""
        lines = []
        for name, rows in self._sounds.items():
            if not rows.total:
                lines.append(f"no example of {name.removeprefix('eval/')} has a sound")
            for what, found in (("could not be read", rows.bad), ("are silent", rows.silent)):
                if found.count:
                    lines.append(
                        f"{found.count} sounds of {name.removeprefix('eval/')} {what}, their examples were taken as without "
                        f"sound: {'; '.join(found.messages)}"
                    )
        made = [] if self.side is None else [texts for _, texts in self.side.made()]
        return [*lines, *dict.fromkeys(line for texts in made for line in texts.warnings)]

    # -- steps ------------------------------------------------------------------------------------------------------------

    def inputs(
        self, batch: Batch, variables: Mapping[str, PyTree] = MappingProxyType({})
    ) -> dict[str, Array]:
        """What the module takes, from what the host sends."""
        found = super().inputs(batch, variables) if "image" in self.modalities else {}
        if "image_present" in batch:
            found["present"] = {"image": batch["image_present"]}
        if self.sound is not None:
            found |= self.sound.inputs(batch)
        if self.side is not None:
            found |= {key: batch[key] for key in ("text", "tokens", "text_mask") if key in batch}
        return found

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch.

        Args:
            variables: of the model.
            batch: `image` or `features`; what `extras` adds; `label`, `valid`.
            key: for dropout and modality dropout.
            groups: not read.
        """
        mutable = [name for name in variables if name != "params"]
        (output, _), new = self.module.apply(
            variables, **self.inputs(batch), train=True, rngs={"dropout": key}, mutable=mutable
        )
        valid, label = batch["valid"], batch["label"]
        loss = losses.masked_mean(self.example_losses(output, label), valid)
        return loss, ({"accuracy": average(output.argmax(-1) == label, valid)}, new)

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every example: "probabilities/<subset>" (B, C), of all modalities "probabilities/combined"."""
        found = self.module.apply(variables, **self.inputs(batch), method="by_subset")
        return {
            f"probabilities/{name}": jax.nn.softmax(found[subset])
            for name, subset in zip(self.branches, self.subsets, strict=True)
        }

    def explain(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """The answer and, mean of the heads, "reads/<pairing>" (B, N_to, N_of); "mask/<modality>", the tokens that count."""
        output, aux = self.module.apply(variables, **self.inputs(batch), train=False, capture=("attention",))
        out = {"probabilities/combined": jax.nn.softmax(output)}
        out |= {f"reads/{pairing}": maps.mean(1) for pairing, maps in aux["attention"].items()}
        out |= {f"mask/{m}": mask for m, mask in aux["mask"].items()}
        if self.sound is not None:
            out["sound/mel"], out["sound/own"] = self.sound.spectrogram(batch)
        return out

    # -- report -----------------------------------------------------------------------------------------------------------

    def report(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent` that are this task's."""
        rows = []
        for split, by_branch in results.items():
            for name, subset in zip(self.branches, self.subsets, strict=True):
                found: classification.Result = by_branch[name]
                low, high = found.accuracy_interval
                rows.append(
                    (split, " + ".join(subset), found.accuracy, f"{100 * low:.1f} – {100 * high:.1f} %")
                )
        pairings = ", ".join(p.replace("_from_", " ← ") for p in self.module.fusion.pairings) or "none"
        return {
            "task": f"One of {len(self.class_names)} classes by {', '.join(self.modalities)}. Who reads whom: {pairings}.",
            "results": results,
            "tables": [
                (
                    "Accuracy by the modalities at test, the others missing",
                    ("split", "modalities", "accuracy", "95 %"),
                    rows,
                ),
                *self._formats(),
            ],
        }

    def _formats(self) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
        """A table of the sound files that were read, as they are on disk."""
        rows = [
            (name.removeprefix("eval/"), f"{rate:,} Hz", f"{channels}", f"{count:,}")
            for name, sounds in self._sounds.items()
            for (rate, channels), count in sorted(Counter(sounds.formats.values()).items())
        ]
        title = "Sound files that were read; all become 16,000 Hz and the mean of their channels"
        return [(title, ("split", "rate", "channels", "files"), rows)] if rows else []

    def explanations(
        self, source: Source, shown: Sequence[tuple[maps_lib.Example, int, Mapping[str, np.ndarray]]]
    ) -> dict[str, Any]:
        """A figure of what the modalities read of each other; see `ImageTask`."""
        made = modality_maps.figure([self._explained(source, *one) for one in spread(shown)])
        title = "Attention between " + ", ".join(self.modalities)
        return {} if made is None else {"figures": [(title, modality_maps.TEXT, made)]}

    def _explained(
        self, source: Source, example: maps_lib.Example, index: int, found: Mapping[str, np.ndarray]
    ) -> modality_maps.ModalityExample:
        words, sound, kept = [], None, {}
        if self.side is not None:
            texts = self.side.texts(source)
            words = self.side.words(texts, texts.row(None, index))
            kept["text"] = found["mask/text"] > 0
        if self.sound is not None:
            kept["audio"], sound = found["mask/audio"] > 0, found["sound/mel"][found["sound/own"] > 0]
        maps = {}
        for pairing in self.module.fusion.pairings:
            map = found[f"reads/{pairing}"]
            to, of = (kept.get(kind, slice(None)) for kind in pairing.split("_from_"))
            maps[pairing] = map[to][:, of]
        return modality_maps.ModalityExample(
            name=example.name, true=example.true, predicted=example.predicted, probability=example.probability,
            image=example.image if "image" in self.modalities else None, grid=self.grid, words=words, sound=sound,
            seconds=0.0 if sound is None else self.sound.seconds(len(sound)), maps=maps,
        )  # fmt: skip


class AudioVisual(Trimodal):
    """Classification of what is seen and heard; `Trimodal` without text."""
