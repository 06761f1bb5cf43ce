#!/bin/sh
# Set up, then run the tests; further arguments go to pytest: sh scripts/test.sh -m slow
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh "[dev]"
# two processes, each with whole files: what the tests of a file share is made once
if [ "$#" -eq 0 ]; then set -- -n 2 --dist loadfile -m "not slow and not monailabel"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest "$@"
