"""Orientation, slice axis and grid of volumes: how they are oriented for training, and compared with it."""
