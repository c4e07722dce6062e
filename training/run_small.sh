#!/usr/bin/env bash
# Weights of `small` from nothing, in three stages without a change in between.
#
#   training/run_small.sh DATA METRICS OUT [CACHE]
#
# DATA     folder with photos-*.tar and screens-*.tar (docs/weights.md says what ours hold)
# METRICS  folder with the metrics' networks (python -m evaluation weights -o METRICS --squeezenet CHECKPOINT)
# OUT      folder for the runs; run again to resume wherever a run was cut
#
# stage     recipe         minutes of one core with AMX    what it gives
# codec     small          60                              rate, MSE and MS-SSIM; LPIPS from the half on
# polish    small_more     90                              all losses, falling learning rate
# denoiser  small_sampler  20                              one step of the sampler, on the frozen codec
#
# A core without bf16 takes three times as long: set SCALE=3.  Expected scores and what was reached on which
# machine are in results/training.csv and results/record.csv; the weights in the package come from older
# stages and one `small_more` on top (training/NOTES.md).
set -euo pipefail
data=$1 metrics=$2 out=$3 cache=${4:-$3/cache}
scale=${SCALE:-1}
export OMP_NUM_THREADS=1

stage() { # RECIPE OUT MINUTES [options]
    python -m training "$1" --data "$data"/photos-*.tar --screens "$data"/screens-*.tar --metrics "$metrics" \
        --cache "$cache" --threads 1 --out "$out/$2" --minutes $(($3 * scale)) "${@:4}"
}

stage small codec 60
stage small_more polish 90 --init "$out/codec/weights.safetensors"
stage small_sampler denoiser 20 --init "$out/polish/weights.safetensors"
echo "$out/denoiser/weights.safetensors"
