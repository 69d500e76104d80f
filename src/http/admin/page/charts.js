// Small charts over the last minutes, each with what it shows in words.

const SECONDS = 300;
const LEAST = 60;
const HEIGHT = 40;

let samples = [];

function sample(status, at = Date.now() / 1000) {
  // Two that came at once, after a stall, would make a rate out of all proportion.
  if (samples.length > 1 && at - samples.at(-1).at < 0.5) samples.pop();
  const last = samples.at(-1);
  const { accepted, delivered } = status.events;
  // After a restart counts begin anew, and a rate across it would be none.
  const same = last?.started === status.started_at && at > last.at;
  const between = (now, before) => (same ? Math.max(0, now - before) / (at - last.at) : null);
  samples.push({
    at,
    started: status.started_at,
    accepted,
    delivered,
    acceptedRate: between(accepted, last?.accepted),
    deliveredRate: between(delivered, last?.delivered),
    queued: status.queue.events,
    inFlight: inFlight(status),
    dead: status.dead_letters,
  });
  samples = samples.filter((one) => at - one.at <= SECONDS);
  return samples.at(-1);
}

const inFlight = (status) =>
  status.lanes.filter((lane) => lane.state === "sending").reduce((sum, lane) => sum + lane.in_work, 0);

function draw(id, what, field) {
  const svg = $(id);
  const now = samples.at(-1).at;
  const width = Math.max(LEAST, now - samples[0].at);
  const points = samples.filter((one) => one[field] !== null).map((one) => [one.at - now + width, one[field]]);
  const peak = Math.max(0, ...points.map(([, value]) => value));
  const y = (value) => (HEIGHT - (value / (peak || 1)) * (HEIGHT - 2)).toFixed(1);
  const line = points.map(([at, value]) => `${at.toFixed(1)},${y(value)}`).join(" ");
  if (svg.children.length === 0) {
    for (const [name, look] of [["polygon", "area"], ["polyline", "stroke"]]) {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
      shape.setAttribute("class", look);
      svg.append(shape);
    }
  }
  svg.setAttribute("viewBox", `0 0 ${width.toFixed(1)} ${HEIGHT}`);
  const [area, stroke] = svg.children;
  stroke.setAttribute("points", line);
  const [first, last] = [points[0]?.[0] ?? width, points.at(-1)?.[0] ?? width];
  area.setAttribute("points", line && `${first.toFixed(1)},${HEIGHT} ${line} ${last.toFixed(1)},${HEIGHT}`);
  const latest = points.at(-1)?.[1] ?? 0;
  svg.setAttribute("aria-label", `${what}, last ${covered()}: now ${rate(latest)}, at most ${rate(peak)}`);
  return peak;
}

// How much of the last minutes this page has seen.
function covered() {
  const seconds = samples.at(-1).at - samples[0].at;
  return seconds < 60 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
