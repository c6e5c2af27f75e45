#!/bin/bash
# One machine with four GPUs: a process for each, without a scheduler. The same in one command:
#   python cli.py --set run.workers=4 extract --executor dask
set -u

params=${PARAMS:-params.yaml}
cards=${CARDS:-"0 1 2 3"}
count=$(wc -w <<< "$cards")

part=0
jobs=()
for card in $cards; do
    CUDA_VISIBLE_DEVICES=$card python cli.py --params "$params" extract --part "$part/$count" 2> "extract-$part.log" &
    jobs+=($!)
    part=$((part + 1))
done

trap 'kill -TERM "${jobs[@]}"' TERM INT  # each then drops the shard that it is computing, and exits with 75

failed=0
for job in "${jobs[@]}"; do
    wait "$job" || failed=$?
    wait "$job" 2> /dev/null || failed=$?  # the first wait ends at once where a signal came
done
exit "$failed"
