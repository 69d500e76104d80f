// Dead letters: a page of them, each with the buttons that decide about it.

const PAGE_OF = 20;

let after = null;
let next = null;
let loading = null;
let stale = false;

// Reads numbers as they are spelled, so that an event is shown byte for byte where the browser can.
function exact(text) {
  const spelled = (_, value, context) =>
    typeof value === "number" && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
  return JSON.parse(text, spelled);
}
const plain = (number) => number?.rawJSON ?? number;

// At most one request at a time, and one more when something changed meanwhile.
function lettersChanged() {
  stale = true;
  loading ??= load().finally(() => (loading = null));
}

async function load() {
  while (stale) {
    stale = false;
    try {
      const from = after === null ? "" : `&after=${after}`;
      const page = exact(await (await call(`/api/dead-letters?limit=${PAGE_OF}${from}`)).text());
      if (page.dead_letters.length === 0 && after !== null) {
        after = null;
        stale = true;
        continue;
      }
      next = plain(page.next);
      showLetters(page.dead_letters);
      lettersFault("");
    } catch (error) {
      if (error.status !== 401) lettersFault(error.message);
    }
    // A flood of them need not be asked for more often than it can be read.
    if (stale) await pause(1000);
  }
}

function lettersFault(text) {
  set("letters-fault", text);
  $("letters-fault").hidden = text === "";
  if (text !== "") say(text);
}

function showLetters(letters) {
  const list = $("letters");
  const known = new Map([...list.children].map((item) => [item.dataset.seq, item]));
  const items = letters.map((letter) => known.get(String(plain(letter.seq))) ?? item(letter));
  for (const old of known.values()) if (!items.includes(old)) remove(old);
  items.forEach((one, index) => {
    if (list.children[index] !== one) list.insertBefore(one, list.children[index] ?? null);
  });
  const none = letters.length === 0;
  $("letters-none").hidden = !none;
  $("pages").hidden = after === null && next === null;
  allow($("first"), after !== null);
  allow($("next-page"), next !== null);
  allow($("requeue-all"), !none);
  allow($("discard-all"), !none);
}

// A row that goes hands the focus on, lest it be lost.
function remove(row) {
  if (row.contains(document.activeElement)) {
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    (neighbour?.querySelector("button") ?? $("letters-title")).focus();
  }
  row.remove();
}

function item(letter) {
  const seq = String(plain(letter.seq));
  const event = letter.event ?? {};
  const row = make("li", undefined, { "data-seq": seq });
  const what = make("div", undefined, { class: "what" });
  const head = make("div", undefined, { class: "head" });
  const reason = [words(letter.reason), plain(letter.status)].filter((part) => part !== null);
  head.append(
    make("h3", `Event ${seq}`),
    make("span", reason.join(" "), { class: "word", "data-tone": "bad" }),
    make("span", `user ${plain(event.userId)}`),
    make("span", `type ${plain(event.type)}`),
  );
  what.append(head);
  if (letter.answer) what.append(make("blockquote", letter.answer, { class: "code" }));
  const attempts = some(Number(plain(letter.attempts)), "attempt");
  const told = `Accepted ${time(letter.accepted_at)}, given up ${time(letter.dead_lettered_at)} after ${attempts}`;
  const whole = make("details");
  whole.append(make("summary", told), make("pre", JSON.stringify(letter.event, null, 2)));
  const buttons = make("div", undefined, { class: "buttons" });
  const requeue = make("button", "Requeue", { type: "button", "aria-label": `Requeue event ${seq}` });
  const discard = make("button", "Discard", { type: "button", class: "danger", "aria-label": `Discard event ${seq}` });
  onPress(requeue, () => decide(() => requeueOne(seq)));
  onPress(discard, () => decide(() => discardOne(seq, event)));
  buttons.append(requeue, discard);
  what.append(whole);
  row.append(what, buttons);
  return row;
}

async function decide(act) {
  try {
    const told = await act();
    if (told) say(told);
    lettersFault("");
  } catch (error) {
    lettersFault(error.message);
  }
  lettersChanged();
}

async function requeueOne(seq) {
  const { requeued } = exact(await (await call(`/api/dead-letters/${seq}/requeue`, { method: "POST" })).text());
  return `Event ${seq} is in the queue again, as ${plain(requeued[0].new_seq)}.`;
}

// Asked twice: this is the one thing here that loses data.
async function askedTwice(what, text) {
  return (
    (await ask(`Discard ${what}?`, text, "Discard")) &&
    (await ask(`Discard ${what} for good?`, "GMFY never gets it, and it can't be brought back.", "Discard for good"))
  );
}

async function discardOne(seq, event) {
  if (!(await askedTwice(`event ${seq}`, `User ${event.userId}, type ${event.type}.`))) return null;
  await call(`/api/dead-letters/${seq}`, { method: "DELETE" });
  return `Event ${seq} is discarded.`;
}

onPress($("requeue-all"), () =>
  decide(async () => {
    const { requeued } = await (await call("/api/dead-letters/requeue", { method: "POST" })).json();
    return `${some(requeued.length, "event")} in the queue again.`;
  }));
onPress($("discard-all"), () =>
  decide(async () => {
    const all = `all ${some(latest.dead_letters, "dead letter")}`;
    if (!(await askedTwice(all, "Requeueing them instead gives each another try."))) return null;
    const { discarded } = await (await call("/api/dead-letters/discard", { method: "POST" })).json();
    return `${some(discarded, "event")} discarded.`;
  }));
onPress($("first"), async () => turnTo(null));
onPress($("next-page"), async () => turnTo(next));

function turnTo(from) {
  after = from;
  lettersChanged();
  $("letters-title").focus();
}
