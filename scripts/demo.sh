#!/bin/sh
# Set up, then train on the embedded demo cohort, into runs/demo; further arguments go to monai.bundle:
#   sh scripts/demo.sh --seed 1 --output_dir runs/demo1
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
exec .venv/bin/python -m monai.bundle run training --config_file configs/train.json --output_dir runs/demo "$@"
