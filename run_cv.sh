#!/usr/bin/env bash
# The main job, from tiles to the zip:   bash run_cv.sh [[--config] FILE] [key=value ...]
# Every stage skips what is finished and valid, so this can be run again after anything.
#
#   bash run_cv.sh                                              the generated demo competition
#   bash run_cv.sh configs/naip.yaml data.root=DIR              your tiles
#   bash run_cv.sh configs/suichang.yaml redo=stale             after a change of keys: make again what depends on them
#   bash run_cv.sh configs/naip.yaml data.root=DIR 'data.test_images=testB/*.tif'    other test tiles: trains nothing
#
# FILE is looked up in the current folder, then in the one of run_cv.sh. All other relative paths, in FILE and in
# key=value (data.root, folds.file, runs_dir, zips_dir), are of the one of run_cv.sh, wherever the command is given: there
# stages and jobs that are run by themselves find the same results.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit; fi
given_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
config=
for ((left = $#; left > 0; left--)); do  # takes the config out; what remains goes to every stage, in its order
    word=$1; shift
    case $word in
        --config=*) file=${word#--config=} ;;
        --config) file=${1:-}; [[ $left -gt 1 ]] && { shift; ((left--)); } ;;
        -* | *=*) set -- "$@" "$word"; continue ;;
        *) file=$word ;;
    esac
    [[ -n $file ]] || { echo "error: --config: expected a file, as in --config configs/demo.yaml" >&2; exit 2; }
    [[ -z $config ]] || { echo "error: expected one config, found $config and $file" >&2; exit 2; }
    config=$file
done
config=${config:-configs/demo.yaml}
if ! [[ $given_in -ef . ]]; then
    export FOLDSCAPE_CALLED_IN=$given_in  # for errors about paths that were taken to be of another folder
    if [[ $config != /* && -f $given_in/$config ]]; then config=$given_in/$config; fi
fi
source scripts/environment.sh requirements.txt

# A stage runs behind bash, which in front of it would hear of no signal before its end, but with stdin and Ctrl-C as in
# front. Ctrl-C reaches every process of a terminal by itself; a SIGTERM may be for bash alone, and is passed on.
child='' stopped=''
trap 'stopped=130' INT
trap 'stopped=143; kill -TERM $child 2>/dev/null || true' TERM
stage() {
    (trap - INT; exec "$PYTHON" -m base.stage "$@") <&0 &
    child=$!
    local code
    while code=0; wait "$child" || code=$?; kill -0 "$child" 2>/dev/null; do :; done  # each signal ends a wait
    [[ -z $stopped ]] || exit "$stopped"  # the stage has said so; none follows it
    return "$code"
}

stage models.check    --config "$config" "$@"    # can every network be built?       a misspelt name costs no training
stage folds.landscape --config "$config" "$@"    # draws the demo competition; nothing where data.generate is not set
stage folds.tiles     --config "$config" "$@"    # which tiles there are            -> tiles.csv
stage folds.assign    --config "$config" "$@"    # which fold each belongs to       -> folds.csv
stage folds.check     --config "$config" "$@"    # is anything wrong with them?     -> check.csv
stage pipeline.cv     --config "$config" "$@"    # train and predict every member   -> members/, test/
stage ensemble.blend  --config "$config" "$@"    # blend, score, label              -> oof.csv, the zip
stage reports.build   --config "$config" "$@" ||  # all of it to look at              -> report.html
    echo "the report failed; what stands above holds without it" >&2
