#!/usr/bin/env bash
# Start a Ray head and a second node on this machine, the smallest possible cluster, and merge on them by --address.
#
#   cluster/local.sh RECIPE OUTPUT [more options of svc-dist merge]
#
# Exits with the merge's exit code and stops everything that it started. PYTHON sets the interpreter, PORT the port.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,6p' "$0" >&2
  exit 2
fi

python=${PYTHON:-python3}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
state=$(mktemp -d "${TMPDIR:-/tmp}/svcXXXXXX")
pids=()

stop() {
  for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$state"
}
trap stop EXIT

# Anyone who reaches the ports of a cluster without authentication can run code on it: use a token for this run only.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR=$state
# No unit is running when a node is stopped, so Ray need not wait half a minute for running tasks.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Ray puts the logs and sockets of all nodes below RAY_TMPDIR/ray.
mkdir -p "$state/ray"
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$state/token")

node() { # start one node in its own process group
  setsid "$python" -m ray.scripts.scripts start --block --num-cpus=1 --object-store-memory=100000000 \
    --disable-usage-stats "$@" >"$state/node-${#pids[@]}.log" 2>&1 &
  pids+=("$!")
}

wait_for() { # wait_for NUMBER: wait until this many nodes are alive
  for _ in $(seq 120); do
    alive=$("$python" - "127.0.0.1:$port" 2>/dev/null <<'PY' || echo 0
import sys

import ray

ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PY
    )
    [[ ${alive##*$'\n'} -ge $1 ]] && return
    sleep 0.5
  done
  echo "the Ray cluster did not start; output of the nodes:" >&2
  cat "$state"/node-*.log >&2
  exit 70
}

node --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false
wait_for 1
node --address="127.0.0.1:$port" --node-ip-address=127.0.0.1
wait_for 2

"$python" -m svc_dist merge "$1" "$2" --address "127.0.0.1:$port" "${@:3}"
