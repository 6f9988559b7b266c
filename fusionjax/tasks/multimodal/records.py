"""The records of the tasks "trimodal", "audiovisual" and "vqa": their config sections, their rules and what they read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from fusionjax.config import impossible, require_one_of, require_within
from fusionjax.register import Sharing, TaskRecord
from fusionjax.tasks.base import fields
from fusionjax.tasks.image_text import records as image_text

if TYPE_CHECKING:
    from fusionjax.tasks.base.protocol import Facts, Task


def trimodal_section() -> ConfigDict:
    """Which modalities a model reads, and which of them attend to each other."""
    c = ConfigDict()
    c.modalities = ("image", "audio", "text")  # what the model reads; audiovisual has no text
    c.pairings = ("image_from_audio", "audio_from_image", "text_from_image")  # <query>_from_<keys>
    c.hidden = 256  # of the classifier
    c.modality_dropout = 0.0  # probability that training hides a modality of an example
    return c


def audio_section() -> ConfigDict:
    """The encoder of sounds and their augmentation."""
    c = ConfigDict()
    c.encoder = "mel"  # mel, a small one over log-mel frames, from scratch; wav2vec2_base
    c.source = ""  # wav2vec2_base: its weights, as pretrained.source
    c.freeze = False  # the encoder does not train
    c.seconds = 4.0  # of a clip: a longer sound is cut, a shorter one masked
    c.width, c.depth, c.heads = 128, 2, 4  # mel
    c.dropout = 0.1
    c.gain = 6.0  # decibels, ±
    c.noise = 0.5  # probability of noise, 15 to 40 dB below the sound
    c.shift = 0.1  # seconds, ±
    c.hide_frames = c.hide_bands = 0.1  # SpecAugment: share of frames and, with mel, of mel bands
    c.memory = 256  # MiB of decoded sounds that a split keeps
    return c


def build_trimodal(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`; of audiovisual too."""
    from fusionjax.tasks.multimodal import trimodal

    return trimodal.create(config, facts)


def check_trimodal(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    image_text.check_text(config)
    _check_audio(config)
    if config.text.kind != "instance":
        raise impossible(config, "text.kind", "the task trimodal reads the example's own caption: instance")


def trimodal_reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`. Fields of a modality that trimodal.modalities leaves out, an ablation, may stay."""
    text = ("text.encoder", "text.freeze", "text.max_tokens", "text.allow_empty")
    return (*audiovisual_reads(config), *text)


def check_audiovisual(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    _check_audio(config)
    if "text" in config.trimodal.modalities:
        raise impossible(
            config,
            "trimodal.modalities",
            "the task audiovisual reads image and audio, or one of them",
        )


def audiovisual_reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`; as `trimodal_reads`, without text."""
    audio = ["encoder", "freeze", "seconds", "dropout", "gain", "noise", "shift", "hide_frames", "memory"]
    audio += ["width", "depth", "heads", "hide_bands"] if config.audio.encoder == "mel" else ["source"]
    return (*fields.CLASS_LOSS, "trimodal.*", *(f"audio.{key}" for key in audio))


def _check_audio(config: ConfigDict) -> None:
    from fusionjax.models.backbones import audio  # heavy

    require_one_of(config, "audio.encoder", "mel", *audio.NAMES)
    require_within(config, "audio.seconds", 0, 600, open_low=True)
    require_within(config, "trimodal.modality_dropout", 0, 0.999)
    require_within(config, "audio.dropout", 0, 0.999)
    for key in ("audio.width", "audio.heads", "trimodal.hidden"):
        require_within(config, key, 1)
    require_within(config, "audio.depth", 0, 1024)  # its blocks are traced one by one
    for key in ("audio.gain", "audio.shift", "audio.memory"):
        require_within(config, key, 0)
    for key in ("audio.noise", "audio.hide_frames", "audio.hide_bands"):
        require_within(config, key, 0, 1)
    if config.audio.encoder == "mel" and config.audio.source:
        raise impossible(
            config,
            "audio.source",
            "there are no weights of mel: choose another audio.encoder",
        )


_TRIMODAL_MODEL = {
    "trimodal": (
        "width", "heads", "dropout", "remat", "freeze_trunk", "trunk_norm", "trunk", "trunk_features",
    )
}  # fmt: skip
TRIMODAL = TaskRecord(
    "trimodal",
    build_trimodal,
    sections={"trimodal": trimodal_section, "audio": audio_section, "text": image_text.text_section},
    check=check_trimodal,
    reads=trimodal_reads,
    builds=_TRIMODAL_MODEL,
    sharing=Sharing(
        "Names the class of an image with its sound and its caption, any of which may be missing.",
        "image-classification",
        files=("text.encoder",),
        weights=("audio.source",),
    ),
)
AUDIOVISUAL = TaskRecord(
    "audiovisual",
    build_trimodal,
    sections={"trimodal": trimodal_section, "audio": audio_section},
    check=check_audiovisual,
    reads=audiovisual_reads,
    builds=_TRIMODAL_MODEL,
    sharing=Sharing(
        "Names the class of an image with its sound, either of which may be missing.",
        "image-classification",
        weights=("audio.source",),
    ),
)


def build_vqa(config: ConfigDict, facts: "Facts") -> "Task":
    """See `TaskRecord`."""
    from fusionjax.tasks.multimodal import vqa

    return vqa.create(config, facts)


def check_vqa(config: ConfigDict) -> None:
    """See `TaskRecord`."""
    data = config.data
    image_text.check_fusion(config)
    if data.questions not in ("captions", "columns"):
        raise impossible(config, "data.questions", "the task vqa asks questions: choose captions or columns")
    require_within(config, "data.answers", 2)
    require_within(config, "data.answer_pictures", 1)
    # "What is this?" is answered with the noun of an English sentence.
    nouns = data.questions == "captions" and "what" in (data.question_types or ("what",))
    if nouns and tuple(data.languages[:1]) != ("en",):
        raise impossible(
            config, "data.languages", "questions are made from English captions: 'en' comes first"
        )
    if config.text.kind != "instance":
        raise impossible(config, "text.kind", "vqa reads its questions as text.kind='instance'")


def vqa_reads(config: ConfigDict) -> Sequence[str]:
    """See `TaskRecord`. Its targets are shares of answers: cross-entropy alone."""
    questions = ("data.questions", "data.answers", "data.answer_pictures")
    loss = ("loss.label_smoothing", "loss.class_weights")
    text = ("text.encoder", "text.freeze", "text.max_tokens")
    return (*questions, *loss, *image_text.fusion_fields(config), *text)


VQA = TaskRecord(
    "vqa",
    build_vqa,
    sections={"fusion": image_text.fusion_section, "text": image_text.text_section},
    check=check_vqa,
    reads=vqa_reads,
    builds=image_text.FUSION_MODEL,
    sharing=Sharing(
        "Answers a question about an image with one of the answers that it was trained on.",
        "visual-question-answering",
        files=("text.encoder",),
    ),
)
