"""VQ-Seg: semi-supervised segmentation with vector-quantised perturbation, as a MONAI bundle."""

__version__ = "0.9.0"
