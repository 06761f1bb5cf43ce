"""The commands that users run, ``vqseg NAME`` or ``python -m vqseg_bundle NAME``."""
