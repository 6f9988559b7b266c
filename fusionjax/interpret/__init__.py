"""Looking inside: rollout, maps, figures, the report."""
