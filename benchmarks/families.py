r"""Forward pass and train step of one model a family, jitted, against its original (timm, transformers) in eager PyTorch.

    python benchmarks/families.py --families=vit_small_patch16_224,resnet50 --batch=8 --repeats=5

A train step is forward, backward and an SGD update of every parameter; the loss is the output's mean square; convolutional
networks use and update their batch statistics; nothing is dropped. Float32. The two contestants of a family live in
processes of their own and take turns, so that a drift of the machine's speed meets both. Needs torch, timm and transformers;
`--compile` runs the originals through torch.compile. Prints a Markdown table: median milliseconds, the median over the
repeats of ours to theirs, and the seconds that our first calls took beyond a steady one (compilation).
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

FAMILIES = (
    "vit_small_patch16_224",
    "deit_tiny_patch16_224",
    "resnet50",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "crossvit_9_240",
    "bert_base_uncased",
    "distilbert_base_uncased",
    "clip_vit_base_patch32",
    "wav2vec2_base",
)
WORDS, SAMPLES, RATE = 128, 32_000, 1e-3
KINDS = ("forward", "step")


def batch_of(name: str, batch: int):
    """The input: images (B, h, w, 3), word numbers (B, 128) or two seconds of sound (B, 32000)."""
    import numpy as np

    rng = np.random.default_rng(0)
    if "bert" in name:
        return rng.integers(1, 30_522, (batch, WORDS)).astype(np.int32)
    if name.startswith("wav2vec2"):
        return rng.standard_normal((batch, SAMPLES)).astype(np.float32)
    size = int(name.rpartition("_")[2]) if name.startswith("crossvit") else 224
    return rng.standard_normal((batch, size, size, 3)).astype(np.float32)


def jax_calls(name: str, batch: int):
    """One function a kind, which does it once and waits for it."""
    import jax
    import jax.numpy as jnp

    from fusionjax.models import create

    fields = {}
    if "bert" in name:
        fields = dict(dropout=0.0, attention_dropout=0.0, pooler=False)
    elif name.startswith("wav2vec2"):
        fields = dict(dropout=0.0)
    elif name.startswith("crossvit"):
        fields = dict(drop_path_rate=0.0)
    module = create(name, **fields)
    how = dict(method="encode_image") if name.startswith("clip") else {}
    x = jnp.asarray(batch_of(name, batch))
    # CrossViT wants a key even where nothing is dropped.
    training = dict(train=True, rngs={"dropout": jax.random.key(1)}, **how)
    # Initialised for one example: CLIP without its text tower.
    variables = jax.jit(lambda key: module.init(key, x[:1], **how))(jax.random.key(0))
    forward = jax.jit(lambda variables, x: module.apply(variables, x, **how)[0])

    def step(variables, x):
        rest = {key: value for key, value in variables.items() if key != "params"}

        def loss(params):
            (output, _), new = module.apply({"params": params, **rest}, x, mutable=list(rest), **training)
            return jnp.square(output).mean(), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], gradient)
        return {"params": params, **new}, value

    step = jax.jit(step, donate_argnums=0)

    def once():
        nonlocal variables
        variables, value = step(variables, x)
        return float(value)

    return {"forward": lambda: forward(variables, x).block_until_ready(), "step": once}


def original(name: str):
    """The reference model, and a function of (model, input) that gives the output to square."""
    import transformers

    if "bert" in name:
        if name.startswith("distil"):
            config = transformers.DistilBertConfig(dropout=0.0, attention_dropout=0.0)
            model = transformers.DistilBertModel(config)
        else:
            config = transformers.BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            model = transformers.BertModel(config, add_pooling_layer=False)
        return model, lambda model, x: model(input_ids=x.long()).last_hidden_state
    if name.startswith("wav2vec2"):
        off = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
        config = transformers.Wav2Vec2Config(**dict.fromkeys(off, 0.0), apply_spec_augment=False)
        return transformers.Wav2Vec2Model(config), lambda model, x: model(x).last_hidden_state
    if name.startswith("clip"):
        import torch

        patch = int(name.removeprefix("clip_vit_base_patch"))
        config = transformers.CLIPVisionConfig(patch_size=patch, projection_dim=512)
        model = transformers.CLIPVisionModelWithProjection(config)
        return model, lambda model, x: torch.nn.functional.normalize(model(pixel_values=x).image_embeds)
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.parity import torchvision_stub

    torchvision_stub.install()
    import timm

    # timm's own batch statistics momentum and no dropout are the defaults.
    return timm.create_model(name), lambda model, x: model(x)


def torch_calls(name: str, batch: int, compiled: bool, threads: int):
    """As `jax_calls`."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, output = original(name)
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    x = torch.from_numpy(batch_of(name, batch))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x

    def forward():
        model.eval()
        with torch.inference_mode():
            return output(model, x)

    def step():
        model.train()
        optimizer.zero_grad()
        loss = output(model, x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"forward": forward, "step": step}


def contestant(ours: bool, name: str, batch: int, compiled: bool, threads: int, pipe) -> None:
    """Builds the model, then does what each message names and answers the seconds it took; ends at an empty message."""
    calls = jax_calls(name, batch) if ours else torch_calls(name, batch, compiled, threads)
    pipe.send("ready")
    while kind := pipe.recv():
        began = time.perf_counter()
        calls[kind]()
        pipe.send(time.perf_counter() - began)


def ask(pipe, message: str) -> float:
    """The answer to a message."""
    pipe.send(message)
    return pipe.recv()


def measure(name: str, arguments: argparse.Namespace) -> str:
    """One row of the table."""
    context = multiprocessing.get_context("spawn")
    pipes, workers, first = {}, [], {}
    for who in ("ours", "theirs"):  # one after the other: first calls are timed on an idle machine
        pipes[who], other = context.Pipe()
        fixed = (who == "ours", name, arguments.batch, arguments.compile, arguments.threads, other)
        workers.append(context.Process(target=contestant, args=fixed, daemon=True))
        workers[-1].start()
        # Only the child keeps its end: if it dies, recv raises instead of waiting.
        other.close()
        pipes[who].recv()
        for kind in KINDS:
            first[who, kind] = ask(pipes[who], kind)
            ask(pipes[who], kind)
    times = {(who, kind): [] for kind in KINDS for who in pipes}
    for _ in range(arguments.repeats):
        for who, kind in times:
            times[who, kind].append(ask(pipes[who], kind))
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send("")
        worker.join()
    cells = [name]
    for kind in KINDS:
        ours, theirs = times["ours", kind], times["theirs", kind]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        cells += [f"{1e3 * statistics.median(each):.0f}" for each in (ours, theirs)] + [f"{ratio:.2f}"]
    compilation = (first["ours", kind] - statistics.median(times["ours", kind]) for kind in KINDS)
    return "| " + " | ".join([*cells, *(f"{seconds:.1f}" for seconds in compilation)]) + " |"


def main() -> None:
    """Measures the families one after another and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--families", default=",".join(FAMILIES), help="model names, with commas between")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; JAX takes what the machine has")
    parser.add_argument("--compile", action="store_true", help="torch.compile the originals")
    arguments = parser.parse_args()
    mode = "torch.compile" if arguments.compile else "eager"
    print(
        f"Batch {arguments.batch}, float32, {arguments.repeats} repeats, PyTorch {mode} with {arguments.threads} threads; "
        f"text of {WORDS} tokens, sound of {SAMPLES / 16_000:.0f} s.\n"
    )
    titles = (
        "model",
        "forward ms",
        "original",
        "ratio",
        "train step ms",
        "original",
        "ratio",
        "compile s",
        "of step s",
    )
    print("| " + " | ".join(titles) + " |")
    print("|---" + "|---:" * (len(titles) - 1) + "|")
    for name in arguments.families.split(","):
        print(measure(name, arguments), flush=True)


if __name__ == "__main__":
    main()
