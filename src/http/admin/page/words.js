// Numbers, times and states in words.

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const count = (number) => whole.format(number);
const some = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

function rate(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : count(Math.round(number));
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

// A length of time in its two largest units, as `gmfy-sidecar status` tells it.
function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${Math.floor(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
function time(text) {
  const at = new Date(text);
  return (Date.now() - at < 43_200_000 ? clock : day).format(at);
}

const WORDS = { dead_lettered: "dead-lettered", dead_letters_full: "dead letters full", store_failing: "store failing", in_flight: "in flight", too_large: "too large" };
const words = (name) => WORDS[name] ?? name;

const TONES = {
  up: "good", retrying: "warn", open: "warn", paused: "warn", misconfigured: "bad",
  delivered: "good", retried: "warn", dead_lettered: "bad", dropped: "bad",
  dead_letters_full: "bad", store_failing: "bad", stopped: "warn",
};
const tone = (name) => TONES[name] ?? "none";

// Everything from outside comes to the page as text, through here.
function set(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// For those who listen: what changed by itself, or what came of what they did.
const say = (text) => set("said", text);

// A button that can't be used for now keeps the focus.
const allow = (button, may) => button.setAttribute("aria-disabled", String(!may));
function onPress(button, act) {
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true" || "busy" in button.dataset) return;
    button.dataset.busy = "";
    try {
      await act();
    } finally {
      delete button.dataset.busy;
    }
  });
}

// Asks in the page; true only for yes. Escape is no.
function ask(title, text, yes, no = "Keep") {
  const dialog = $("ask");
  set("ask-title", title);
  set("ask-words", text);
  set("ask-yes", yes);
  set("ask-no", no);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}
