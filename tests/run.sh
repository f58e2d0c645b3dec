#!/usr/bin/env bash
# All tests, from any directory and without a network once the environment is there: functions,
# the notebooks against their stored outputs, the figures these draw against the committed ones,
# and the whole collection at smoke scale. Arguments go to pytest, for instance `-x`.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
python="$(bash "$root/run_all.sh" --python --test | tail -n 1)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" # per kernel; pytest itself takes one
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # as in run_all.sh
export TQDM_DISABLE=1 SOS_BATCH=1
# What notebooks draw goes here, and tests/test_figures.py compares it with what is committed.
export SOS_FIGURES="$scratch/figures" SOS_FIGURES_REGENERATED="$scratch/figures"
export SOS_EXECUTED="$scratch/executed"
# The user's own kernels, start-up files and running servers stay out of it.
export IPYTHONDIR="$scratch/ipython" JUPYTER_RUNTIME_DIR="$scratch/runtime"
export TMPDIR="$scratch/tmp"
mkdir "$TMPDIR"
export JUPYTER_PREFER_ENV_PATH=1

# Tests in a browser are skipped where none is found; CI on Debian fetches one instead.
if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
    ! command -v chromium >/dev/null; then
    { apt-get update && apt-get install --yes --no-install-recommends chromium; } \
        </dev/null >"$scratch/apt.log" 2>&1 || tail -n 5 "$scratch/apt.log" >&2
fi

"$python" -m pytest --rootdir "$root" -c "$root/pyproject.toml" --basetemp "$scratch/pytest" \
    --nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-kernel-startup-timeout=300 \
    "$root/tests" "$root/notebooks" "$@" </dev/null
