#!/usr/bin/env bash
# Makes the pictures of the documents anew: the status page, and `status --watch` in a terminal.
# Needs chromium, chromedriver, tmux, aha and pngquant (all of them packages of Debian).
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in chromium chromedriver tmux aha pngquant; do
    command -v "$tool" >/dev/null || { echo "$tool is needed" >&2; exit 1; }
done
folder=$(mktemp -d)
tmux="tmux -L gmfy-sidecar-pictures -f /dev/null"
trap '$tmux kill-server 2>/dev/null || true; kill "${sidecar:-}" "${load:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT

GMFY_SCREENSHOTS=$folder cargo test --quiet --test browser pictures
cp "$folder/page-outage-1280-light.png" docs/page.png
cp "$folder/page-flow-1280-dark.png" docs/page-dark.png
cp "$folder/page-outage-390-light.png" docs/page-phone.png

# A terminal beside a sidecar at work.
cargo build --quiet
binary=target/debug/gmfy-sidecar
"$binary" dev --set api.listen=127.0.0.1:0 --set ops.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 \
    >"$folder/dev" 2>"$folder/log" &
sidecar=$!
address() {
    local _
    for _ in $(seq 100); do
        sed -n "s|^  $1 *http://\([0-9.:]*\)/.*|\1|p" "$folder/dev" | grep . && return
        sleep 0.1
    done
    return 1
}
api=$(address api)
admin=$(address admin)
for n in $(seq 400); do
    curl -s -o "$folder/answer" -H 'content-type: application/json' \
        -d "{\"userId\":\"user-$((n % 10))\",\"type\":\"visit\"}" "http://$api/v1/events/"
    curl -s -o "$folder/answer" "http://$api/v1/users/user-$((n % 10))/"
    sleep "0.0$((1 + n / 40 % 6))"
done &
load=$!
$tmux new-session -d -x 96 -y 20 "$binary status --watch --set admin.listen=$admin"
sleep 18
$tmux capture-pane -p -e | aha --black --no-header >"$folder/text"
# Its colours are as bright as on a terminal.
{
    echo '<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#14171b;color:#e4e8ed}'
    echo 'pre{margin:20px 24px;font:15px/1.4 "DejaVu Sans Mono",monospace}</style><pre>'
    sed -e 's/color:\(lime\|green\)/color:#6fce97/g' -e 's/color:\(olive\|yellow\)/color:#efb65b/g' -e 's/color:red/color:#ff8f85/g' "$folder/text"
    echo '</pre>'
} >"$folder/watch.html"
chromium --headless=new --no-sandbox --hide-scrollbars --user-data-dir="$folder/profile" \
    --window-size=940,480 --screenshot="$folder/watch.png" "file://$folder/watch.html" 2>"$folder/log"
cp "$folder/watch.png" docs/status-watch.png
pngquant --force --strip --ext .png 64 docs/page.png docs/page-dark.png docs/page-phone.png docs/status-watch.png
ls -l docs/*.png
