// What becomes of events, as it happens, and where one stands.

const KEEP = 100;

let waiting = [];
let missed = 0;
let held = false;
let refollow = new AbortController();

function followPath() {
  const query = new URLSearchParams();
  if ($("user").value !== "") query.set("user", $("user").value);
  if ($("outcome").value !== "") query.set("outcome", $("outcome").value);
  return `/api/events/stream?${query}`;
}

async function watchEvents() {
  for (;;) {
    await door;
    await shown();
    const again = refollow.signal;
    try {
      if (held) {
        await new Promise((done) => again.addEventListener("abort", done, { once: true }));
        continue;
      }
      for await (const [name, data] of events(followPath(), 40_000, AbortSignal.any([again, showing.signal]))) {
        if (name === "lost") missed += JSON.parse(data).lost;
        else waiting.push(data);
        if (waiting.length > KEEP) waiting.shift();
      }
    } catch (error) {
      if (again.aborted || document.hidden || error.status === 401) continue;
      if (error.status > 0) set("follow-note", error.message);
    }
    if (!again.aborted && !document.hidden) await pause(RETRY);
  }
}

// Shown a few times a second, however many come.
setInterval(() => {
  if (waiting.length === 0 && missed === 0) return;
  const body = $("follow").tBodies[0];
  const fresh = waiting.map((data) => line(JSON.parse(data))).reverse();
  waiting = [];
  body.prepend(...fresh);
  while (body.rows.length > KEEP) body.deleteRow(-1);
  const note = missed > 0 ? ` ${count(missed)} more came too fast to be shown.` : "";
  set("follow-note", `The last ${count(body.rows.length)}, the newest first.${note}`);
}, 250);

function line(notice) {
  const row = make("tr");
  row.append(
    make("td", clock.format(new Date(notice.at)), { class: "fixed" }),
    make("td", String(notice.seq), { class: "right" }),
    make("td", words(notice.outcome), { class: "fixed word", "data-tone": tone(notice.outcome) }),
    make("td", notice.user, { class: "cut", title: notice.user }),
    make("td", notice.type, { class: "cut", title: notice.type }),
    make("td", notice.status === undefined ? "" : String(notice.status), { class: "right" }),
    make("td", notice.batch?.slice(0, 8) ?? "", { class: "fixed code", title: notice.batch ?? "" }),
  );
  return row;
}

function followAnew() {
  waiting = [];
  missed = 0;
  refollow.abort();
  refollow = new AbortController();
}

$("filter").addEventListener("submit", (submit) => {
  submit.preventDefault();
  $("follow").tBodies[0].replaceChildren();
  const user = $("user").value;
  const of = [user && `of user ${user}`, $("outcome").value && `that are ${words($("outcome").value)}`].filter(Boolean);
  set("follow-note", `Waiting for events ${of.join(" ")}`.trim());
  say(`Following events ${of.join(" ")}`.trim());
  hold(false);
});
$("outcome").addEventListener("change", () => $("filter").requestSubmit());
onPress($("hold"), async () => hold(!held));

function hold(still) {
  held = still;
  $("hold").setAttribute("aria-pressed", String(still));
  followAnew();
}

$("find").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const found = $("found");
  found.hidden = false;
  try {
    const seq = $("sequence").value;
    const { state, attempts, status } = await (await call(`/api/events/${seq}`)).json();
    const sent = attempts > 0 ? `, sent ${some(attempts, "time")}` : "";
    const answered = status === undefined ? "" : `, answered ${status}`;
    const known = { settled: "done with, too long ago to know how", unknown: "none that was ever accepted" };
    found.textContent = `Event ${seq} is ${known[state] ?? words(state)}${sent}${answered}.`;
  } catch (error) {
    found.textContent = error.message;
  }
});
