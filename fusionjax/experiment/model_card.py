"""The model card of an exported run, as the Hugging Face hub reads it: metadata in YAML, then text in Markdown.

It has only what the run has measured and recorded. What a card cannot know, such as the licence of one's own images, it names
as not known.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fusionjax import register
from fusionjax._version import __version__
from fusionjax.evaluation import per_example, significance
from fusionjax.evaluation.per_example import PerExample
from fusionjax.models.packages import PACKAGES
from fusionjax.pretrained import hub
from fusionjax.register import Sharing

_CLASSES = 20
"""Names of classes that the card lists; config.json has all."""
_NOT_SCORES = ("step", "seconds", "cautions")
_LICENCE = "not-stated"
_EMBEDS = "image-feature-extraction"


def text(
    content: Mapping[str, Any],
    scores: Mapping[str, Any],
    outcomes: PerExample,
    *,
    parameters: int,
    licence: str = "",
    repository: str = "",
) -> str:
    """The card.

    Args:
        content: of the exported config.json.
        scores: of results.json.
        outcomes: the results of each example.
        parameters: number of the model's parameters.
        licence: identifier of the licence of the weights; "" for none stated.
        repository: owner/name of its place on the hub; "" for a placeholder.
    """
    config, repository = content["config"], repository or "OWNER/NAME"
    measured = intervals(outcomes)
    parts = [
        f"# {_title(content)}",
        _introduction(content, parameters),
        _cautions(scores.get("cautions", ())),
        _results(scores, outcomes, measured),
        _use(content, repository),
        _limits(content),
        _data(content),
        _training(config, content, int(scores.get("step", 0))),
        _licences(config, licence),
    ]
    metadata = _metadata(content, outcomes, measured, licence)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def intervals(outcomes: PerExample) -> dict[str, tuple[float, tuple[float, float]]]:
    """Score, without its split → its value and 95 % interval over the examples, as in the report.

    Where all examples have the same value, the bootstrap has no width: Wilson's interval takes its place.
    """
    found = {}
    for name, values in outcomes.measures.items():
        low, high = significance.mean_interval(values)
        if low == high and per_example.is_binary(name):
            low, high = significance.wilson_interval(float(values.mean()), len(values))
        found[str(per_example.score_of(name))] = float(values.mean()), (low, high)
    return found


def _metadata(
    content: Mapping[str, Any],
    outcomes: PerExample,
    measured: Mapping[str, tuple[float, tuple[float, float]]],
    licence: str,
) -> str:
    config, data_set = content["config"], _slug(content.get("data_set", "")) or "own-data"
    tag, source = _sharing(config).pipeline_tag, _source(config)
    results = [
        dict(
            task_type=tag or "other", dataset_type=data_set, dataset_name=data_set, dataset_split=outcomes.split,
            metric_type=score, metric_value=round(value, 6),
            metric_name=f"{score} (95 % interval {low:.4f} to {high:.4f}, {len(outcomes.names)} examples)",
        )
        for score, (value, (low, high)) in measured.items()
    ]  # fmt: skip
    fields = dict(
        license=licence or "other",
        license_name=None if licence else _LICENCE,
        license_link=None if licence else "README.md",
        library_name="fusionjax",
        pipeline_tag=tag or None,
        tags=["fusionjax", "jax", _slug(config["task"]), _slug(config["model"]["name"])],
        datasets=[data_set],
        metrics=list(measured) or None,
        base_model=_repository(source) if source.startswith("hub:") else None,
        model_name=_title(content).replace("\\", "") if results else None,
    )
    return hub.card_metadata(fields, results)


def _title(content: Mapping[str, Any]) -> str:
    data_set = content.get("data_set") or "own data"
    return f"{_plain(content['config']['model']['name'])} on {_plain(data_set)}"


def _introduction(content: Mapping[str, Any], parameters: int) -> str:
    config, names = content["config"], content["class_names"]
    use = _sharing(config).use
    shown = ", ".join(map(_plain, names[:_CLASSES]))
    more = f" and {len(names) - _CLASSES:,} more" if len(names) > _CLASSES else ""
    model = f"A model of fusionjax {__version__} with {parameters:,} parameters."
    return f"{use} {model}\n\n{len(names):,} classes: {shown}{more}.".strip()


def _cautions(said: Sequence[str]) -> str:
    return (
        "\n".join(["## Before you use these numbers", "", *(f"- {_plain(line)}" for line in said)])
        if said
        else ""
    )


def _results(
    scores: Mapping[str, Any],
    outcomes: PerExample,
    measured: Mapping[str, tuple[float, tuple[float, float]]],
) -> str:
    split, lines = outcomes.split, ["| score | value | 95 % interval |", "|---|---|---|"]
    known = {f"{split}/{name}": interval for name, (_, interval) in measured.items()}
    numbers = {k: v for k, v in scores.items() if k not in _NOT_SCORES and isinstance(v, int | float)}
    bounds = {f"{name}_{bound}" for name in numbers for bound in ("low", "high")}
    numbers = {k: v for k, v in numbers.items() if k not in bounds}
    for name in sorted(numbers, key=lambda name: (name not in known, not name.startswith(f"{split}/"))):
        width = f"{known[name][0]:.4f} to {known[name][1]:.4f}" if name in known else ""
        lines.append(f"| {_plain(name)} | {numbers[name]:.4f} | {width} |")
    note = (
        f"Measured on {len(outcomes.names):,} examples of the split “{_plain(split)}”; shares are fractions. The interval is "
        "a bootstrap over the examples: it covers their choice, not the variation between training runs. Names with "
        "`baseline/` are references on the same examples."
    )
    return "\n".join(["## Results", "", *lines, "", note])


def _use(content: Mapping[str, Any], repository: str) -> str:
    config = content["config"]
    extra = ' --text="…"' if "text.encoder" in _sharing(config).files else ""
    shell = f"pip install fusionjax\nfusionjax predict --workdir=hub:{repository} photo.jpg{extra}"
    if _sharing(config).pipeline_tag == _EMBEDS:
        python = 'run.embed(["photo.jpg"])'
    else:
        python = 'run.predict(["photo.jpg"])[0].classes'
    return f"""## How to use it

```bash
{shell}
```

```python
import fusionjax

run = fusionjax.load("hub:{repository}")
{python}
```

A downloaded copy of this folder takes the place of `hub:{repository}`. Another run starts from these weights with
`--config.pretrained.source=hub:{repository}`."""


def _limits(content: Mapping[str, Any]) -> str:
    tag, names = (
        _sharing(content["config"]).pipeline_tag,
        len(content["class_names"]),
    )
    lines = []
    if tag != _EMBEDS:
        lines = [
            f"It answers with one of its {names:,} classes for any image, also for one of none of them: it does not reject.",
            "Its probabilities are not calibrated.",
        ]
    lines += [
        "It was measured on images of the same origin as those it was trained on. Other cameras, places or times were not "
        "measured, nor any group of people.",
        "It is for research and for uses in which a wrong answer does no harm, unless you have tested it for yours.",
    ]
    return "\n".join(["## Intended use and limits", "", *(f"- {line}" for line in lines)])


def _data(content: Mapping[str, Any]) -> str:
    data = content["config"]["data"]
    images = ", ".join(f"{_plain(name)} {count:,}" for name, count in content.get("images", {}).items())
    size = "×".join(map(str, data["image_shape"] or (data["image_size"],) * 2))
    steps = [
        f"resized to {size}"
        if data["image_shape"]
        else f"shorter side resized to {data['resize']}, centre crop of {size}"
    ]
    if data["resize_mode"] != "shorter" and not data["image_shape"]:
        steps = [f"resized to {size} ({data['resize_mode']})"]
    steps.append(f"{data['interpolation']} interpolation")
    if data["mean"]:
        steps.append(
            f"mean {_numbers(data['mean'])} and standard deviation {_numbers(data['std'])} of pixels in 0 … 1"
        )
    if data["modalities"]:
        steps.append(
            "channels "
            + "; ".join(f"{_plain(str(m[0]))}: {_plain(str(list(m[1])))}" for m in data["modalities"])
        )
    reader = f"`{data['source']}`" + (f", {_plain(data['builder'])}" if data["builder"] else "")
    lines = [
        f"- data set: {_plain(content.get('data_set') or 'not named')} (reader {reader})",
        f"- images: {images or 'not recorded'}",
        f"- an image at prediction: {', '.join(steps)}",
        f"- augmentation in training: `{json.dumps(data['augment'])}`",
    ]
    return "\n".join(["## Training data and preprocessing", "", *lines])


def _training(config: Mapping[str, Any], content: Mapping[str, Any], step: int) -> str:
    optim, source, environment = config["optim"], _source(config), content.get("environment", {})
    start = f"from `{source}`" + (
        f" in `{config['pretrained']['into']}`" if config["pretrained"]["into"] else ""
    )
    lines = [
        f"- weights of step {step:,} of {content.get('steps', step):,}, batches of {config['train']['batch_size']}",
        f"- {optim['name']}, learning rate {optim['learning_rate']:g}, weight decay {optim['weight_decay']:g}, "
        f"seed {config['seed']}",
        f"- started {start if source else 'from scratch'}",
        f"- fusionjax {environment.get('fusionjax', '')}, jax {environment.get('jax', '')}, {environment.get('device', '')}",
        "- config.json has every field",
    ]
    return "\n".join(["## Training", "", *map(str.rstrip, lines)])


def _licences(config: Mapping[str, Any], licence: str) -> str:
    source = _source(config)
    own = f"`{licence}`" if licence else "not stated by who exported the run"
    lines = [f"- these weights: {own}; they derive from the weights and data below, whose terms hold too"]
    for name in filter(None, (source, *_texts(config))):
        lines.append(f"- {name}: {_licence_of(name)}")
    data = register.datasets.get(config["data"]["source"]).licence
    lines.append(f"- training data: {data or 'their authors’ terms; fusionjax does not know them'}")
    lines.append("- fusionjax: Apache 2.0")
    return "\n".join(["## Licences", "", *lines])


def _texts(config: Mapping[str, Any]) -> list[str]:
    """Other encoders that the model contains, by their public names."""
    fields = _sharing(config)
    found = []
    for field in (*fields.files, *fields.weights):
        section, _, key = field.partition(".")
        value = config.get(section, {}).get(key, "")
        found.append(value if value.startswith(("hub:", "package:")) else "")
    return found


def _licence_of(source: str) -> str:
    if source.startswith("package:"):
        known = PACKAGES.get(source.removeprefix("package:"))
        if known is not None and known.licence:
            return known.licence
    if source.startswith("hub:"):
        return f"see https://huggingface.co/{_repository(source)}"
    return "not known"


def _sharing(config: Mapping[str, Any]) -> Sharing:
    return register.tasks.get(config["task"]).sharing


def _repository(source: str) -> str:
    return re.sub("[@#].*", "", source.removeprefix("hub:"))


def _source(config: Mapping[str, Any]) -> str:
    return str(config["pretrained"]["source"])


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:64]


def _plain(name: str) -> str:
    """Text in Markdown as it is, on one line."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(name).split()))
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", line)
