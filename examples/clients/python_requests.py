"""Python with requests: posts one event to gmfy-sidecar and goes on.

503, 500 and no answer are tried again, after Retry-After where it is given, with the same
Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer says
how.
"""

import os
import sys
import time
import uuid

import requests

URL = os.environ.get("GMFY_SIDECAR_URL", "http://127.0.0.1:7460/") + "v1/events/"
session = requests.Session()


def send(event):
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    for _ in range(3):
        wait = 1
        try:
            answer = session.post(URL, json=event, headers=headers, timeout=2)
            if answer.ok:
                return True
            problem = f"{answer.status_code} {answer.text}"
            if answer.status_code < 500:
                break
            wait = min(int(answer.headers.get("Retry-After", 1)), 5)
        except requests.RequestException as error:
            problem = str(error)
        time.sleep(wait)
    print(f"event not taken: {problem}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(not send({"userId": "ada", "type": "register"}))
