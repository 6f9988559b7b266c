"""Fields of the sections of every run that several tasks read. Light: a record imports it."""

CLASS_LOSS = ("loss.label_smoothing", "loss.focal_gamma", "loss.class_weights", "loss.balanced")
"""Of a cross-entropy or focal loss over the classes."""
CHANNELS = ("data.modalities",)
"""Of images with more channels than red, green and blue."""
