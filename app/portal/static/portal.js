// The portal's own script: one stream of events per tab, fragments fetched anew, curves, and small form helpers.
// Everything on the pages can be read, and every form sent, without it.

const QUIET = 1000; // milliseconds between two refreshes of one fragment
const POLL = 5000; // how often a tab without a stream polls
const SLOTS = 4; // streams of one browser: it opens six connections to one HTTP/1.1 server at most
const ENDS = new Set(["job.succeeded", "job.failed", "job.cancelled", "job.expired"]);

// --- events -----------------------------------------------------------------------------------------------------

const page = document.querySelector("[data-stream]");
let source = null;
let last = page ? page.dataset.after : null;
let over = false;
let release = null; // gives the slot back
let poll = null;

function address() {
  return last ? `${page.dataset.stream}?after=${encodeURIComponent(last)}` : page.dataset.stream;
}

function listen() {
  source = new EventSource(address());
  source.onmessage = (message) => {
    last = message.lastEventId || last;
    const event = JSON.parse(message.data);
    announce(event);
    if (ENDS.has(event.type) && page.dataset.streamEnds !== undefined) {
      over = true;
      disconnect();
    }
  };
  source.onerror = () => {
    // 204: every event was sent. Anything else but a lost connection will not get better by asking again at once.
    if (source && source.readyState === EventSource.CLOSED) {
      disconnect();
      if (!over) poll = setInterval(() => announce({ type: "*", job_id: null }), POLL);
    }
  };
  document.documentElement.dataset.live = "stream";
}

let waking = false;
async function wake() {
  // Asked twice at once (when the page opens), it would take two slots and open two streams.
  if (!page || over || source || release || waking || document.hidden) return;
  if (!navigator.locks) return listen();
  waking = true;
  await take();
  waking = false;
}

async function take() {
  for (let slot = 0; slot < SLOTS; slot += 1) {
    const mine = await new Promise((resolve) => {
      navigator.locks.request(`espalier-stream-${slot}`, { ifAvailable: true }, (lock) => {
        resolve(Boolean(lock));
        return lock ? new Promise((free) => { release = free; }) : undefined;
      });
    });
    if (mine) {
      clearInterval(poll);
      poll = null;
      if (document.hidden) return disconnect();
      return listen();
    }
  }
  document.documentElement.dataset.live = "poll";
  poll ??= setInterval(() => { announce({ type: "*", job_id: null }); wake(); }, POLL);
}

function disconnect() {
  source?.close();
  source = null;
  release?.();
  release = null;
  clearInterval(poll);
  poll = null;
  document.documentElement.dataset.live = over ? "over" : "paused";
}

const ANNOUNCEMENTS = {
  "job.started": "is running", "job.paused": "is paused", "job.resumed": "is queued again",
  "job.cancel_requested": "is being cancelled", "job.succeeded": "has succeeded", "job.failed": "has failed",
  "job.cancelled": "is cancelled", "job.expired": "has expired",
};

// An element with data-on="job.progress job.metric" is refreshed by such events (and all of data-job's, if it has one).
function announce(event) {
  const announcement = document.getElementById("announcement");
  if (announcement && ANNOUNCEMENTS[event.type]) announcement.textContent = `${page.dataset.name ?? "A job"} ${ANNOUNCEMENTS[event.type]}.`;
  for (const element of document.querySelectorAll("[data-on]")) {
    const kinds = element.dataset.on.split(" ");
    const concerns = event.type === "*" || kinds.includes("*") || kinds.includes(event.type);
    if (concerns && (!element.dataset.job || !event.job_id || element.dataset.job === event.job_id)) soon(element);
  }
}

const waiting = new WeakMap();
function soon(element) {
  const known = waiting.get(element) ?? { at: 0, timer: null };
  waiting.set(element, known);
  if (known.timer) return;
  known.timer = setTimeout(() => {
    known.timer = null;
    known.at = Date.now();
    if (element.isConnected) element.dispatchEvent(new CustomEvent("refresh"));
  }, Math.max(0, known.at + QUIET - Date.now()));
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : wake()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", wake);
wake();

// --- what a swap must not lose: what was opened or chosen, how far something was scrolled (htmx keeps the focus) --------

let kept = [];
document.body.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => {
  kept = [];
  for (const summary of target.querySelectorAll("details[open] > summary[id]")) {
    kept.push([summary.id, (fresh) => { fresh.parentElement.open = true; }]);
  }
  for (const choice of target.querySelectorAll(".tabset input:checked")) {
    kept.push([choice.id, (fresh) => { fresh.checked = true; }]);
  }
  for (const { id, scrollLeft, scrollTop, scrollHeight, clientHeight } of target.querySelectorAll(".scroll[id], .log")) {
    const atEnd = scrollTop > 0 && scrollTop + clientHeight > scrollHeight - 4;
    kept.push([id, (fresh) => { fresh.scrollLeft = scrollLeft; fresh.scrollTop = atEnd ? fresh.scrollHeight : scrollTop; }]);
  }
});
document.body.addEventListener("htmx:afterSwap", () => {
  for (const [id, restore] of kept) {
    const fresh = document.getElementById(id);
    if (fresh) restore(fresh);
  }
});
for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight; // the newest line is the last
// In a narrow window a plot begins at its right: there are the sparsest results, and what happens now.
for (const plot of document.querySelectorAll(".scroll > svg.broad")) plot.parentElement.scrollLeft = plot.clientWidth;

// --- curves -----------------------------------------------------------------------------------------------------

const drawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

async function draw(holder) {
  const answer = await fetch(holder.dataset.curves, { headers: { accept: "application/json" } });
  if (!answer.ok) return;
  const charts = await answer.json();
  // A series that was not there when the page was made needs its section with the table: fetch the page's anew.
  if (Object.keys(charts).some((name) => !holder.querySelector(`[data-chart="${name}"]`))) return again(holder);
  for (const [name, chart] of Object.entries(charts)) plot(holder.querySelector(`[data-chart="${name}"]`), chart);
}

async function again(holder) {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(holder.id);
  if (!fresh || !fresh.querySelector("[data-chart]")) return;
  drawn.clear();
  holder.replaceChildren(...fresh.childNodes);
  draw(holder);
}

function short(value) {
  if (value === null || value === undefined) return "";
  const small = value !== 0 && Math.abs(value) < 1e-3;
  return small ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

function plot(element, chart) {
  const known = drawn.get(element);
  if (known && known.names === chart.names.join()) return known.plot.setData(chart.data);
  known?.plot.destroy();
  element.hidden = false;
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const shape = (index) => ({
    label: chart.names[index],
    value: (_, value) => short(value),
    stroke: colour(`--series-${(index % 4) + 1}`),
    width: 2,
    dash: index < 4 ? undefined : [6, 4],
    points: { show: chart.data[0].length < 40, size: 6 },
    spanGaps: true,
  });
  const x = chart.ticks
    ? { ...axis, splits: () => chart.data[0], values: (_, splits) => splits.map((i) => chart.ticks[i] ?? "") }
    : { ...axis, label: chart.x_title, labelSize: 22 };
  const made = new uPlot({
    width: element.clientWidth,
    height: 260,
    scales: { x: { time: false, range: chart.ticks ? [-0.25, chart.data[0].length - 0.75] : undefined } },
    axes: [x, { ...axis, size: 60, values: (_, splits) => splits.map(short) }],
    series: [{ label: chart.x_title, value: (_, v) => (chart.ticks ? chart.ticks[v] ?? "" : v ?? "") },
      ...chart.names.map((_, index) => shape(index))],
  }, chart.data, element);
  drawn.set(element, { names: chart.names.join(), plot: made });
}

function redraw() {
  for (const { plot: made } of drawn.values()) made.destroy();
  drawn.clear();
  document.querySelectorAll("[data-curves]").forEach(draw);
}

for (const holder of document.querySelectorAll("[data-curves]")) {
  holder.addEventListener("refresh", () => draw(holder));
  draw(holder);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let resizing = null;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    for (const [element, { plot: made }] of drawn) made.setSize({ width: element.clientWidth, height: 260 });
  }, 150);
});

// --- what a script of ours asked for and was refused ------------------------------------------------------------

document.body.addEventListener("htmx:responseError", (event) => {
  const text = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html").body.textContent.trim();
  say(text || `The service answered ${event.detail.xhr.status}.`);
});
document.body.addEventListener("htmx:sendError", () => say("The service does not answer."));

function say(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text.slice(0, 500);
  notice.hidden = false;
}

// --- small helpers ----------------------------------------------------------------------------------------------

document.documentElement.dataset.script = "on"; // shows what would do nothing without it

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const copied = document.querySelector(button.dataset.copy);
  getSelection().selectAllChildren(copied);
  if (!navigator.clipboard) return; // over plain HTTP browsers give none: what is picked can be copied by hand
  await navigator.clipboard.writeText(copied.textContent);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-check-all]");
  if (!all) return;
  for (const box of document.querySelectorAll(all.dataset.checkAll)) box.checked = all.checked;
});

document.addEventListener("submit", (event) => {
  const asked = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (asked && !confirm(asked)) event.preventDefault();
});
