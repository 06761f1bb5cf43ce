"""The former name of a command, which says the new one; gone with version 0.9."""

raise SystemExit("python -m scripts.check_export is now vqseg check-export, with the same options.")
