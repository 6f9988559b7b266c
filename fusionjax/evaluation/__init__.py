"""Measures of trained models: plain NumPy on the host, fractions throughout."""
