"""CLIP against transformers' torch model, random weights."""

import jax
import numpy as np
import pytest
import torch
import transformers

from fusionjax.pretrained import encoders, hub

# Absolute, in float32.
TOLERANCE = 1e-4
GRADIENT = 1e-3


def make(end, activation="quick_gelu"):
    text = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, vocab_size=50,
                max_position_embeddings=13, eos_token_id=end, bos_token_id=0, pad_token_id=1,
                hidden_act=activation)  # fmt: skip
    vision = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, image_size=24,
                  patch_size=8, hidden_act=activation)  # fmt: skip
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    )
    # Both towers, in transformers 4 as well; only this way of computing returns maps.
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                continue
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 11
            parameter.normal_(0, 1.2 * fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def batch(end):
    """Images, and texts of which the second is padded; the end is the highest number, and twice in the first."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 49, (3, 13)).astype(np.int32)
    last = np.array([12, 5, 0])
    ids[np.arange(3), last] = 49
    ids[0, 8] = 49
    mask = (np.arange(13) <= last[:, None]).astype(np.int32)
    ids[mask == 0] = 1
    return rng.standard_normal((2, 24, 24, 3)).astype(np.float32), ids, mask


@pytest.fixture(params=[(2, "quick_gelu"), (49, "gelu")], ids=["openai", "openclip"])
def pair(request, tmp_path, monkeypatch):
    """The torch model, and ours as read from the folder that transformers saved."""
    end, activation = request.param
    reference = make(end, activation)
    reference.save_pretrained(tmp_path)
    monkeypatch.setattr(hub, "tokenizer", lambda folder: None)
    module, variables, _ = encoders.load_clip(tmp_path)
    assert module.activation == activation and module.end_token == (None if end == 2 else end)
    return reference, module, variables, batch(end)


def run_torch(reference, images, ids, mask):
    return reference(
        pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        input_ids=torch.from_numpy(ids).long(),
        attention_mask=torch.from_numpy(mask).long(),
        output_attentions=True,
    )


def test_both_towers_equal_transformers(pair):
    reference, module, variables, (images, ids, mask) = pair
    with torch.inference_mode():
        want = run_torch(reference, images, ids, mask)
    got, aux = jax.jit(lambda v: module.apply(v, images, ids, mask, capture=("attention",)))(variables)
    assert (want.image_embeds[0] - want.image_embeds[1]).abs().max() > 0.05
    assert np.abs(aux["image"] - want.image_embeds.numpy()).max() < TOLERANCE
    assert np.abs(aux["text"] - want.text_embeds.numpy()).max() < TOLERANCE
    assert np.abs(got - want.logits_per_image.numpy()).max() < TOLERANCE
    image, text = want.vision_model_output, want.text_model_output
    assert np.abs(aux["image_aux"]["tokens"] - image.last_hidden_state.numpy()).max() < TOLERANCE
    tokens = aux["text_aux"]["tokens"] - text.last_hidden_state.numpy()
    assert np.abs(tokens[mask == 1]).max() < TOLERANCE
    for ours, theirs in ((aux["image_aux"], image), (aux["text_aux"], text)):
        maps = np.stack([layer.numpy() for layer in theirs.attentions])
        assert np.abs(ours["attention"] - maps).max() < TOLERANCE
    # Without a mask, as OpenAI's own code runs it: the same vectors.
    plain, _ = module.apply(variables, ids, method="encode_text")
    assert np.abs(plain - want.text_embeds.numpy()).max() < TOLERANCE
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == sum(p.numel() for p in reference.parameters())


def test_gradients_equal_transformers(pair):
    reference, module, variables, (images, ids, mask) = pair
    weight = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    out = reference(pixel_values=pixels, input_ids=torch.from_numpy(ids).long(),
                    attention_mask=torch.from_numpy(mask).long())  # fmt: skip
    (out.logits_per_image * torch.from_numpy(weight)).sum().backward()

    def total(variables, images):
        return (module.apply(variables, images, ids, mask)[0] * weight).sum()

    by_weight, by_pixel = jax.grad(total, (0, 1))(variables, images)
    words = reference.text_model.embeddings.token_embedding.weight.grad.numpy()
    assert np.abs(words).max() > 0.5
    assert np.abs(by_weight["params"]["text_tower"]["words"] - words).max() < GRADIENT
    assert np.abs(by_pixel - pixels.grad.numpy().transpose(0, 2, 3, 1)).max() < GRADIENT
    scale = reference.logit_scale.grad.item()
    assert abs(by_weight["params"]["logit_scale"] - scale) < GRADIENT
