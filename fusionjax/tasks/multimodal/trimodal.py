"""One label for an image, a sound and a text, any of which may be missing; see docs/methods/multimodal.md."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets.manifest import HAS_IMAGE
from fusionjax.data.loading.auxiliary import Auxiliary, AuxiliaryGroup, AuxiliaryRows
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.evaluation import classification
from fusionjax.interpret import maps as maps_lib
from fusionjax.interpret import modality_maps
from fusionjax.models import registry
from fusionjax.models.methods.trimodal_with_encoders import subsets
from fusionjax.tasks.base import multispectral_inputs
from fusionjax.tasks.base.class_scorer import ClassScorer
from fusionjax.tasks.base.explanations import spread
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import Encoder, ImageModel
from fusionjax.tasks.base.objectives import ExampleLoss, class_weights
from fusionjax.tasks.base.protocol import (
    Batch,
    Evaluated,
    Facts,
    ReportFields,
    Say,
    Shown,
    Task,
    Variables,
    silent,
)
from fusionjax.tasks.image_text.fusion import FusionObjective
from fusionjax.tasks.image_text.text_inputs import TextInputs
from fusionjax.tasks.multimodal import trimodal_model
from fusionjax.tasks.multimodal.audio_inputs import AudioInputs


def create(config: ConfigDict, facts: Facts) -> Task:
    """Classification by up to three modalities, the tasks trimodal and audiovisual. Also scored with every subset of them, the
    others missing.

    Args:
        config: of the whole run, validated.
        facts: of the data.

    Raises:
        UserError: a model that cannot be built, or texts or sounds that are missing.
    """
    modalities = tuple(config.trimodal.modalities)
    audio = AudioInputs(config, facts) if "audio" in modalities else None
    text = TextInputs(config, facts) if "text" in modalities else None
    module = trimodal_model.module(
        config,
        len(facts.class_names),
        None if audio is None else audio.module,
        None if text is None else text.module,
    )
    multispectral_inputs.check(config, facts.splits.values())
    inputs = MultimodalInputs(ImageInputs(config), modalities, audio, text, _marks_images(facts))
    model = ImageModel(
        config,
        module,
        inputs.images,
        arguments=inputs.init_arguments,
        encoders=_encoders(audio, text),
        frozen=(*_frozen(config, modalities), *(() if audio is None else audio.frozen)),
        grid=getattr(module, "grid", None),
    )
    chosen = subsets(modalities)
    branches = (*("_".join(s) for s in chosen[:-1]), "combined")
    predict = SubsetPredictor(model, inputs, dict(zip(branches, chosen, strict=True)))
    pairings = tuple(module.fusion.pairings)
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        FusionObjective(
            model, inputs, ExampleLoss(config, class_weights(config, facts.class_names, facts.train))
        ),
        ClassScorer(config, facts.class_names, predict, branches),
        (SubsetSection(len(facts.class_names), predict.subsets, pairings), SoundSection(audio)),
        MultimodalExplanation(model, inputs, pairings),
    )


def _encoders(audio: AudioInputs | None, text: TextInputs | None) -> dict[str, Encoder]:
    """The published encoders of the modalities that are read."""
    found = {}
    if text is not None:
        found["text"] = Encoder("text.encoder", text.weights)
    if audio is not None:
        family = registry.family_of(audio.module)
        new = () if family is None else family.unpublished
        found["audio"] = Encoder("audio.source", audio.weights, new)
    return found


def _frozen(config: ConfigDict, modalities: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the encoders that do not train."""
    freeze = {
        "^trunk/": "image" in modalities and config.model.freeze_trunk,
        "^audio/": "audio" in modalities and config.audio.freeze,
        "^text/": "text" in modalities and config.text.freeze,
    }
    return tuple(pattern for pattern, frozen in freeze.items() if frozen)


def _marks_images(facts: Facts) -> bool:
    """Whether the data have a column that marks the examples with an image."""
    return facts.train is not None and HAS_IMAGE in facts.train.columns


@dataclasses.dataclass(frozen=True, eq=False)
class MultimodalInputs:
    """See `protocol.Inputs`.

    Attributes:
        images: of the task.
        modalities: that the model reads.
        audio, text: None for a modality that is not read.
        marks_images: whether the data have a column that marks the examples with an image.
    """

    images: ImageInputs
    modalities: tuple[str, ...]
    audio: AudioInputs | None
    text: TextInputs | None
    marks_images: bool

    @property
    def reads_text(self) -> bool:
        """See `Inputs`."""
        return self.text is not None

    @property
    def reads_sound(self) -> bool:
        """See `Inputs`."""
        return self.audio is not None

    def init_arguments(self) -> dict[str, Any]:
        """Arguments of `module.init` other than the images."""
        found = {} if self.audio is None else self.audio.arguments({"label": jnp.zeros(1)})
        if self.text is not None:
            found |= {"tokens": jnp.zeros((1, 8), jnp.int32), "text_mask": jnp.ones((1, 8), bool)}
        return found

    def padding_example(self) -> Example:
        """See `Inputs.padding_example`."""
        found: Example = {}
        if self.text is not None:
            found |= self.text.padding_example()
        if self.audio is not None:
            found |= self.audio.padding_example()
        if "image" in self.modalities and self.marks_images:
            found["image_present"] = np.zeros((), np.int32)
        return found

    def prepare(
        self,
        split: str,
        source: Source,
        variables: Variables,
        *,
        folder: Path | None = None,
        say: Say = silent,
    ) -> Auxiliary | None:
        """See `Inputs.prepare`."""
        parts: list[Auxiliary] = []
        if self.text is not None:
            texts = self.text.texts(source)
            parts.append(self.text.rows(texts, variables["params"]["text"], folder=folder, say=say))
        if self.audio is not None:
            parts.append(self.audio.rows(source))
        if "image" in self.modalities and HAS_IMAGE in source.columns:
            there = np.asarray(source.columns[HAS_IMAGE], np.int32)
            parts.append(AuxiliaryRows(lambda index, epoch: index, image_present=there))
        return AuxiliaryGroup(*parts) if parts else None

    def from_user(
        self,
        variables: Variables,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Auxiliary | None:
        """See `Inputs.from_user`."""
        parts: list[Auxiliary] = []
        if self.text is not None and texts is not None:
            parts.append(self.text.rows(self.text.from_user(texts), variables["params"]["text"]))
        if self.audio is not None and sounds is not None:
            parts.append(self.audio.from_user(sounds))
        return AuxiliaryGroup(*parts) if parts else None

    def arguments(self, batch: Batch, variables: Variables) -> dict[str, Any]:
        """See `Inputs.arguments`."""
        found = self.images.arguments(batch, variables) if "image" in self.modalities else {}
        if "image_present" in batch:
            found["present"] = {"image": batch["image_present"]}
        if self.audio is not None:
            found |= self.audio.arguments(batch)
        if self.text is not None:
            found |= {key: batch[key] for key in ("text", "tokens", "text_mask") if key in batch}
        return found

    def words(
        self, source: Source | None, index: Sequence[int], texts: Sequence[str] | None = None
    ) -> list[list[str]]:
        """See `explanations.Legible`."""
        return [[] for _ in index] if self.text is None else self.text.words_of(source, index, texts)

    def spectrogram(self, batch: Batch) -> tuple[jax.Array, jax.Array] | None:
        """See `explanations.Legible`."""
        return None if self.audio is None else self.audio.spectrogram(batch)

    def seconds(self, frames: int) -> float:
        """See `explanations.Legible`."""
        return 0.0 if self.audio is None else self.audio.seconds(frames)

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the tokenizer's files, of every text and of the sounds."""
        texts = {} if self.text is None else self.text.fingerprint()
        return texts | ({} if self.audio is None else self.audio.fingerprint())

    def warnings(self) -> list[str]:
        """Warnings about damaged and silent sounds, and about the texts."""
        lines = []
        for name, rows in ({} if self.audio is None else self.audio.made).items():
            split = name.removeprefix("eval/")
            if not rows.total:
                lines.append(f"no example of {split} has a sound")
            for what, found in (("could not be read", rows.bad), ("are silent", rows.silent)):
                if found.count:
                    lines.append(
                        f"{found.count} sounds of {split} {what}, their examples were taken as without sound: "
                        f"{'; '.join(found.messages)}"
                    )
        made = () if self.text is None else self.text.made.values()
        return [*lines, *dict.fromkeys(line for texts in made for line in texts.warnings)]


@dataclasses.dataclass(frozen=True, eq=False)
class SubsetPredictor:
    """Class probabilities with every subset of the modalities.

    Attributes:
        model, inputs: of the task.
        subsets: branch → the modalities that it reads.
    """

    model: ImageModel
    inputs: MultimodalInputs
    subsets: Mapping[str, tuple[str, ...]]

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """ "probabilities/<subset>" (B, C), of all modalities "probabilities/combined"; see `protocol.Scorer.predict`."""
        found = self.model.infer(variables, **self.inputs.arguments(batch, variables), method="by_subset")
        return {f"probabilities/{name}": jax.nn.softmax(found[own]) for name, own in self.subsets.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class MultimodalExplanation:
    """See `protocol.Explanation`: the attention between the modalities.

    Attributes:
        model, inputs: of the task.
        pairings: <to>_from_<of>, of the cross-attention layers.
    """

    model: ImageModel
    inputs: MultimodalInputs
    pairings: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Explanation`."""
        return (*(f"reads/{p}" for p in self.pairings), "mask/", "sound/")

    def explain(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `Explanation.explain`.

        Returns:
            The probabilities and, mean of the heads, "reads/<pairing>" (B, N_to, N_of); "mask/<modality>", the tokens that
            count; of sounds "sound/mel" and "sound/own".
        """
        arguments = self.inputs.arguments(batch, variables)
        output, aux = self.model.infer(variables, **arguments, train=False, capture=("attention",))
        out = {"probabilities/combined": jax.nn.softmax(output)}
        out |= {f"reads/{pairing}": maps.mean(1) for pairing, maps in aux["attention"].items()}
        out |= {f"mask/{m}": mask for m, mask in aux["mask"].items()}
        if self.inputs.audio is not None:
            out["sound/mel"], out["sound/own"] = self.inputs.audio.spectrogram(batch)
        return out

    def figures(self, source: Source, shown: Sequence[Shown]) -> ReportFields:
        """See `Explanation.figures`."""
        made = modality_maps.figure([self._explained(source, *one) for one in spread(shown)])
        title = "Attention between " + ", ".join(self.inputs.modalities)
        return {} if made is None else {"figures": [(title, modality_maps.TEXT, made)]}

    def _explained(
        self, source: Source, example: maps_lib.Example, index: int, found: Mapping[str, np.ndarray]
    ) -> modality_maps.ModalityExample:
        words, sound, seconds, kept = [], None, 0.0, {}
        if self.inputs.text is not None:
            texts = self.inputs.text.texts(source)
            words = self.inputs.text.words(texts, texts.row(None, index))
            kept["text"] = found["mask/text"] > 0
        if self.inputs.audio is not None:
            kept["audio"], sound = found["mask/audio"] > 0, found["sound/mel"][found["sound/own"] > 0]
            seconds = self.inputs.audio.seconds(len(sound))
        maps = {}
        for pairing in self.pairings:
            map = found[f"reads/{pairing}"]
            to, of = (kept.get(kind, slice(None)) for kind in pairing.split("_from_"))
            maps[pairing] = map[to][:, of]
        return modality_maps.ModalityExample(
            name=example.name, true=example.true, predicted=example.predicted, probability=example.probability,
            image=example.image if "image" in self.inputs.modalities else None, grid=self.model.grid or (1, 1),
            words=words, sound=sound, seconds=seconds, maps=maps,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class SubsetSection:
    """See `protocol.ReportSection`: accuracy by the modalities that are present at test.

    Attributes:
        classes: C.
        subsets: branch → the modalities that it reads.
        pairings: of the cross-attention layers.
    """

    classes: int
    subsets: Mapping[str, tuple[str, ...]]
    pairings: tuple[str, ...]

    def __call__(self, run: Evaluated) -> ReportFields:
        """Results, and a table."""
        rows = []
        for split, by_branch in run.results.items():
            for name, subset in self.subsets.items():
                found: classification.Result = by_branch[name]
                low, high = found.accuracy_interval
                interval = f"{100 * low:.1f} – {100 * high:.1f} %"
                rows.append((split, " + ".join(subset), found.accuracy, interval))
        modalities = ", ".join(self.subsets["combined"])
        pairings = ", ".join(p.replace("_from_", " ← ") for p in self.pairings) or "none"
        heads = ("split", "modalities", "accuracy", "95 %")
        return {
            "task": f"One of {self.classes} classes by {modalities}. Cross-attention: {pairings}.",
            "results": run.results,
            "tables": [("Accuracy by the modalities at test, the others missing", heads, rows)],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class SoundSection:
    """See `protocol.ReportSection`: formats of the sound files on disk.

    Attributes:
        audio: None for a model without sound.
    """

    audio: AudioInputs | None

    def __call__(self, run: Evaluated) -> ReportFields:
        """A table."""
        rows = [
            (name.removeprefix("eval/"), f"{rate:,} Hz", f"{channels}", f"{count:,}")
            for name, sounds in ({} if self.audio is None else self.audio.made).items()
            for (rate, channels), count in sorted(Counter(sounds.formats.values()).items())
        ]
        title = "Sound files that were read; all become 16,000 Hz and the mean of their channels"
        return {"tables": [(title, ("split", "rate", "channels", "files"), rows)]} if rows else {}
