#!/usr/bin/env bash
# Everything that only a GPU can show, in order of worth, within a budget of seconds: gpu_box.py says
# what and how. PYTHON=... is a Python that has symrun, instead of this checkout's .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    make -s venv
    PYTHON=.venv/bin/python
fi
exec "$PYTHON" scripts/gpu_box.py
