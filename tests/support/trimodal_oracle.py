"""docs/methods/multimodal.md in NumPy, float64: several modalities that read each other, an example at a time."""

import numpy as np

from tests.support import fusion_oracle


def classify(params, tokens, *, modalities, pairings, heads):
    """Logits (C,), features and maps by pairing of one example.

    Args:
        params: of `TrimodalClassifier`.
        tokens: by modality (N, D), those that count alone; None for a modality that the example lacks.
    """
    found = {m: np.float64(x)[None] for m, x in tokens.items() if x is not None and len(x)}
    means, maps = [], {}
    for m in modalities:
        if m not in found:
            means.append(np.zeros(len(params[f"norm_{m}"]["scale"])))
            continue
        total = found[m]
        for pairing in pairings:
            to, source = pairing.split("_from_")
            if to == m and source in found:
                out, weights = fusion_oracle.attention(
                    params[pairing], found[m], found[source], found[source], heads
                )
                maps[pairing], total = weights[0], total + out
        means.append(fusion_oracle.norm(params[f"norm_{m}"], total)[0].mean(0))
    features = np.concatenate(means)
    return fusion_oracle.classifier(params["classifier"], features), features, maps
