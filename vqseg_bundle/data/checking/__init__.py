"""Checks of a cohort before training, evaluation and inference: lists, headers, voxels, duplicates and outliers."""
