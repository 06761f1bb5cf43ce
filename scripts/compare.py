"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.compare is now python -m scripts.comparison, with the same options.")
