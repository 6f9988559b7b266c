#!/usr/bin/env bash
# A run on a Cloud TPU slice. Needs the gcloud command and a project; NAME, ZONE and TYPE come from the environment.
#
#   NAME=cub ZONE=us-central2-b TYPE=v4-32 launch/tpu_vm.sh create       SPOT=1 for a preemptible slice
#   launch/tpu_vm.sh run --config=cub --workdir=gs-fuse/runs/cub         starts it on all hosts, in the background
#   launch/tpu_vm.sh watch                                               follows process 0
#   launch/tpu_vm.sh stop                                                saves the state and ends the run
#   launch/tpu_vm.sh delete                                              the slice costs until then
#   launch/tpu_vm.sh keep --config=… --workdir=…                         for a spot slice: makes it anew and resumes, until the run is done
#
# The workdir must be on storage that all hosts see, such as a bucket mounted with gcsfuse.
set -euo pipefail
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage
action=$1
shift
: "${NAME:?set NAME, ZONE and TYPE, e.g. NAME=cub ZONE=us-central2-b TYPE=v4-32}" "${ZONE:?set ZONE}"
VERSION=${VERSION:-tpu-ubuntu2204-base}
PACKAGE=${PACKAGE:-fusionjax[tpu]}
tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
on() { tpu ssh "$NAME" --worker="$1" --command="$2"; }

create() {
    tpu create "$NAME" --accelerator-type="${TYPE:?set TYPE}" --version="$VERSION" ${SPOT:+--spot}
    on all "pip install --quiet '$PACKAGE'"
}
run() {
    [ $# -gt 0 ] || usage
    # TPU hosts find each other through the metadata of the slice.
    on all "rm -f fusionjax.exit; nohup sh -c '~/.local/bin/fusionjax train --distributed $(printf '%q ' "$@"); echo \$? > fusionjax.exit' > fusionjax.log 2>&1 &"
}
case $action in
    create) create ;;
    run) run "$@" ;;
    watch) on 0 "tail -n +1 -f fusionjax.log" ;;
    stop) on all "pkill -TERM -f '[f]usionjax train' || true" ;;
    delete) tpu delete "$NAME" --quiet ;;
    keep)
        [ $# -gt 0 ] || usage
        export SPOT=1
        while true; do
            state=$(tpu describe "$NAME" --format='value(state)' 2>/dev/null || echo NONE)
            case $state in
                READY)
                    code=$(on 0 "cat fusionjax.exit 2>/dev/null || (pgrep -f '[f]usionjax train' > /dev/null && echo runs || echo none)" || echo lost)
                    case $code in
                        0) echo "done; launch/tpu_vm.sh delete ends the costs"; exit 0 ;;
                        2) on 0 "tail -n 3 fusionjax.log"; exit 2 ;;
                        runs | lost) ;;
                        *) run "$@" ;;
                    esac
                    ;;
                NONE) create || true ;;
                PREEMPTED | TERMINATED | STOPPED) tpu delete "$NAME" --quiet || true ;;
            esac
            sleep "${EVERY:-60}"
        done
        ;;
    *) usage ;;
esac
