// Node (18 or newer): posts one event to gmfy-sidecar and goes on.
// 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
// Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
// says how.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const url = (process.env.GMFY_SIDECAR_URL ?? "http://127.0.0.1:7460/") + "v1/events/";

export async function send(event) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": randomUUID() };
  let problem;
  for (let attempt = 0; attempt < 3; attempt++) {
    let wait = 1;
    try {
      const signal = AbortSignal.timeout(2000);
      const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(event), signal });
      if (answer.ok) return true;
      problem = `${answer.status} ${await answer.text()}`;
      if (answer.status < 500) break;
      wait = Math.min(Number(answer.headers.get("Retry-After") ?? 1), 5);
    } catch (error) {
      problem = error.cause ?? error;
    }
    await sleep(wait * 1000);
  }
  console.error(`event not taken: ${problem}`);
  return false;
}

process.exitCode = (await send({ userId: "ada", type: "register" })) ? 0 : 1;
