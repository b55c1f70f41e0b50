#!/usr/bin/env bash
# Gathers what a GPU machine without network lacks into one folder, .gpu-kit, and prints the command to run there.
# benchmarks/gpu/pack.sh [--python 3.12] [--out FOLDER]; needs network for the wheels, and `make setup` before.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=3.12 out=.gpu-kit
while [ $# -gt 0 ]; do
  case "$1" in
    --python) version=${2:?--python: needs a version, such as 3.12}; shift 2 ;;
    --out) out=${2:?--out: needs a folder}; shift 2 ;;
    -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
    *) echo "error: $1: no such option; there are --python VERSION and --out FOLDER" >&2; exit 2 ;;
  esac
done
case "$version" in
  3.1[1-9]) ;;
  *) echo "error: --python $version: mathgrpo runs on 3.11 and later; name the GPU machine's, such as 3.12" >&2; exit 2 ;;
esac
python=.venv/bin/python
[ -x "$python" ] || { echo "error: $python is not there; run make setup first" >&2; exit 2; }

# Made beside the folder, and put in its place when it is whole.
part=$out.part
rm -rf "$part"
mkdir -p "$part/wheels"
platforms=()
for glibc in 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version "$version" --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
  -c constraints.txt -d "$part/wheels" -r benchmarks/gpu/carried.txt
"$python" -m benchmarks.gpu.packing "$part"
rm -rf "$out"
mv "$part" "$out"

cat <<EOF
Bring this checkout to the GPU machine, with $out in it. There, in the checkout:

  python3 -m benchmarks.gpu --out gpu-results
EOF
