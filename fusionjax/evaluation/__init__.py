"""Evaluation measures of trained models: plain NumPy on the host; all scores are fractions."""
