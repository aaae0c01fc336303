#!/usr/bin/env bash
# The main job, from tiles to the zip:   bash run_cv.sh [CONFIG] [key=value ...]
# Every stage skips what is finished and valid, so this can be run again after anything.
#
#   bash run_cv.sh                                              the generated demo competition
#   bash run_cv.sh configs/naip.yaml data.root=DIR              your tiles
#   bash run_cv.sh configs/suichang.yaml redo=stale             after a change of keys: make again what depends on them
#   bash run_cv.sh configs/naip.yaml data.root=DIR 'data.test_images=testB/*.tif'    other test tiles: trains nothing
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit; fi
given_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
config=configs/demo.yaml
if [[ $# -gt 0 && $1 != *=* ]]; then config=$1; shift; fi
if [[ $config != /* && -f $given_in/$config && $given_in != "$PWD" ]]; then config=$given_in/$config; fi
source scripts/environment.sh requirements.txt

stage() { "$PYTHON" -m base.stage "$@"; }
trap 'exit 130' INT  # the stage that Ctrl-C reaches says so; none follows it

stage models.check    --config "$config" "$@"    # can every network be built?       a misspelt name costs no training
stage folds.landscape --config "$config" "$@"    # draws the demo competition; nothing where data.generate is not set
stage folds.tiles     --config "$config" "$@"    # which tiles there are            -> tiles.csv
stage folds.assign    --config "$config" "$@"    # which fold each belongs to       -> folds.csv
stage folds.check     --config "$config" "$@"    # is anything wrong with them?     -> check.csv
stage pipeline.cv     --config "$config" "$@"    # train and predict every member   -> members/, test/
stage ensemble.blend  --config "$config" "$@"    # blend, score, label              -> oof.csv, the zip
stage reports.build   --config "$config" "$@" ||  # all of it to look at              -> report.html
    echo "the report failed; what stands above holds without it" >&2
