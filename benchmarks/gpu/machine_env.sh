#!/usr/bin/env bash
# Makes an environment like a bare GPU machine's, to rehearse the kit in: benchmarks/gpu/machine_env.sh FOLDER
# Its Python is 3.12, PYTHON312 or the first that is found; without one it says so, and the rehearsal is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?which folder?}

found=
for python in ${PYTHON312:-} python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python /usr/bin/python3.12; do
  if "$python" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then found=$python; break; fi
done
if [ -z "$found" ]; then
  echo "no Python 3.12: the GPU kit is not rehearsed in an environment of its own; PYTHON312=PATH names one" >&2
  exit 0
fi
rm -rf "$folder"
"$found" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile -r benchmarks/gpu/machine.txt
# What such a machine lacks, and typer brings along.
"$folder/bin/pip" uninstall --quiet --yes pydantic pydantic-core annotated-types typing-inspection
touch "$folder/.installed"
