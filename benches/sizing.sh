#!/usr/bin/env bash
# Memory and processor by rate, for docs/sizing.md: prints a row for each load.
#
#     cargo build --release && benches/sizing.sh target/release/gmfy-sidecar
#
# Needs wrk, curl and python3. Each row is a fresh sidecar with default settings in front of the
# simulator, driven over loopback for SECONDS (10); the generator's and the simulator's own time is not
# in the figures. Rates are held by delays, so the rate that was reached is printed.
set -euo pipefail
# As in the image.
export MALLOC_MMAP_THRESHOLD_=524288
binary=$(realpath "$1")
seconds=${SECONDS_EACH:-10}
work=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    # Not for all jobs: the collector goes on.
    if [ ${#pids[@]} -gt 0 ]; then wait "${pids[@]}" 2>/dev/null || true; fi
    pids=()
}
collector=
trap 'stop; if [ -n "$collector" ]; then kill "$collector"; fi; rm -r "$work"' EXIT

# Prints the first value of this field in a JSON log, once it is there.
logged() {
    local file=$1 field=$2 value
    for _ in $(seq 200); do
        value=$(grep -om1 "\"$field\":\"[^\"]*\"" "$file" 2>/dev/null | cut -d'"' -f4) && [ -n "$value" ] && {
            echo "$value"
            return
        }
        sleep 0.05
    done
    echo "no $field in $file" >&2
    return 1
}

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
memory() { awk -v name="$2:" '$1 == name { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }

# A collector of traces that takes everything.
cat >"$work/collector.py" <<'PY'
from http.server import BaseHTTPRequestHandler, HTTPServer
class Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Taker)
print(server.server_port, flush=True)
server.serve_forever()
PY

# load NAME CONNECTIONS DELAY_MS EVENTS_A_REQUEST [SETTING..]: no connections is no load.
load() {
    local name=$1 connections=$2 delay=$3 events=$4
    shift 4
    local sets=()
    for set in "$@"; do sets+=(--set "$set"); done
    rm -rf "$work/data"
    "$binary" simulate --listen 127.0.0.1:0 >"$work/simulator" 2>&1 &
    pids+=($!)
    local gmfy
    for _ in $(seq 200); do
        gmfy=$(grep -om1 'http://[0-9.:]*' "$work/simulator") && break
        sleep 0.05
    done
    GMFY_URL=$gmfy/ GMFY_API_KEY=dev "$binary" run --set api.listen=127.0.0.1:0 --set ops.listen=127.0.0.1:0 \
        --set admin.listen=127.0.0.1:0 --set "queue.dir=$work/data" --set log.format=json \
        "${sets[@]}" 2>"$work/log" &
    local pid=$!
    pids+=("$pid")
    local api ops
    api=$(logged "$work/log" api.address)
    ops=$(logged "$work/log" ops.address)
    cat >"$work/load.lua" <<LUA
local n, events, pause = 0, $events, $delay
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local function event()
  n = n + 1
  return string.format('{"userId":"%06d","type":"create_subscription","source":"load test","plan":"monthly","amount":1000.50}', n % 10000)
end
function request()
  if events == 1 then return wrk.format(nil, "/v1/events/", nil, event()) end
  local all = {}
  for e = 1, events do all[e] = event() end
  return wrk.format(nil, "/v1/events/batch/", nil, "[" .. table.concat(all, ",") .. "]")
end
if pause > 0 then function delay() return pause end end
LUA
    sleep 1
    # From here on the peak is the load's.
    echo 5 >"/proc/$pid/clear_refs" 2>/dev/null || true
    local before begun after took
    before=$(ticks "$pid")
    begun=$(date +%s.%N)
    if [ "$connections" = 0 ]; then
        sleep "$seconds"
    else
        wrk -t1 -c"$connections" -d"${seconds}s" -s "$work/load.lua" "http://$api/" >"$work/wrk"
        if grep -q 'Non-2xx\|Socket errors' "$work/wrk"; then cat "$work/wrk" >&2; fi
    fi
    after=$(ticks "$pid")
    took=$(echo "$(date +%s.%N) - $begun" | bc)
    local rate
    rate=$(curl -s "http://$ops/metrics" | awk -v took="$took" '/^gmfy_events_accepted_total/ { n += $2 } END { printf "%.0f", n / took }')
    awk -v name="$name" -v rate="$rate" -v used="$((after - before))" -v took="$took" -v hz="$(getconf CLK_TCK)" \
        -v peak="$(memory "$pid" VmHWM)" -v own="$(memory "$pid" RssAnon)" \
        'BEGIN { printf "| %s | %d | %.1f %% | %d MiB | %d MiB |\n", name, rate, 100 * used / hz / took, peak, own }'
    stop
}

echo "| load | events/s reached | processor, of one core | resident, at the peak | of it its own, at the end |"
echo "|---|---|---|---|---|"
load "idle" 0 0 1
load "100 single events/s" 10 100 1
load "1,000 single events/s" 50 50 1
load "10,000 single events/s" 100 10 1
load "10,000 events/s in batches of 100" 10 100 100
load "all it takes, single" 64 0 1
load "all it takes, batches of 100" 16 0 100
python3 "$work/collector.py" >"$work/collector" &
collector=$!
while [ ! -s "$work/collector" ]; do sleep 0.05; done
endpoint="tracing.otlp_endpoint=http://127.0.0.1:$(cat "$work/collector")"
load "1,000 single events/s, 1 % traced" 50 50 1 "$endpoint"
load "1,000 single events/s, all traced" 50 50 1 "$endpoint" tracing.sample_ratio=1
