#!/usr/bin/env bash
# Weights of `small` from nothing, in seven stages without a change in between.
#
#   training/run_small.sh DATA METRICS OUT [CACHE]
#
# DATA     folder with photos-*.tar and screens-*.tar (docs/weights.md says what ours hold)
# METRICS  folder with the metrics' networks (python -m evaluation weights -o METRICS --squeezenet CHECKPOINT)
# OUT      folder for the runs; run again to resume wherever a run was cut
#
# stage     recipe         minutes of one core with AMX    what it gives
# codec     small          60                              rate, MSE and MS-SSIM; LPIPS from the half on
# more      small_more     60                              all losses
# polish    small_polish   40                              more LPIPS, falling learning rate
# long      small_long     60                              five thousand steps, MS-SSIM and LPIPS before PSNR
# text      small_text     60                              text and flat colours; spends PSNR at the end
# denoiser  small_refine   20                              the refinement, on the frozen codec
# texture   small_texture  20                              its DISTS and LPIPS
#
# Between `text` and `denoiser` the codec moves 15 % of the way back to `long`, which gives back half of the PSNR
# that `text` spent and a tenth of the MS-SSIM that it won, and the coder's tables are counted on photographs.
#
# A core without bf16 takes three times as long: SCALE=3.  What each stage reached on which machine is in
# results/training.csv and results/record.csv.  The weights in the package began with older stages, of which
# all but the first are the continuation (training/NOTES.md); from nothing this has not been run
# to its end.
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"

stage small codec 60
stage small_more more 60 --init "$out/codec/weights.safetensors"
stage small_polish polish 40 --init "$out/more/weights.safetensors"
stage small_long long 60 --init "$out/polish/weights.safetensors"
stage small_text text 60 --init "$out/long/weights.safetensors"
python -m training.interpolate "$out/long/weights.safetensors" "$out/text/weights.safetensors" --share 0.85 \
    --data "$data"/photos-*.tar --screens "$data"/screens-*.tar --metrics "$metrics" --cache "$cache" --out "$out/mix"
python -m training.tables "$out/mix/weights.safetensors" --data "$data"/photos-*.tar --cache "$cache" -o "$out/tables.safetensors"
stage small_refine denoiser 20 --init "$out/tables.safetensors"
stage small_texture texture 20 --init "$out/denoiser/weights.safetensors"
python -m training.export "$out/texture/weights.safetensors" -o "$out/small.safetensors"
