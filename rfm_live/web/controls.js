// The knobs: every control is built from its entry in the server's table and shows the value the server holds.

// Make an element with properties, data-* entries and children.
export function element(name, { data = {}, style = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  Object.assign(made.dataset, data);
  for (const [key, value] of Object.entries(style)) made.style.setProperty(key, value);
  made.append(...children);
  return made;
}

export class Controls {
  // `link` sends; `table` is the server's list of parameters.
  constructor(link, table) {
    this.link = link;
    this.table = new Map(table.map((parameter) => [parameter.address, parameter]));
    this.values = new Map();
    this.shows = new Map(); // address -> functions that show a value
  }

  // Call `show(value)` whenever the value at `address` is known or changes. Returns a function that ends it.
  watch(address, show) {
    if (!this.shows.has(address)) this.shows.set(address, new Set());
    this.shows.get(address).add(show);
    if (this.values.has(address)) show(this.values.get(address));
    return () => this.shows.get(address).delete(show);
  }

  // Every address that begins with `at`, in the table's order.
  addresses(at) {
    return [...this.table.keys()].filter((address) => address.startsWith(at));
  }

  // Show a value, whoever set it.
  show(address, value) {
    this.values.set(address, value);
    for (const show of this.shows.get(address) ?? []) show(value);
  }

  // Set a value from this page.
  set(address, value) {
    this.show(address, value);
    this.link.set(address, value);
  }

  pull(address) {
    this.link.set(address, true);
    this.link.flush();
  }

  // A slider over the whole range, filled from zero (or from the low end); a double click brings the default back.
  slider(address, { isVertical = false } = {}) {
    const { low, high, kind, default: initial, help } = this.table.get(address);
    const step = kind === "i" ? 1 : stepOf(low, high);
    const input = element("input", {
      type: "range", min: low, max: high, step, title: help,
      className: isVertical ? "slider vertical" : "slider", data: { address },
    });
    input.setAttribute("aria-label", address);
    let isHeld = false;
    const paint = () => {
      const part = (value) => `${(100 * (value - low)) / (high - low)}%`;
      const zero = Math.min(Math.max(0, low), high);
      const value = Number(input.value);
      input.style.setProperty("--from", part(Math.min(zero, value)));
      input.style.setProperty("--to", part(Math.max(zero, value)));
      input.classList.toggle("moved", Math.abs(value - initial) > 0.6 * step); // the browser rounds to steps
    };
    const release = () => {
      if (isHeld) this.link.get(address); // what others set meanwhile was not shown
      isHeld = false;
    };
    input.addEventListener("pointerdown", () => (isHeld = true));
    input.addEventListener("pointerup", release);
    input.addEventListener("pointercancel", release);
    input.addEventListener("input", () => {
      paint();
      this.set(address, Number(input.value));
    });
    input.addEventListener("dblclick", () => this.set(address, initial));
    this.watch(address, (value) => {
      if (!isHeld) input.value = value;
      paint();
    });
    return input;
  }

  readout(address) {
    const output = element("output");
    this.watch(address, (value) => (output.textContent = this.text(address, value)));
    return output;
  }

  text(address, value) {
    const { kind, low, unit } = this.table.get(address);
    if (kind === "s") return value;
    const number = kind === "i" ? String(value) : value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
    const sign = low < 0 && value > 0 ? "+" : "";
    return `${sign}${number}${unit ? ` ${unit}` : ""}`.replace("-", "−");
  }

  // A button that is pressed while the value is 1.
  toggle(address, label, properties = {}) {
    const button = element("button", { type: "button", title: this.table.get(address).help, data: { address }, ...properties }, label);
    button.setAttribute("aria-label", address);
    button.addEventListener("click", () => this.set(address, this.values.get(address) ? 0 : 1));
    this.watch(address, (value) => button.setAttribute("aria-pressed", String(Boolean(value))));
    return button;
  }

  trigger(address, label, properties = {}) {
    const button = element("button", { type: "button", title: this.table.get(address).help, data: { address }, ...properties }, label);
    button.addEventListener("click", () => this.pull(address));
    return button;
  }

  // A list of the texts that the address takes.
  choice(address) {
    const { choices, help } = this.table.get(address);
    const options = choices.map((value) => element("option", { value }, value.replaceAll("_", " ") || "–"));
    const list = element("select", { className: "choice", title: help, data: { address } }, ...options);
    list.setAttribute("aria-label", address);
    list.addEventListener("change", () => this.set(address, list.value));
    this.watch(address, (value) => (list.value = value));
    return list;
  }

  // A field for whole numbers or text; it sends when it is left or on Enter.
  field(address, properties = {}) {
    const { kind, low, high, help, pattern } = this.table.get(address);
    const text = { type: "text", maxLength: high, ...(pattern && { pattern }) };
    const limits = kind === "s" ? text : { type: "number", min: low, max: high, step: 1 };
    const input = element("input", { ...limits, title: help, data: { address }, autocomplete: "off", ...properties });
    input.setAttribute("aria-label", address);
    const holds = () => String(this.values.get(address) ?? "");
    input.addEventListener("change", () => {
      if (input.value === holds()) return;
      if (!input.checkValidity() || (kind !== "s" && input.value === "")) input.value = holds();
      else this.set(address, kind === "s" ? input.value : Number(input.value));
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") input.blur();
      if (event.key === "Escape") {
        input.value = holds();
        input.blur();
      }
    });
    this.watch(address, (value) => {
      if (document.activeElement !== input) input.value = value;
    });
    return input;
  }
}

function stepOf(low, high) {
  const range = high - low;
  return range > 1000 ? 1 : range > 20 ? 0.1 : 0.01;
}
