"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.measure_alignment is now python -m scripts.alignment, with the same options.")
