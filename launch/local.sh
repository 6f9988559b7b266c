#!/usr/bin/env bash
# Several processes on this machine, as they would run on several hosts: to try a config before it goes to a cluster.
#
#   launch/local.sh 2 fusionjax train --config=cub --workdir=runs/cub
#
# Process 0 writes to this terminal, the others to files i.log in the folder LOGS (a new temporary one by default).
# DEVICES=4 gives every process four CPU devices. Ctrl-C and SIGTERM reach all of them: the run saves its state and ends.
# The exit code is the first that is not 0; 75 means: start the same command again.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh PROCESSES COMMAND…   (see the head of this file)" >&2
    exit 2
fi
processes=$1
shift
logs=${LOGS:-$(mktemp -d)}
mkdir -p "$logs"
if [ -n "${DEVICES:-}" ]; then
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
port=${PORT:-$((20000 + RANDOM % 10000))}

pids=()
# Jobs in the background of a script ignore SIGINT, so that Ctrl-C reaches them as SIGTERM.
trap 'kill -s TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
    arguments=(--coordinator="localhost:$port" --processes="$processes" --process="$i")
    if ((i == 0)); then
        "$@" "${arguments[@]}" &
    else
        "$@" "${arguments[@]}" > "$logs/$i.log" 2>&1 &
    fi
    pids+=($!)
done

status=0
for ((i = 0; i < processes; i++)); do
    while true; do
        code=0
        wait "${pids[$i]}" || code=$?
        # A signal that this script traps interrupts wait; the process is still there then.
        if ((code > 128)) && kill -0 "${pids[$i]}" 2>/dev/null; then continue; fi
        break
    done
    if ((code != 0)); then
        echo "process $i ended with exit code $code$([ "$i" != 0 ] && echo ": $logs/$i.log")" >&2
        ((status != 0)) || status=$code
    fi
done
exit "$status"
