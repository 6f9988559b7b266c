"""Data: sources by index, decoding, transforms, and the order in which examples reach a run."""
