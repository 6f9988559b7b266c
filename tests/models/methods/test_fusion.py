"""Image–text fusion: every head and the whole model against NumPy, padding to the bit, baselines, a shared text."""

import functools

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.models import parameters
from fusionjax.models.backbones.text import TextConfig, TextEncoder
from fusionjax.models.methods import fusion, fusion_heads, token_blocks
from fusionjax.models.methods.fusion import FusionClassifier
from fusionjax.tasks.image_text import fusion_model
from tests.models.methods.test_cross_attention import draw
from tests.support import fusion_oracle

GRID, MAPS = (2, 3), ("image_to_text", "text_to_image")
MASK = np.arange(7) < np.array([7, 3, 1])[:, None]
VARIANTS = [
    ("concat", {}),
    ("adaptive", {}),
    ("adaptive", {"gate": "channel"}),
    ("bilinear", {"chunk": 5}),
    ("bilinear", {"form": "hadamard"}),
    ("attention", {}),
    ("attention", {"residual": True}),
    ("bottleneck", {"mlp_ratio": 2.0}),
    ("low_rank", {"rank": 3}),
]


def model(**fields):
    common = dict(grid=GRID, num_classes=4, width=16, depth=2, heads=2, mlp_ratio=1.0, text_block=4)
    return FusionClassifier(**{**common, **fields})


@functools.partial(jax.jit, static_argnums=0, static_argnames=("capture", "train"))
def run(module, variables, *inputs, capture=(), train=False, key=None):
    """Compiled once a module and shape, for all tests."""
    rngs = {} if key is None else {"dropout": key}
    return module.apply(variables, *inputs, capture=capture, train=train, rngs=rngs)


def variables_of(module, *inputs):
    return draw(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs)))


@pytest.fixture
def inputs(rng):
    image, text = (rng.standard_normal(s).astype(np.float32) for s in ((3, 6, 10), (3, 7, 9)))
    return image, text, MASK


def blocks_of(text, mask):
    return token_blocks.split(jnp.asarray(text), jnp.asarray(mask), 4)


@pytest.mark.parametrize(
    "name, options", VARIANTS, ids=[f"{name}-{'-'.join(options)}" for name, options in VARIANTS]
)
def test_heads_equal_the_equations(rng, name, options):
    head = fusion_heads.create(name, 16, options=options, heads=2)
    image, text = (rng.standard_normal(s).astype(np.float32) for s in ((3, 6, 16), (3, 7, 16)))
    v, t = image.mean(1), fusion_oracle.mean(text, MASK).astype(np.float32)
    inputs = (v, t, image, blocks_of(text, MASK))
    variables = draw(jax.eval_shape(lambda: head.init(jax.random.key(0), *inputs, train=False)))
    out, _ = run(head, variables, *inputs)
    expected = fusion_oracle.HEADS[name](
        variables.get("params", {}), np.float64(v), np.float64(t), d=16, h=2, mask=MASK, image=image,
        text=text, **{k: x for k, x in options.items() if k == "residual"},
    )  # fmt: skip
    assert out.shape == (3, head.out_width) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_every_head_has_a_test_and_an_oracle():
    assert {name for name, _ in VARIANTS} == set(register.fusion_heads.names()) == set(fusion_oracle.HEADS)


@pytest.mark.parametrize("name", ["concat", "bottleneck"])
def test_the_whole_model_equals_the_equations(inputs, name):
    module = model(head=name)
    variables = variables_of(module, *inputs)
    logits, aux = run(module, variables, *inputs, capture=MAPS)
    expected, *maps = fusion_oracle.fusion(variables["params"], *inputs, grid=GRID, h=2, head=name)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert aux["image_to_text"].shape == (2, 3, 2, 6, 7)
    np.testing.assert_allclose(aux["image_to_text"], maps[0], atol=1e-5)
    padded = ~MASK[None, :, None, :, None]
    np.testing.assert_allclose(aux["text_to_image"], np.where(padded, 0, maps[1]), atol=1e-5)
    whole = module.clone(text_block=0)
    np.testing.assert_allclose(run(whole, variables, *inputs)[0], logits, atol=1e-4)


def longer(text, mask, length, filling=np.nan):
    pad = ((0, 0), (0, length - text.shape[1]))
    return np.pad(text, (*pad, (0, 0)), constant_values=filling), np.pad(mask, pad)


@pytest.mark.parametrize(
    "head, options, lengths",
    [
        ("concat", {}, (16, 33, 64, 128)),
        ("bottleneck", {"depth": 1}, (33,)),
        *((name, {}, (40,)) for name in ("adaptive", "bilinear", "attention", "low_rank")),
    ],
)
def test_padding_moves_no_bit(rng, head, options, lengths):
    depth = 2 if head == "concat" else 1
    module = model(head=head, head_options=options, text_block=16, width=32, depth=depth)
    image, text = (rng.standard_normal(s).astype(np.float32) for s in ((3, 6, 10), (3, 5, 9)))
    mask = np.arange(5) < np.array([5, 3, 0])[:, None]
    variables = variables_of(module, image, text, mask)
    logits, aux = run(module, variables, image, text, mask)
    assert np.isfinite(logits).all()
    for length in lengths:
        out, seen = run(module, variables, image, *longer(text, mask, length))
        np.testing.assert_array_equal(out, logits)
        np.testing.assert_array_equal(seen["features"], aux["features"])
    # The plain reductions do move: without blocks the same paddings change the rounding.
    if head == "concat":
        plain = module.clone(text_block=0)
        results = [run(plain, variables, image, *longer(text, mask, length))[0] for length in (5, 16, 128)]
        assert any((out != results[0]).any() for out in results)
        np.testing.assert_allclose(results[-1], logits, atol=1e-4)


@pytest.mark.parametrize("block", [0, 4])
def test_what_stands_in_the_padding_moves_no_bit(inputs, block):
    image, text, mask = inputs
    module = model(head="bottleneck", text_block=block, depth=1)
    variables = variables_of(module, *inputs)
    logits, _ = run(module, variables, *inputs)
    for filling in (0, 1e30, np.nan, np.inf):
        other = np.where(mask[..., None], text, np.float32(filling))
        np.testing.assert_array_equal(run(module, variables, image, other, mask)[0], logits)
    # A token that counts does move it.
    other = text.copy()
    other[1, 2] += 1
    moved = np.abs(run(module, variables, image, other, mask)[0] - logits).max(1) > 1e-4
    np.testing.assert_array_equal(moved, [False, True, False])


def test_padding_moves_no_bit_in_training_either(inputs):
    module = model(dropout=0.3, depth=1)
    variables, key = variables_of(module, *inputs), jax.random.key(3)
    image, text, mask = inputs
    one, _ = run(module, variables, *inputs, train=True, key=key)
    two, _ = run(module, variables, image, *longer(text, mask, 19), train=True, key=key)
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - run(module, variables, *inputs)[0]).max() > 1e-2


def test_a_gradient_reaches_every_parameter_and_all_are_finite(inputs):
    image, text, mask = inputs
    mask = mask & (np.arange(3) < 2)[:, None]  # a text of which nothing counts
    module = model(head="bottleneck", head_options={"depth": 1}, depth=1)
    variables = variables_of(module, *inputs)
    grads = jax.jit(jax.grad(lambda v: (module.apply(v, image, text, mask)[0] ** 2).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all(), path
        # A bias of the keys adds the same to all scores of a row.
        assert np.abs(leaf).max() > 0 or "key" in str(path), path


@pytest.mark.parametrize("mode, factor", [("concat", 2), ("image", 1), ("text", 1)])
def test_baselines_are_means_of_projections(inputs, mode, factor):
    image, text, mask = inputs
    module = model(mode=mode)
    given = (image if mode != "text" else None, *((text, mask) if mode != "image" else (None, None)))
    variables = variables_of(module, *given)
    params = variables["params"]
    assert set(params) == {"classifier"} | {f"{m}_proj" for m in ("image", "text") if mode in (m, "concat")}
    logits, aux = run(module, variables, *given)
    parts = []
    if mode != "text":
        parts.append(fusion_oracle.linear(params["image_proj"], image).mean(1))
    if mode != "image":
        parts.append(fusion_oracle.mean(fusion_oracle.linear(params["text_proj"], text), mask))
    fused = np.concatenate(parts, -1)
    assert aux["features"].shape == (3, factor * 16)
    np.testing.assert_allclose(aux["features"], fused, atol=1e-4)
    np.testing.assert_allclose(
        logits, fusion_oracle.classifier(params["classifier"], fused), rtol=1e-4, atol=1e-4
    )
    if mode != "image":
        given = (given[0], *longer(text, mask, 40))
        np.testing.assert_array_equal(run(module, variables, *given)[0], logits)


def test_a_bank_is_the_same_text_for_every_image(inputs):
    image, text, _ = inputs
    module = model()
    variables = variables_of(module, *inputs)
    bank, mask = text[0], np.arange(7) < 5
    each = (np.repeat(text[:1], 3, 0), np.repeat(mask[None], 3, 0))
    expected, seen = run(module, variables, image, *each, capture=MAPS)
    logits, aux = run(module, variables, image, bank, mask, capture=MAPS)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for name in MAPS:
        np.testing.assert_allclose(aux[name], seen[name], atol=1e-5)
    wide, _ = run(module, variables, image, *longer(bank[None], mask[None], 30), capture=MAPS)
    np.testing.assert_array_equal(wide, logits)
    concat = model(mode="concat")
    variables = variables_of(concat, *inputs)
    one, two = (run(concat, variables, image, *given)[0] for given in ((bank, mask), each))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_bank_is_projected_once_for_the_image_that_reads_it_first(inputs):
    image, text, mask = inputs
    module = model()
    variables = variables_of(module, *inputs)

    def sizes(tokens, counts):
        """Rows of every product with a (16, 16) kernel of the attention."""
        program = jax.make_jaxpr(lambda *a: module.apply(variables, *a)[0])(image, tokens, counts)
        found = []

        def visit(jaxpr):
            for equation in jaxpr.eqns:
                if equation.primitive.name == "dot_general" and equation.invars[1].aval.shape == (16, 16):
                    found.append(equation.invars[0].aval.shape[0])
                for inner in jax.extend.core.jaxprs_in_params(equation.params):
                    visit(inner)

        visit(program.jaxpr)
        return found

    # Blocks of 4 tokens: 4 rows for the bank, 12 for three texts.
    assert sizes(text[0], mask[0]).count(4) >= 2 and sizes(text, mask).count(4) == 0


def test_gates_sum_to_one_and_survive_saturation(inputs):
    head = fusion_heads.create("adaptive", 16, heads=2)
    v = jnp.asarray(inputs[0][:, :, :8].reshape(3, -1)[:, :16])
    text = blocks_of(inputs[1], MASK)
    variables = head.init(jax.random.key(0), v, v, v[:, None], text, train=False)
    variables["params"]["gates"]["bias"] = jnp.array([-200.0, -201.0])
    _, seen = head.apply(variables, v, v, v[:, None], text, train=False, capture=("gates",))
    np.testing.assert_allclose(seen["gates"].sum(1), 1, rtol=1e-6)
    ratio = seen["gates"][:, 0] / seen["gates"][:, 1]
    assert (ratio > 1).all() and np.isfinite(ratio).all()


def test_the_bilinear_form_holds_no_square_of_the_width_an_example():
    v, kernel = jnp.ones((64, 32)), jnp.ones((32, 32, 32))

    def largest(chunk):
        def value(v, t, kernel):
            return fusion_heads.bilinear(v, t, kernel, chunk=chunk).sum()

        program = jax.make_jaxpr(jax.grad(value, argnums=(0, 1, 2)))(v, v, kernel)
        sizes = []

        def visit(jaxpr):
            for equation in jaxpr.eqns:
                sizes.extend(var.aval.size for var in equation.outvars)
                for inner in jax.extend.core.jaxprs_in_params(equation.params):
                    visit(inner)

        visit(program.jaxpr)
        return max(sizes)

    assert largest(chunk=4) == 32**3 < largest(chunk=32) == 64 * 32 * 32


def test_widths_and_parameter_counts(inputs):
    def count(head, **options):
        variables = jax.eval_shape(
            lambda: model(head=head, head_options=options).init(jax.random.key(0), *inputs)
        )
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"].get("fusion_head", {})))

    assert count("concat") == 0
    assert count("adaptive") == 33 * 2 + 17 * 16
    assert count("bilinear") == 16**3 + 16 + 32
    assert count("bilinear", form="hadamard") == 17 * 16 + 32
    assert count("attention") == 12 * 17 * 16 + 32
    assert count("low_rank", rank=3) == 2 * 17 * 48


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(mode="both"), "mode='both' is not one of fusion, concat, image, text"),
        (
            dict(head="sum"),
            "'sum' is not known; allowed: concat, adaptive, bilinear, attention, bottleneck, low_rank",
        ),
        (
            dict(head="bilinear", head_options={"rank": 2}),
            "bilinear has no option 'rank'; it has chunk, form",
        ),
        (dict(head_options={"rank": 2}), "concat has no option 'rank'; it has none"),
        (dict(head="bilinear", head_options={"form": "half"}), "form='half' is not one of full, hadamard"),
        (dict(head="adaptive", head_options={"gate": "x"}), "gate='x' is not one of scalar, channel"),
        (dict(head="attention", width=12), "8 attention heads must divide width=12"),
        (dict(heads=3), "heads=3 must divide width=16"),
        (dict(width=18), "width=18 must be a multiple of 4"),
        (dict(depth=0), "depth=0 must be a positive integer"),
        (dict(dropout=1.0), r"dropout=1.0 must be in \[0, 1\)"),
        (dict(text_block=-1), "text_block=-1 must be 0 or more"),
        (dict(mode="image", head="bilinear"), "mode='image' has no head to choose"),
    ],
)
def test_a_field_that_cannot_be_is_one_line(inputs, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        jax.eval_shape(lambda: model(**fields).init(jax.random.key(0), *inputs))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_inputs_that_do_not_fit(inputs):
    image, text, mask = inputs
    for given, message in [
        ((None, text, mask), "needs image_tokens"),
        ((image, None, None), "needs text_tokens"),
        ((image[:, :5], text, mask), r"are not \(B, 2·3, C\)"),
        ((image, text, mask[:, :4]), r"text_mask \(3, 4\)"),
        ((image, text[:2], mask[:2]), "2 texts for 3 images"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda given=given: model().init(jax.random.key(0), *given))


def test_capture_names_are_those_documented(inputs):
    module = model(head="attention")
    variables = variables_of(module, *inputs)
    _, aux = run(module, variables, *inputs, capture=fusion.CAPTURE)
    assert set(aux) == {"features", "image_to_text", "text_to_image", "pooled_attention"}
    np.testing.assert_allclose(aux["pooled_attention"].sum(-1), 1, rtol=1e-5)


def test_a_head_of_ones_own_is_built_by_its_name_with_its_fields(monkeypatch):
    monkeypatch.setattr(register.fusion_heads, "_found", dict(register.fusion_heads._found))

    @register.fusion_head("gated_sum", reads={"gates": "rank"}, undecayed=("gate_token",))
    class GatedSum(fusion_heads.Head):
        gates: int = 1

        @nn.compact
        def __call__(self, v, t, image, text, *, train, capture=()):
            token = self.param("gate_token", nn.initializers.ones, (self.gates, self.width))
            return v + t * token.mean(0), {}

    c = config_lib.default()
    c.task = c.model.name = "fusion"
    c.model.ablation, c.model.trunk, c.model.width, c.model.heads = "sa_only", "resnet50", 16, 2
    c.data.image_size, c.fusion.head, c.fusion.rank = 32, "gated_sum", 3
    module = fusion_model.module(c, 5, TextEncoder(TextConfig(vocab=9, width=8, layers=1, heads=2, ffn=8)))
    words = jnp.ones((1, 4), jnp.int32)
    params = jax.eval_shape(
        functools.partial(module.init, tokens=words, text_mask=words > 0),
        jax.random.key(0),
        jnp.zeros((1, 32, 32, 3)),
    )["params"]
    assert params["fusion"]["fusion_head"]["gate_token"].shape == (3, 16)
    assert not parameters.of(module).decays("fusion/fusion_head/gate_token")
    assert parameters.of(module).is_stacked("fusion/cross_attention/layers/image/norm/scale")
    with pytest.raises(UserError, match="'gated_sum' is registered already"):
        register.fusion_head("gated_sum")(fusion_heads.Concat)
