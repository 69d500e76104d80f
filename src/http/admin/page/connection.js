// How the page asks the sidecar: the token, one-off calls, and streams that come back by themselves.

const KEPT = "gmfy-sidecar-token";
const RETRY = 2_000;
const POLL = 5_000;

let token = sessionStorage.getItem(KEPT);

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const pause = (millis) => new Promise((done) => setTimeout(done, millis));

// Asks, with the token where there is one; fails with the sidecar's own words.
async function call(path, options = {}) {
  // With this header the browser is not made to ask for a password of its own.
  const headers = { "x-requested-with": "gmfy-sidecar" };
  if (token !== null) headers.authorization = `Bearer ${latin1(token)}`;
  if (options.method === "POST") headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused(0, "The sidecar does not answer.");
  }
  if (answer.status === 401) {
    lock();
    throw new Refused(401, "The token is needed.");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    const words = [problem.title ?? `It answers ${answer.status}.`, problem.detail];
    throw new Refused(answer.status, words.filter(Boolean).join(": "));
  }
  return answer;
}

// Headers hold bytes, so the token goes as the bytes of its UTF-8.
function latin1(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

// The events of a stream as [name, data], until it ends. `silence` is how long it may say nothing.
async function* events(path, silence, signal) {
  const gone = new AbortController();
  const either = AbortSignal.any([signal, gone.signal]);
  let timer = setTimeout(() => gone.abort(), silence);
  try {
    const answer = await call(path, { signal: either });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let unread = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => gone.abort(), silence);
      const blocks = (unread + value).split("\n\n");
      unread = blocks.pop();
      for (const block of blocks) {
        const data = /^data: (.*)$/m.exec(block)?.[1];
        if (data !== undefined) yield [/^event: (.*)$/m.exec(block)?.[1] ?? "message", data];
      }
    }
  } finally {
    clearTimeout(timer);
    gone.abort();
  }
}

// Let in, or not: what asks by itself waits for it.
let isLetIn = false;
let letIn;
let door = new Promise((done) => (letIn = done));

function lock() {
  token = null;
  sessionStorage.removeItem(KEPT);
  if (isLetIn) door = new Promise((done) => (letIn = done));
  isLetIn = false;
  showSignIn(true);
}

function unlock() {
  if (token !== null) sessionStorage.setItem(KEPT, token);
  isLetIn = true;
  letIn();
  showSignIn(false);
}

// Aborts when the tab is hidden: a browser has few connections to a host for all its tabs.
let showing = new AbortController();
if (document.hidden) showing.abort();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) showing.abort();
  else showing = new AbortController();
});

async function shown() {
  while (document.hidden) {
    await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  }
}
