"""Python with GMFY's own client: the same code as without the sidecar, with another URL.

503 is tried again after Retry-After. A 4xx is not: the event is wrong, and its answer says how. What GMFY
itself refuses shows later, as a dead letter of the sidecar.
"""

import os
import sys
import time
from typing import Literal

from gmfy import BaseEvent, BaseUniqueEvent
from pydantic import Field


class Register(BaseEvent):
    event_type: Literal["register"] = Field(exclude=True)


class VisitUser(BaseUniqueEvent):
    event_type: Literal["visit_user"] = Field(exclude=True)


# The client collects the event classes as it is imported.
from gmfy.exceptions import GMFYClientError  # noqa: E402
from gmfy.sync_clients.gmfy_client import GMFYClientSync  # noqa: E402

URL = os.environ.get("GMFY_SIDECAR_URL", "http://127.0.0.1:7460/")
client = GMFYClientSync("unused", URL, timeout=2)


def send(event):
    for _ in range(3):
        try:
            client.create_event(event)
            return True
        except GMFYClientError as error:
            answer = getattr(error.__cause__, "response", None)
            if answer is None or answer.status_code != 503:
                # Without an answer it isn't known whether the event was taken: only a unique one
                # (with an idempotence_key) may be sent again without counting twice.
                said = "" if answer is None else answer.text
                print(f"event not taken: {error}: {said}", file=sys.stderr)
                return False
            time.sleep(min(int(answer.headers.get("Retry-After", 1)), 5))
    print("event not taken: the sidecar's queue is full", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(not send(Register(event_type="register", user_id="ada")))
