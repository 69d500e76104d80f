<?php
// PHP (8, without extensions): posts one event to gmfy-sidecar and goes on.
// 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
// Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
// says how.

function send(array $event): bool
{
    $url = (getenv('GMFY_SIDECAR_URL') ?: 'http://127.0.0.1:7460/') . 'v1/events/';
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Content-Type: application/json', 'Idempotency-Key: ' . bin2hex(random_bytes(16))],
        'content' => json_encode($event, JSON_THROW_ON_ERROR),
        'timeout' => 2,
        'ignore_errors' => true, // A status of 4xx or 5xx is an answer too.
    ]]);
    $problem = '';
    for ($attempt = 0; $attempt < 3; $attempt++) {
        $wait = 1;
        $http_response_header = [];
        $body = @file_get_contents($url, false, $context);
        $status = (int) (explode(' ', $http_response_header[0] ?? '')[1] ?? 0);
        if ($status >= 200 && $status < 300) {
            return true;
        }
        $problem = $status ? "$status $body" : error_get_last()['message'];
        if ($status >= 400 && $status < 500) {
            break;
        }
        foreach ($http_response_header as $line) {
            if (preg_match('/^Retry-After: *(\d+)/i', $line, $found)) {
                $wait = min((int) $found[1], 5);
            }
        }
        sleep($wait);
    }
    fwrite(STDERR, "event not taken: $problem\n");
    return false;
}

exit(send(['userId' => 'ada', 'type' => 'register']) ? 0 : 1);
