"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.make_datalist is now vqseg data, with the same options.")
