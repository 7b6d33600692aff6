// The console: connects, builds the page from the table in the server's hello, and keeps it in step.

import { Controls, element } from "./controls.js";
import { Link } from "./link.js";
import { Listener } from "./listener.js";
import { conceptsOf, details, keyboard, masterPanel, otherConcepts, shapingPanel } from "./panels.js";
import { decode, encode } from "./wire.js";

const ERROR_MS = 6000;
const STALE_MS = 1500;

const byId = (id) => document.getElementById(id);
const link = new Link();
const listener = new Listener(link);
let controls = null;
let sampleRate = 32000;
let staleTimer = null;
let errorTimer = null;

link.addEventListener("hello", ({ detail }) => {
  sampleRate = detail.sample_rate;
  const table = JSON.stringify(detail.table);
  if (controls?.source !== table) build(detail.table, table);
  for (const [address, value] of Object.entries(detail.values)) controls.show(address, value);
  tell("connection", "connected", "good");
});
link.addEventListener("value", ({ detail }) => controls.show(detail.address, detail.value));
link.addEventListener("status", ({ detail }) => {
  for (const [address, value] of Object.entries(detail.values)) controls.show(address, value);
  document.body.classList.remove("stale");
  clearTimeout(staleTimer);
  staleTimer = setTimeout(() => document.body.classList.add("stale"), STALE_MS);
});
link.addEventListener("error", ({ detail }) => complain(detail.text));
link.addEventListener("close", () => tell("connection", "no connection, trying again", "bad"));

function build(table, source) {
  controls = new Controls(link, table);
  controls.source = source;
  const concepts = conceptsOf(table);
  const { panel, choose } = details(controls);
  byId("transport").replaceChildren(
    controls.toggle("/transport/play", "", { className: "big play" }),
    controls.trigger("/panic", "panic", { className: "big panic" }),
  );
  byId("prompt").replaceChildren(
    controls.field("/prompt", { placeholder: "describe the music, or leave it empty", spellcheck: false }));
  const hasNotes = concepts.some((name) => name.startsWith("note_"));
  const notes = element("section", { className: "panel notes" }, element("h2", {}, "notes"), keyboard(controls, concepts, choose));
  byId("stage").replaceChildren(
    ...(hasNotes ? [notes] : []),
    element("div", { className: "groups" }, ...otherConcepts(controls, concepts, choose)),
  );
  byId("side").replaceChildren(masterPanel(controls), ...(concepts.length ? [panel, shapingPanel(controls)] : []));
  if (concepts.length) choose(concepts[0]);
  const status = { buffer: "buffer_ms", speed: "real_time_factor", step: "step_ms", underruns: "underruns" };
  controls.watch(`/status/${status.buffer}`, (value) => tell("buffer", `${value.toFixed(0)} ms`, value < 40 ? "warn" : ""));
  controls.watch(`/status/${status.speed}`, (value) => tell("speed", `${value.toFixed(2)} ×`, value && value < 1 ? "bad" : ""));
  controls.watch(`/status/${status.step}`, (value) => tell("step", `${value.toFixed(1)} ms`));
  controls.watch(`/status/${status.underruns}`, (value) => tell("underruns", String(value), value ? "warn" : ""));
  Object.assign(window.rfm, { controls });
}

function tell(id, text, mood = "") {
  const place = byId(id);
  place.textContent = text;
  place.dataset.mood = mood;
}

function complain(text) {
  tell("problem", text, "bad");
  clearTimeout(errorTimer);
  errorTimer = setTimeout(() => tell("problem", ""), ERROR_MS);
}

byId("listen").addEventListener("click", async ({ currentTarget: button }) => {
  try {
    await (listener.isOn ? listener.stop() : listener.start(sampleRate));
  } catch (error) {
    complain(error.message);
  }
  button.setAttribute("aria-pressed", String(listener.isOn));
  if (!listener.isOn) tell("heard", "off");
});
listener.addEventListener("report", ({ detail }) => {
  if (!listener.isOn) return;
  const lost = detail.gaps || detail.dropped;
  const counts = `${detail.gaps} gaps, ${(detail.dropped / sampleRate).toFixed(1)} s dropped`;
  tell("heard", `${(1000 * detail.queued).toFixed(0)} ms · ${counts}`, !detail.isPlaying ? "warn" : lost ? "" : "good");
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input[type=text], input[type=number], select");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !controls) return;
  if (event.key === "Escape") controls.pull("/panic");
  if (event.key === " " && !event.target.matches("button")) {
    event.preventDefault();
    controls.set("/transport/play", controls.values.get("/transport/play") ? 0 : 1);
  }
});

function draw() {
  requestAnimationFrame(draw);
  const canvas = byId("scope");
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  const wave = new Float32Array(1024);
  listener.scope?.getFloatTimeDomainData(wave);
  pen.beginPath();
  for (let x = 0; x <= width; x += 2) {
    const edge = Math.sin((Math.PI * x) / width); // so that both ends rest
    pen.lineTo(x, height / 2 - wave[Math.floor((x / (width + 1)) * wave.length)] * edge * height * 0.48);
  }
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.lineWidth = 1.5 * ratio;
  pen.stroke();
}
draw();

// For the browser's console and for tests.
window.rfm = { link, listener, controls, capture: (count) => listener.capture(count), wire: { encode, decode } };
