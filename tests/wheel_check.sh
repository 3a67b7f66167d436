#!/usr/bin/env sh
# Build the sdist, the wheel from the sdist, install it with its dependencies into an empty environment, and use it
# away from the checkout.
set -eu
PYTHON=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
"$PYTHON" -m build --outdir "$away/dist" "$root" >"$away/build.log" 2>&1 || { cat "$away/build.log"; exit 1; }
"$PYTHON" -m venv "$away/venv"
"$away/venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" torch
"$away/venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" "$away"/dist/relaxrl-*.whl
cp "$root/tests/wheel_smoke.py" "$away/smoke.py"
cd "$away"
PYTHONPATH= "$away/venv/bin/python" smoke.py
