"""Data: sources of examples by index, decoding, transforms, sampling order and loading."""
