#!/bin/sh
# curl (7.76 or newer): posts one event to gmfy-sidecar and goes on.
# 503 and failures to connect are tried again, after Retry-After where it is given, with the same
# Idempotency-Key, so that the event counts once. A 4xx is not: it is printed, and the status is 22.
exec curl --silent --show-error --fail-with-body --max-time 2 \
    --retry 2 --retry-connrefused --retry-max-time 15 \
    --header 'Content-Type: application/json' \
    --header "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" \
    --data '{"userId":"ada","type":"register"}' \
    "${GMFY_SIDECAR_URL:-http://127.0.0.1:7460/}v1/events/"
