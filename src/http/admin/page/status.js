// What the status says: the verdict, numbers, GMFY, the queue, the cache, lanes; and the buttons.

let latest = null;
let latestAt = 0;

// One sentence for everything, and a word for those who only need to hear of a change.
function verdict({ ready, upstream, queue, dead_letters: dead }) {
  const waiting = `${some(queue.events, "event")} ${queue.events === 1 ? "waits" : "wait"} on disk.`;
  if (!ready.ready) return ["bad", `No events are accepted: ${ready.why}.`, "No events are accepted"];
  switch (upstream.state) {
    case "misconfigured":
      return ["bad", `GMFY does not take what is sent to it. ${waiting} Nothing is lost.`, "GMFY does not take what is sent"];
    case "paused":
      return ["warn", `An operator paused delivery. ${waiting}`, "Delivery is paused"];
    case "open":
      return ["warn", `GMFY is down. ${waiting} They go out when it is back.`, "GMFY is down"];
    case "retrying":
      return ["warn", `GMFY failed, and is tried again. ${waiting}`, "GMFY failed, and is tried again"];
  }
  const left = dead > 0 ? ` ${some(dead, "dead letter")} ${dead === 1 ? "is" : "are"} for you to decide about.` : "";
  if (queue.events > 0) return ["good", `GMFY is up: ${some(queue.events, "event")} on the way.${left}`, "GMFY is up"];
  return ["good", `GMFY is up, and nothing waits.${left}`, "GMFY is up"];
}

let toldState = null;

function show(status) {
  const before = latest;
  latest = status;
  latestAt = Date.now();
  const now = sample(status);
  const { events, queue, upstream } = status;
  set("build", `${status.version} (${status.revision}), up for ${span(status.uptime_seconds)}`);
  const [mood, text, brief] = verdict(status);
  $("verdict").dataset.tone = mood;
  set("verdict", text);
  if (toldState !== null && toldState !== brief) say(brief);
  toldState = brief;
  document.title = mood === "good" ? "gmfy-sidecar" : `${brief} - gmfy-sidecar`;

  set("accepted", count(events.accepted));
  set("queued", count(queue.events));
  set("in-flight", count(now.inFlight));
  set("delivered", count(events.delivered));
  set("dead", count(status.dead_letters));
  $("dead").dataset.tone = status.dead_letters > 0 ? "warn" : "none";
  set("window", samples.length > 1 ? `the last ${covered()}` : "");
  const peaks = {
    accepted: draw("accepted-chart", "Accepted a second", "acceptedRate"),
    queued: draw("queued-chart", "Queued", "queued"),
    inFlight: draw("in-flight-chart", "In flight", "inFlight"),
    delivered: draw("delivered-chart", "Delivered a second", "deliveredRate"),
  };
  draw("dead-chart", "Dead letters", "dead");
  set("accepted-note", `${rate(now.acceptedRate ?? 0)}/s, peak ${rate(peaks.accepted)}/s`);
  set("delivered-note", `${rate(now.deliveredRate ?? 0)}/s, peak ${rate(peaks.delivered)}/s`);
  set("queued-note", `peak ${count(peaks.queued)}`);
  set("in-flight-note", `peak ${count(peaks.inFlight)}`);
  set("dead-note", `${count(events.dead_lettered)} since the start`);

  showUpstream(upstream);
  showQueue(queue, events);
  showCache(status.cache);
  rows("lanes", status.lanes, laneCells);
  if (before === null || before.dead_letters !== status.dead_letters || before.events.dead_lettered !== events.dead_lettered) {
    lettersChanged();
  }
  set("letters-count", status.dead_letters > 0 ? count(status.dead_letters) : "");
}

function showUpstream(upstream) {
  $("upstream").dataset.tone = tone(upstream.state);
  const names = { open: "down", up: "up" };
  set("upstream", names[upstream.state] ?? upstream.state);
  const letting = upstream.dead_lettering_status;
  const why = [upstream.why, letting && `What it refuses with ${letting} becomes dead letters.`].filter(Boolean).join(" ");
  set("why", why);
  $("why").hidden = why === "";
  set("since", `${time(upstream.since)} (${span((Date.now() - new Date(upstream.since)) / 1000)})`);
  showNext();
  allow($("pause"), upstream.state !== "paused");
  allow($("resume"), upstream.state !== "up");
  $("let-go").hidden = upstream.state !== "misconfigured" || !/every event/.test(upstream.why ?? "");
}

function showNext() {
  const at = latest?.upstream.next_attempt_at;
  const left = at ? (new Date(at) - Date.now()) / 1000 : 0;
  set("next", left > 0.05 ? `in ${span(left)}` : latest?.upstream.state === "paused" ? "when resumed" : "as events come");
}

function showQueue(queue, events) {
  const used = queue.capacity_bytes > 0 ? Math.min(100, (100 * queue.bytes) / queue.capacity_bytes) : 0;
  const percent = used > 0 && used < 1 ? "under 1 %" : `${Math.round(used)} %`;
  const text = `${bytes(queue.bytes)} of ${bytes(queue.capacity_bytes)}, ${percent}`;
  const disk = $("disk");
  disk.setAttribute("aria-valuenow", String(Math.round(used)));
  disk.setAttribute("aria-valuetext", text);
  disk.dataset.tone = used >= 90 ? "bad" : "none";
  disk.firstElementChild.style.width = `${used}%`;
  set("used", text);
  set("oldest", queue.oldest_age_seconds === null ? "nothing waits" : `for ${span(queue.oldest_age_seconds)}`);
  set("durability", queue.durability === "sync" ? "sync: on disk before the answer" : "interval: on disk a little later");
  set("dropped", count(events.dropped));
  set("duplicates", count(events.duplicates));
  const list = $("damages");
  const damages = queue.damages.map((one) => {
    const lost = one.lost.map(([first, last]) => (first === last ? first : `${first} to ${last}`)).join(", ");
    return `${one.what}: ${one.reason}. Lost: ${lost || "nothing"}. Put aside in ${one.quarantine}.`;
  });
  if (damages.join() !== [...list.children].map((item) => item.textContent).join()) {
    list.replaceChildren(...damages.map((damage) => make("li", damage)));
  }
}

function showCache(cache) {
  const routes = Object.entries(cache.routes).map(([route, results]) => {
    const requests = Object.values(results).reduce((sum, one) => sum + one, 0);
    return { route, requests, ratio: cache.hit_ratio[route] };
  });
  const read = routes.filter((one) => one.requests > 0);
  const rated = read.filter((one) => one.ratio !== undefined);
  const of = rated.reduce((sum, one) => sum + one.requests, 0);
  const hits = rated.reduce((sum, one) => sum + one.requests * one.ratio, 0);
  set("ratio", of > 0 ? `${Math.round((100 * hits) / of)} % hits` : "no reads yet");
  set("cache-note", `${some(cache.entries, "entry", "entries")}, ${bytes(cache.bytes)}`);
  $("routes").parentElement.hidden = read.length === 0;
  rows("routes", read, ({ route, requests, ratio }) => [
    [route, "fixed"],
    [count(requests), "right"],
    [ratio === undefined ? "" : `${Math.round(100 * ratio)} %`, "right"],
  ]);
}

const laneCells = (lane) => [
  [String(lane.lane), "right"],
  [words(lane.state), "fixed word", tone(lane.state)],
  [count(lane.in_work), "right"],
  [lane.oldest_age_seconds === null ? "-" : span(lane.oldest_age_seconds), "right fixed"],
  [lane.last_error ?? "-", "error"],
];

// Rewrites a table's body in place: [text, class, tone] for each cell.
function rows(id, things, cells) {
  const body = $(id).tBodies[0];
  while (body.rows.length > things.length) body.deleteRow(-1);
  things.forEach((thing, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells(thing).forEach(([text, look, mood], at) => {
      const cell = row.cells[at] ?? row.insertCell();
      if (cell.textContent !== text) cell.textContent = text;
      if (cell.className !== look) cell.className = look;
      if (mood !== undefined) cell.dataset.tone = mood;
    });
  });
}

// Does what a button says, and tells what came of it.
async function operate(path, told, body) {
  try {
    const answer = await call(path, { method: "POST", body });
    const text = told(await answer.json());
    set("operation", text);
    say(text);
    await refresh();
  } catch (error) {
    set("operation", error.message);
    say(error.message);
  }
}

const refresh = async () => show(await (await call("/api/status")).json());

onPress($("pause"), () => operate("/api/delivery/pause", () => "Delivery is paused, also after a restart."));
onPress($("resume"), () => operate("/api/delivery/resume", () => "Delivery is resumed."));
onPress($("flush"), () =>
  operate("/api/flush?wait=5s", ({ remaining }) =>
    remaining === 0 ? "Flushed: the queue is empty." : `Flushed for 5 s: ${some(remaining, "event")} left.`));
onPress($("let-go"), async () => {
  const text = "Every event that GMFY refuses this way becomes a dead letter, until one is delivered. They can be requeued later.";
  if (await ask("Dead-letter what GMFY refuses?", text, "Dead-letter them", "Keep waiting")) {
    const told = () => "Refused events become dead letters.";
    await operate("/api/delivery/resume", told, JSON.stringify({ dead_letter_rejected: true }));
  }
});

function showLink(state, text) {
  const link = $("link");
  if (link.dataset.state === state && link.textContent.trim() === text) return;
  if (state !== link.dataset.state && (state === "lost" || link.dataset.state === "lost")) say(text);
  link.dataset.state = state;
  link.firstElementChild.textContent = text;
  document.body.classList.toggle("stale", state === "lost");
}

// Keeps the page up to date: by the stream while it is seen, else now and then.
async function watchStatus() {
  for (;;) {
    await door;
    const seen = showing.signal;
    try {
      if (document.hidden) {
        await refresh();
        showLink("live", "live");
        await Promise.race([pause(POLL), shown()]);
        continue;
      }
      for await (const [, data] of events("/api/status/stream", 10_000, seen)) {
        show(JSON.parse(data));
        showLink("live", "live");
      }
      if (!seen.aborted) throw new Refused(0, "The sidecar stopped.");
    } catch (error) {
      if ((error.name === "AbortError" && seen.aborted) || error.status === 401) continue;
      if (error.status === 503) {
        // All places are taken: asked now and then instead.
        await refresh().then(() => showLink("live", "live, every 5 s"), () => {});
        await pause(POLL);
        continue;
      }
      const since = latestAt > 0 ? ` since ${clock.format(latestAt)}` : "";
      showLink("lost", `No answer${since}; trying again`);
      await pause(RETRY);
    }
  }
}
setInterval(() => latest && showNext(), 1000);
