"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.pack_bundle is now vqseg pack, with the same options.")
