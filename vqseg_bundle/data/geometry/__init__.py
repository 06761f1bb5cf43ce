"""Orientation, slice axis and grid of volumes: how they are turned for training, and compared with it."""
