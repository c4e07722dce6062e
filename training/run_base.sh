#!/usr/bin/env bash
# Weights of `base` from those of `small`, in two stages.
#
#   training/run_base.sh DATA METRICS OUT [CACHE]
#
# DATA     folder with photos-*.tar and screens-*.tar (docs/weights.md says what ours hold)
# METRICS  folder with the metrics' networks (python -m evaluation weights -o METRICS --squeezenet CHECKPOINT)
# OUT      folder for the runs; run again to resume wherever a run was cut
#
# stage     recipe         minutes of one core    what it gives
# codec     base           130                    larger transforms around the entropy model of `small`, which they
#                                                 grow from (training/grow.py); all losses, rates up to 1.2 bpp
# denoiser  base_denoiser  15                     the refinement, grown from that of `small`, on the frozen codec
#
# Minutes are those of an EPYC with AVX-512 bf16; SCALE=3 for a core without it.  More of the first stage is worth
# more: its learning rate falls over three quarters of whatever time it is given.  What it reached is in
# results/training.csv.
set -euo pipefail
data=$1 metrics=$2 out=$3 cache=${4:-$3/cache}
scale=${SCALE:-1}
export OMP_NUM_THREADS=1

stage() { # RECIPE OUT MINUTES [options]
    python -m training "$1" --data "$data"/photos-*.tar --screens "$data"/screens-*.tar --metrics "$metrics" \
        --cache "$cache" --threads 1 --out "$out/$2" --minutes $(($3 * scale)) "${@:4}"
}

stage base codec 130 --init small
stage base_denoiser denoiser 15 --init "$out/codec/weights.safetensors" --denoiser small
python -m training.export "$out/denoiser/weights.safetensors" -o "$out/base.safetensors"
