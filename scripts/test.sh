#!/bin/sh
# Set up, then run the tests; further arguments go to pytest: sh scripts/test.sh -m slow
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh "[dev]"
if [ "$#" -eq 0 ]; then set -- -m "not slow and not monailabel"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest "$@"
