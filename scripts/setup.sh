#!/bin/sh
# Make .venv beside this project, if it is not there, and install the bundle into it, with DICOM and foundation models:
#   sh scripts/setup.sh [EXTRA]
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed")'
[ -x .venv/bin/python ] || "$python" -m venv .venv
# an editable install that is complete and no older than the project file needs no second look
extra="${1:-[dicom,foundation]}"
stamp=".venv/installed$extra"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".$extra"
    touch "$stamp"
fi
