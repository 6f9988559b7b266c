"""The text inputs of image–text classification: the text of each example, and its tokens.

See docs/methods/image_text_fusion.md, "The label must not leak through the text".

A task opens a tokenizer (`pretrained.hub`), makes a
`Tokenise` of it, and asks for the `Texts` of each split:

    folder = hub.files(source)
    tokenise = Tokenise(hub.tokenizer(folder), fingerprint(folder), max_tokens=64, cache=folder_of_caches)
    texts = bank_texts(descriptions.load("plant_village", split.class_names), tokenise)
"""

from fusionjax.data.text.descriptions import Descriptions
from fusionjax.data.text.texts import (
    KINDS,
    Texts,
    bank_texts,
    captions,
    class_texts,
    depends_on_labels,
    instance_texts,
    permuted,
    translations,
)
from fusionjax.data.text.tokens import Tokenise, Tokens, fingerprint

__all__ = ["KINDS", "Descriptions", "Texts", "Tokenise", "Tokens", "bank_texts", "captions", "class_texts",
           "depends_on_labels", "fingerprint", "instance_texts", "permuted", "translations"]  # fmt: skip
