#!/usr/bin/env bash
# Regenerates every figure and table, from any directory: `bash run_all.sh --help` for the options.
#
# Uses the active Python if it has all that pyproject.toml lists, else one in .venv/ or .conda/ here,
# which is made on first use. Interrupted at any point, the same command goes on or repairs.
#   SOS_PYTHON=PATH               this interpreter and no other
#   run_all.sh --lab [...]        opens the notebooks in JupyterLab; arguments go to it
#   run_all.sh --python [--test]  only makes sure of the environment and prints its interpreter on
#                                 the last line; with --test it has pytest and nbval as well
set -euo pipefail

# Where this script really lies: it may be called through links, and `readlink -f` is not everywhere.
script="${BASH_SOURCE[0]}"
while [ -L "$script" ]; do
    target="$(readlink -- "$script")"
    case "$target" in
        /*) script="$target" ;;
        *) script="$(dirname -- "$script")/$target" ;;
    esac
done
root="$(CDPATH='' cd -- "$(dirname -- "$script")" >/dev/null && pwd -P)"
# The caller's directory stays as it is, because --faces may be relative to it.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# A kernel that the user registered as python3 may belong to another environment.
export JUPYTER_PREFER_ENV_PATH=1
extra=""

tell() { printf 'run_all.sh: %s\n' "$*" >&2; }

complete() { "$1" "$root/sos/run/environment.py" $extra </dev/null >/dev/null 2>&1; }

executable() { "$1" -c 'import sys; print(sys.executable)' </dev/null; }

# The first Python that can run sos.run --help or make a .venv. Each is tried, because a name on
# PATH may be a shim with nothing behind it.
basic_python() {
    local name
    for name in ${SOS_PYTHON:+"$SOS_PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1
        then
            executable "$name"
            return
        fi
    done
    tell "Python 3.11 or newer is needed and none is on PATH: install one, or micromamba"
    return 1
}

# Prints the first complete interpreter: the active one, or one made here earlier.
complete_python() {
    local name
    for name in python3 python "$root/.venv/bin/python" "$root/.conda/bin/python"; do
        if complete "$name"; then
            executable "$name"
            return
        fi
    done
    return 1
}

make_conda() {
    local tool name
    for name in micromamba mamba conda; do
        if tool="$(command -v "$name")"; then break; fi
    done
    [ -n "$tool" ] || return 1
    tell "making .conda with $name from environment.yml; it downloads several GB, once"
    rm -rf "$root/.conda" # what an interrupted call left
    local create=(env create)
    if [ "$name" = micromamba ]; then create=(create); fi
    if CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true \
        "$tool" "${create[@]}" --quiet --prefix "$root/.conda" --file "$root/environment.yml" \
        </dev/null >&2 && complete "$root/.conda/bin/python"; then return; fi
    tell "$name could not make .conda; trying pip instead"
    return 1
}

make_venv() {
    local base folder="$root/.venv"
    base="$(basic_python)" || return 1
    tell "making .venv with $base and pip; it downloads some 3 GB, once, and takes 6 GB of disk"
    # pip takes a half-written package for installed, so an interrupted installation starts anew.
    if [ -e "$folder/.installing" ]; then rm -rf "$folder"; fi
    mkdir -p "$folder"
    touch "$folder/.installing"
    if ! "$base" -m venv "$folder" </dev/null >&2; then
        tell "$base cannot make .venv (on Debian and Ubuntu: apt install python3-venv)"
        return 1
    fi
    local install=("$folder/bin/python" -m pip install --quiet --no-input
        --disable-pip-version-check --editable "${root}[test]")
    if ! "${install[@]}" --constraint "$root/constraints.txt" </dev/null >&2; then
        tell "the versions of constraints.txt cannot be had here; trying the ranges of pyproject.toml"
        "${install[@]}" </dev/null >&2 || return 1
    fi
    rm "$folder/.installing"
}

# Sets $python.
choose_python() {
    if [ -n "${SOS_PYTHON:-}" ]; then
        if ! complete "$SOS_PYTHON"; then
            "$SOS_PYTHON" "$root/sos/run/environment.py" $extra </dev/null >&2 || true
            tell "SOS_PYTHON=$SOS_PYTHON is not fit: install what it lacks, or unset SOS_PYTHON"
            exit 1
        fi
        python="$(executable "$SOS_PYTHON")"
        return
    fi
    if python="$(complete_python)"; then return; fi
    # Two calls at once: the second waits here and then finds what the first has made.
    exec 9<"$root"
    if command -v flock >/dev/null; then flock 9 || true; fi
    if ! python="$(complete_python)"; then
        if ! make_conda && ! make_venv; then
            tell "no environment could be made; the reason stands above"
            exit 1
        fi
        if ! python="$(complete_python)"; then
            "$root/.venv/bin/python" "$root/sos/run/environment.py" $extra </dev/null >&2 || true
            tell "the new environment lacks the above"
            exit 1
        fi
        tell "ready: $python"
    fi
    exec 9<&-
}

if [ "${1:-}" = --python ]; then
    if [ "${2:-}" = --test ]; then extra=--test; fi
    choose_python
    printf '%s\n' "$python"
    exit
fi
# Keep freed memory instead of giving every large tensor back to the system (glibc): a step of the
# demo's training is 4 to 7 % faster, and needs no more memory.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1099511627776}"
# Threads that have nothing to do wait actively for some 30 microseconds, not for milliseconds
# (GNU OpenMP): where other programs use the cores, that keeps them from those that have work.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"
if [ "${1:-}" = --lab ]; then
    choose_python
    # With the whole checkout as its root, links from notebooks to figures/ lead somewhere.
    exec "$python" -P -m jupyter lab --ServerApp.root_dir="$root" "${@:2}" \
        "$root/notebooks/00_start_here.ipynb"
fi
for argument in "$@"; do
    case "$argument" in
        -h | --help)
            python="$(basic_python)" # its listing needs no packages
            exec "$python" -P -m sos.run --help
            ;;
    esac
done
choose_python
# A file in the caller's directory that is called as a module of ours is none of it.
export PYTHONSAFEPATH=1
exec "$python" -m sos.run "$@"
