#!/usr/bin/env bash
# A merge on the nodes of one Slurm job: a Ray head on the first, a worker on each other one, the driver on the first.
#
#   sbatch --nodes=8 --time=12:00:00 cluster/slurm.sh RECIPE OUTPUT [more options of svc-dist merge]
#
# Ends with the merge's exit code. Two minutes before its time is up it stops in order, puts the job back into the queue
# and goes on from there; so it does for every exit code 75, unless it got SIGTERM: that comes from scancel, or from a
# preemption, after which Slurm requeues by itself. What to change: the #SBATCH lines, and in the environment:
#   PYTHON      the interpreter that has svc_dist, under the same path on every node; python3
#   SHARED      a folder that all nodes see, for the cluster's token; the home
#   HEAD_IP     the first node's address on the fast network; its first address
#   START_WAIT  seconds to wait for the nodes; 300
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
shared=$(umask 077 && mktemp -d "${SHARED:-$HOME}/.svc-dist-XXXXXX") || exit 70
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

# Whoever reaches the ports of a cluster without authentication runs code on it: use a token, known to this job alone.
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$shared/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token RAY_USAGE_STATS_ENABLED=0
# Short, on each node's own disk, and no other job's.
export RAY_TMPDIR=${TMPDIR:-/tmp}/svc-$SLURM_JOB_ID
# A node whose link is cut hangs its tasks for minutes, unless connections are probed.
export RAY_grpc_client_keepalive_time_ms=20000 RAY_grpc_client_keepalive_timeout_ms=20000
export RAY_health_check_period_ms=3000 RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=5
# When a node is told to stop, nothing is in flight: it need not wait half a minute for it.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

steps=()
driver=
told=
cancelled=

stop() {
  for pid in "${steps[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for _ in $(seq 40); do kill -0 "${steps[@]}" 2>/dev/null && sleep 0.5; done
  kill -KILL "${steps[@]}" 2>/dev/null # one that was still starting may not listen; what is left ends with the job
  rm -rf "$shared"
}
trap stop EXIT

finish() { # finish CODE: end everything; what was stopped in order (75), or before it had begun (143), goes on later
  trap - EXIT
  stop
  # scontrol would requeue a job that is being cancelled, too.
  if [[ -z $cancelled && ( $1 -eq 75 || $1 -eq 143 ) ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$1"
}

tell() { # have the merge stop in order
  told=1
  if [[ -n $driver ]]; then kill -TERM "$driver" 2>/dev/null; fi
}
trap tell USR1
trap 'cancelled=1; tell' TERM

node() { # node HOST [options of ray start]: one Ray node, as a step of this job
  # shellcheck disable=SC2016  # expanded on the node
  srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$cpus" --mem=0 --overlap \
    bash -c 'trap : TERM; mkdir -p "$RAY_TMPDIR/ray"; "$@"; sleep 1; rm -rf "$RAY_TMPDIR"' node \
    "$python" -m ray.scripts.scripts start --block --num-cpus="$cpus" --object-store-memory=100000000 \
    --disable-usage-stats "${@:2}" &
  steps+=("$!")
}

alive() { # how many nodes the cluster has
  timeout 30 "$python" - "$ip:$port" 2>/dev/null <<'PY' || echo 0
import sys

import ray

ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PY
}

wait_for() { # wait_for NUMBER: until so many nodes are there
  local there=0 until=$((SECONDS + ${START_WAIT:-300}))
  while [[ -z $told && $SECONDS -lt $until ]]; do
    there=$(alive | tail -n 1)
    [[ $there -ge $1 ]] && return
    sleep 1
  done
  [[ -n $told ]] && finish 75
  echo "only $there of $1 Ray nodes came up; what they said is above" >&2
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
  told=
  wait "$driver"
  status=$?
  if [[ -z $told ]]; then code=$status; fi # else the signal ended the wait, not the driver
done
finish "$code"
