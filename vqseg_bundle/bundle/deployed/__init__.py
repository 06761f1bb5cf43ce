"""Using trained weights: for evaluation, inference and ensembles."""
