// The parts of the page: keyboard of notes, other concepts, the details of the chosen one, and the master strip.

import { element } from "./controls.js";

const NOTES = ["c", "c_sharp", "d", "d_sharp", "e", "f", "f_sharp", "g", "g_sharp", "a", "a_sharp", "b"];
const HUE_OF_PANEL = 210;

export function conceptsOf(table) {
  const names = table.map(({ address }) => address.match(/^\/concept\/(.+)\/eta$/)?.[1]);
  return names.filter((name) => name !== undefined);
}

// The twelve notes side by side, black keys set back; notes that the bank lacks stay empty.
export function keyboard(controls, concepts, choose) {
  const keys = NOTES.map((note, index) => {
    const name = `note_${note}`;
    const kind = note.endsWith("sharp") ? "key black" : "key white";
    if (!concepts.includes(name)) return element("div", { className: `${kind} empty` });
    const label = note[0].toUpperCase() + (note.endsWith("sharp") ? "♯" : "");
    return strip(controls, name, { label, className: kind, hue: index * 30, isVertical: true, choose });
  });
  return element("div", { className: "keyboard" }, ...keys);
}

// Everything that is no note, grouped by the first word of the name.
export function otherConcepts(controls, concepts, choose) {
  const groups = new Map();
  for (const name of concepts.filter((name) => !NOTES.some((note) => name === `note_${note}`))) {
    const [first, ...rest] = name.split("_");
    const group = rest.length ? first : "character";
    const label = (rest.length ? rest : [first]).join(" ");
    groups.set(group, [...(groups.get(group) ?? []), { name, label }]);
  }
  return [...groups].map(([group, members], index) =>
    element(
      "section", { className: "panel group" }, element("h2", {}, group),
      ...members.map(({ name, label }, place) =>
        strip(controls, name, { label, className: "row", hue: HUE_OF_PANEL + 55 * index + 14 * place, choose })),
    ));
}

// One concept: name, slider, value, switch and solo.
function strip(controls, name, { label, className, hue, choose, isVertical = false }) {
  const at = `/concept/${name}`;
  const cap = element("button", { type: "button", className: "cap", title: `${name}: more` }, label);
  const box = element(
    "div", { className: `strip ${className}`, data: { concept: name }, style: { "--hue": hue } },
    controls.readout(`${at}/eta`),
    controls.slider(`${at}/eta`, { isVertical }),
    element(
      "div", { className: "switches" },
      controls.toggle(`${at}/on`, "on", { className: "mini on" }),
      controls.toggle(`${at}/solo`, "solo", { className: "mini solo" }),
    ),
    cap,
  );
  cap.addEventListener("click", () => choose(name));
  controls.watch(`${at}/on`, (value) => box.classList.toggle("off", !value));
  return box;
}

const STRIP = ["on", "solo"]; // what the concept's strip shows
const AT_HAND = ["eta", "gate", "period", "slew"];

// All of one concept at a time but what its strip has; what is seldom turned is folded away.
export function details(controls) {
  const body = element("div", { className: "fields" });
  const title = element("h2", {}, "details");
  const panel = element("section", { className: "panel details" }, title, body);
  const built = new Map();
  const choose = (name) => {
    title.textContent = name.replaceAll("_", " ").replace("sharp", "♯");
    if (!built.has(name)) {
      const at = `/concept/${name}/`;
      const rest = knobs(controls, at, [...STRIP, ...AT_HAND]);
      const fold = element(
        "details", { className: "shaping" }, element("summary", {}, "shape"), element("div", { className: "fields" }, ...rest));
      built.set(name, [...AT_HAND.map((part) => field(controls, at + part, part)), fold]);
    }
    body.replaceChildren(...built.get(name));
    for (const box of document.querySelectorAll(".strip")) box.classList.toggle("chosen", box.dataset.concept === name);
  };
  return { panel, choose };
}

// A knob for every address that begins with `at`, in the table's order, but those that end in one of `without`.
function knobs(controls, at, without) {
  const endings = controls.addresses(at).map((address) => address.slice(at.length));
  return endings.filter((ending) => !without.includes(ending)).map((ending) => field(controls, at + ending, ending));
}

// A named control: a slider with its value, a list of choices, a line of text, a switch, or a button.
function field(controls, address, label) {
  const { kind, low, high, choices } = controls.table.get(address);
  const named = (...parts) => element("label", { className: "field" }, element("span", {}, label.replaceAll("_", "-")), ...parts);
  if (kind === "trigger") return named(controls.trigger(address, "now", { className: "mini" }));
  if (choices.length) return named(controls.choice(address));
  if (kind === "s") return named(controls.field(address));
  if (kind === "i" && high - low === 1) return named(controls.toggle(address, "on", { className: "mini on" }));
  return named(controls.readout(address), controls.slider(address));
}

// What shapes the steering of all concepts together; folded away until it is wanted.
export function shapingPanel(controls) {
  const single = ["/budget_of", "/orthogonal"].map((address) => field(controls, address, address.slice(1)));
  const layers = controls.addresses("/layers").map((address) => field(controls, address, address.slice(1)));
  const fade = controls.addresses("/crossfade/").map((address) => field(controls, address, address.slice(1).replace("/", " ")));
  return element(
    "details", { className: "panel shaping" }, element("summary", {}, "shape of all"),
    element("div", { className: "fields" }, ...single, ...layers, ...fade),
  );
}

export function masterPanel(controls) {
  const sliders = ["strength", "budget", "gain", "temperature", "top_k", "top_p", "guidance", "window"].map((name) =>
    field(controls, `/${name}`, name));
  const seed = controls.field("/seed", { className: "seed" });
  const draw = element("button", { type: "button", className: "mini", title: "another seed" }, "draw");
  draw.addEventListener("click", () => controls.set("/seed", Math.floor(Math.random() * 2 ** 31)));
  return element(
    "section", { className: "panel master" }, element("h2", {}, "master"),
    element("div", { className: "fields" }, ...sliders),
    element(
      "div", { className: "line" },
      element("label", { className: "seedbox" }, element("span", {}, "seed"), seed), draw,
      controls.trigger("/forget", "forget", { className: "mini" }),
    ),
  );
}
