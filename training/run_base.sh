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
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"

stage base codec 130 --init small
python -m training.tables "$out/codec/weights.safetensors" --data "$data"/photos-*.tar --cache "$cache" -o "$out/tables.safetensors"
stage base_denoiser denoiser 15 --init "$out/tables.safetensors" --denoiser small
python -m training.export "$out/denoiser/weights.safetensors" -o "$out/base.safetensors"
