// The WebSocket to the server: comes back by itself after a loss, and sends a knob's newest value at most every 15 ms.

import { decode, encode } from "./wire.js";

const SEND_MS = 15;
const RETRY_MS = [250, 500, 1000, 2000];

export class Link extends EventTarget {
  // Events: "open", "close", and one per op of the server ("hello", "value", "status", "audio", "error"), in detail the message.
  constructor() {
    super();
    this.isOpen = false;
    this.failures = 0;
    this.subscription = { op: "subscribe", audio: false, status: true };
    this.waiting = new Map();
    this.timer = null;
    this.connect();
  }

  connect() {
    const url = new URL("ws", location.href.replace(/^http/, "ws"));
    url.search = location.search;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.isOpen = true;
      this.failures = 0;
      this.send(this.subscription);
      this.dispatchEvent(new Event("open"));
    };
    this.socket.onmessage = ({ data }) => {
      const message = decode(data);
      this.dispatchEvent(new CustomEvent(message.op, { detail: message }));
    };
    this.socket.onclose = () => {
      this.isOpen = false;
      this.waiting.clear();
      this.dispatchEvent(new Event("close"));
      setTimeout(() => this.connect(), RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)]);
    };
  }

  send(message) {
    if (this.isOpen) this.socket.send(encode(message));
  }

  get(address) {
    this.flush();
    this.send({ op: "get", address });
  }

  set(address, value) {
    this.waiting.set(address, value);
    if (this.timer === null) this.flush();
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.waiting.size === 0) return;
    for (const [address, value] of this.waiting) this.send({ op: "set", address, value });
    this.waiting.clear();
    this.timer = setTimeout(() => this.flush(), SEND_MS);
  }

  listen(audio) {
    this.subscription.audio = audio;
    this.send(this.subscription);
  }
}
