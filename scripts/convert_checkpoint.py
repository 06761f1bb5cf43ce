"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.convert_checkpoint is now python -m scripts.published, with the same options.")
