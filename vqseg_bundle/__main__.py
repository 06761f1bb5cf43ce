"""``python -m vqseg_bundle``: the same as the command ``vqseg``."""

from vqseg_bundle.commands.main import main

if __name__ == "__main__":
    main()
