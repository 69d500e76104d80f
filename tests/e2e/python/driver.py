"""Runs every call of GMFY's Python client, sync and async, and prints what it returned.

Arguments: the base URL and the key. After the writes it waits for a line on stdin, so that the
reads see what the events did.
"""

import asyncio
import json
import sys

from gmfy import BaseAmount, BaseConfirmation, BasePayment
from gmfy.async_clients.gmfy_client import GMFYClientAsync
from gmfy.exceptions import GMFYClientError
from gmfy.sync_clients.gmfy_client import GMFYClientSync

EVENTS = [
    {"event_type": "register", "user_id": "ada"},
    {"event_type": "subscription", "user_id": "ada", "event_action": "create"},
    {"event_type": "visit_user", "user_id": "ada", "idempotence_key": "b\u00f6b \"1\""},
    {"event_type": "purchase", "user_id": "ada", "order_total": 1000.5, "order_note": "\u2713 n"},
    {"event_type": "subscription", "user_id": "bob", "event_action": "remove"},
]
BATCH = [{**event, "user_id": user} for user in ("ada", "eve", "\u0436") for event in EVENTS]


def event(fields):
    from application_events import events

    classes = {
        "register": events.Register,
        "subscription": events.Subscription,
        "visit_user": events.VisitUser,
        "purchase": events.Purchase,
    }
    return classes[fields["event_type"]](**fields)


def payment():
    return BasePayment(
        amount=BaseAmount(value=100.0, currency="USD"),
        confirmation=BaseConfirmation(returnUrl="https://example.com/"),
        userId="ada",
        description="Payment for order #123",
        locale="EN",
    )


def writes():
    yield from (("create_event", (event(fields),)) for fields in EVENTS)
    yield "create_batch_events", ([event(fields) for fields in BATCH],)
    yield "create_payment", (payment(),)


def reads(state):
    user = state["user"]
    yield "create_resend_code", (state["payment"],)
    yield "get_payment", (state["payment"],)
    yield "get_users", ()
    yield "get_users", ("ada",)
    yield "get_user_badges", ("ada",)
    yield "get_rating_top_users", (user["userRatings"][0]["ratingId"],)
    yield "get_challenge_top_users", (user["userChallenges"][0]["challengeId"],)
    yield "get_notifications", ("ada",)
    yield "get_api_version", ()


def note(results, name, response):
    assert 200 <= response.status_code < 300, (name, response.status_code)
    results.append([name, response.status_code, response.json()])
    return response.json()


def main(url, key):
    results = []
    client = GMFYClientSync(key, url)
    state = {}
    for name, arguments in writes():
        answer = note(results, name, getattr(client, name)(*arguments))
        if name == "create_payment":
            state["payment"] = answer["id"]

    async def write_async(client):
        for name, arguments in writes():
            note(results, name, await getattr(client, name)(*arguments))

    async def read_async(client):
        for name, arguments in reads(state):
            note(results, name, await getattr(client, name)(*arguments))

    async def run(steps):
        client = GMFYClientAsync(key, url)
        await steps(client)

    asyncio.run(run(write_async))
    print("written", flush=True)
    sys.stdin.readline()
    state["user"] = note(results, "get_users", client.get_users("ada"))[0]
    for name, arguments in reads(state):
        note(results, name, getattr(client, name)(*arguments))
    asyncio.run(run(read_async))
    try:
        client.get_payment("missing")
        results.append(["missing payment", "no error"])
    except GMFYClientError as error:
        results.append(["missing payment", str(error).replace(url, "")])
    print(json.dumps({"payment": state["payment"], "results": results}), flush=True)


main(*sys.argv[1:])
