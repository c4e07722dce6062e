# Sourced by the scripts that make weights: DATA METRICS OUT [CACHE] of their command line, and `stage`.
set -euo pipefail
data=$1 metrics=$2 out=$3 cache=${4:-$3/cache}
scale=${SCALE:-1}
export OMP_NUM_THREADS=1

stage() { # RECIPE OUT MINUTES [options]
    python -m training "$1" --data "$data"/photos-*.tar --screens "$data"/screens-*.tar --metrics "$metrics" \
        --cache "$cache" --threads 1 --out "$out/$2" --minutes $(($3 * scale)) "${@:4}"
}
