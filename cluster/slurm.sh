#!/usr/bin/env bash
# A merge on the nodes of one Slurm job: a Ray head and the driver on the first node, a worker on each of the others.
#
#   sbatch --nodes=8 --time=12:00:00 cluster/slurm.sh RECIPE OUTPUT [more options of svc-dist merge]
#   sbatch --nodes=4 --gpus-per-node=8 cluster/slurm.sh RECIPE OUTPUT     # on GPUs
#
# Exits with the merge's exit code. Two minutes before the time limit, the script stops the merge gracefully and
# requeues the job, which then resumes. It also requeues the job for every other exit code 75, unless it received
# SIGTERM. SIGTERM comes from scancel, or from a preemption after which Slurm requeues the job itself. What to change:
# the #SBATCH lines, and these environment variables:
#   PYTHON      the interpreter that has svc_dist, under the same path on every node (default: python3)
#   SHARED      a folder that all nodes see, for the cluster's token (default: the home folder)
#   HEAD_IP     the first node's address on the fast network (default: its first address)
#   START_WAIT  seconds to wait for the nodes (default: 300)
#SBATCH --job-name=svc-dist
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=svc-dist-%j.log
set -uo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch cluster/slurm.sh RECIPE OUTPUT [more options of svc-dist merge]" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?start this script with sbatch}"

python=${PYTHON:-python3}
ip=${HEAD_IP:-$(hostname -I | cut -d' ' -f1)}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
cpus=${SLURM_CPUS_ON_NODE:?}
gpus=${SLURM_GPUS_ON_NODE:-0}
[[ $gpus -gt 0 ]] && step_gpus=(--gpus-per-node="$gpus") || step_gpus=()
shared=$(umask 077 && mktemp -d "${SHARED:-$HOME}/.svc-dist-XXXXXX") || exit 70
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

# Anyone who reaches the ports of a cluster without authentication can run code on it: use a token for this job only.
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$shared/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token RAY_USAGE_STATS_ENABLED=0
# A short path, on each node's own disk, which no other job uses.
export RAY_TMPDIR=${TMPDIR:-/tmp}/svc-$SLURM_JOB_ID
# Without these probes, tasks on a node whose link is cut hang for minutes.
export RAY_grpc_client_keepalive_time_ms=20000 RAY_grpc_client_keepalive_timeout_ms=20000
export RAY_health_check_period_ms=3000 RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=5
# No unit is running when a node is stopped, so Ray need not wait half a minute for running tasks.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

steps=()
driver=
stopping=
cancelled=

stop() {
  for pid in "${steps[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for _ in $(seq 40); do kill -0 "${steps[@]}" 2>/dev/null && sleep 0.5; done
  kill -KILL "${steps[@]}" 2>/dev/null # a node that is still starting may ignore SIGTERM; the rest ends with the job
  rm -rf "$shared"
}
trap stop EXIT

finish() { # finish CODE: end everything; requeue a merge that stopped gracefully (75) or before it started (143)
  trap - EXIT
  stop
  # scontrol would also requeue a job that is being cancelled.
  if [[ -z $cancelled && ( $1 -eq 75 || $1 -eq 143 ) ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$1"
}

request_stop() { # ask the merge to stop gracefully
  stopping=1
  if [[ -n $driver ]]; then kill -TERM "$driver" 2>/dev/null; fi
}
trap request_stop USR1
trap 'cancelled=1; request_stop' TERM

node() { # node HOST [options of ray start]: start one Ray node as a step of this job
  # shellcheck disable=SC2016  # expanded on the node
  srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$cpus" --mem=0 --overlap "${step_gpus[@]}" \
    bash -c 'trap : TERM; mkdir -p "$RAY_TMPDIR/ray"; "$@"; sleep 1; rm -rf "$RAY_TMPDIR"' node \
    "$python" -m ray.scripts.scripts start --block --num-cpus="$cpus" --num-gpus="$gpus" --object-store-memory=100000000 \
    --disable-usage-stats "${@:2}" &
  steps+=("$!")
}

alive() { # print the number of nodes in the cluster
  timeout 30 "$python" - "$ip:$port" 2>/dev/null <<'PY' || echo 0
import sys

import ray

ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PY
}

wait_for() { # wait_for NUMBER: wait until the cluster has this many nodes
  local there=0 until=$((SECONDS + ${START_WAIT:-300}))
  while [[ -z $stopping && $SECONDS -lt $until ]]; do
    there=$(alive | tail -n 1)
    [[ $there -ge $1 ]] && return
    sleep 1
  done
  [[ -n $stopping ]] && finish 75
  echo "only $there of $1 Ray nodes started; their output is above" >&2
  finish 70
}

node "${hosts[0]}" --head --node-ip-address="$ip" --port="$port" --include-dashboard=false
wait_for 1
for host in "${hosts[@]:1}"; do node "$host" --address="$ip:$port"; done
wait_for "${#hosts[@]}"

"$python" -m svc_dist merge "$1" "$2" --address "$ip:$port" --log-format json "${@:3}" &
driver=$!
code=
until [[ -n $code ]]; do
  stopping=
  wait "$driver"
  status=$?
  if [[ -z $stopping ]]; then code=$status; fi # otherwise the signal ended the wait, and the driver still runs
done
finish "$code"
