"""The scans of a run: opened, measured, oriented and prepared."""
