#!/usr/bin/env bash
# Make one environment per peer below FOLDER: benchmarks/peers/setup.sh FOLDER [NAME ...]
#
# Every peer gets the torch, transformers and peft that Equipoise runs on, so that the tables compare tools and not
# library versions. torchvision and torchaudio are left out: no peer needs them for text, and their registry builds do
# not load beside a CPU torch. EQUIPOISE_FIND_LINKS: a folder or page with the CPU build of torch, where pip's own
# configuration does not lead to it.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [bergson|kronfluence|dattri|traker ...]" >&2; exit 2; }
folder=$1
shift
[ $# -gt 0 ] || set -- bergson kronfluence dattri traker

uv=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/uv
[ -x "$uv" ] || { echo "$uv is missing: run make first" >&2; exit 2; }
torch=2.13.0
common=(transformers==5.19.0 peft==0.21.2 accelerate==1.15.0 numpy psutil safetensors)
links=(${EQUIPOISE_FIND_LINKS:+--find-links "$EQUIPOISE_FIND_LINKS"})
mkdir -p "$folder"
left_out=$(mktemp)
trap 'rm -f "$left_out"' EXIT
printf '%s\n' "torchvision ; sys_platform == 'never'" "torchaudio ; sys_platform == 'never'" >"$left_out"

# NAME==VERSION as measured; a newer one is a matter of changing the number and running the benchmark again
version() {
    case $1 in
    bergson) echo bergson==2.5.1 ;;
    kronfluence) echo kronfluence==1.0.1 ;;
    dattri) echo dattri==0.3.0 ;;
    traker) echo traker==0.3.2 ;;
    *) echo "$1 is no peer; choose from bergson, kronfluence, dattri, traker" >&2 && return 2 ;;
    esac
}

failed=()
for name in "$@"; do
    pinned=$(version "$name")
    echo "setting up $pinned in $folder/$name ..."
    "$uv" venv --quiet --seed --clear --python 3.11 "$folder/$name"
    python=$folder/$name/bin/python
    # pip first: it knows the machine's own wheels and indexes, which uv does not read
    if ! "$python" -m pip install --quiet --disable-pip-version-check --no-deps "${links[@]}" "torch==$torch+cpu" 2>/dev/null; then
        "$uv" pip install --quiet --python "$python" --no-deps --torch-backend cpu "torch==$torch"
    fi
    "$uv" pip install --quiet --python "$python" --overrides "$left_out" "$pinned" "torch==$torch" "${common[@]}" ||
        failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "not installed: ${failed[*]}" >&2; exit 1; }
