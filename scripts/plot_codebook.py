"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.plot_codebook is now python -m scripts.figures codebook, with the same options.")
