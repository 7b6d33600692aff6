// Listening in the browser: hands the server's audio to the worklet, and knows what the worklet reports.

export class Listener extends EventTarget {
  // Events: "report" with {queued (seconds), gaps, dropped (samples), isPlaying} in detail.
  constructor(link) {
    super();
    this.link = link;
    this.context = null;
    this.captures = [];
    link.addEventListener("audio", ({ detail }) => this.take(detail));
    link.addEventListener("close", () => this.node?.port.postMessage({ clear: true }));
  }

  get isOn() {
    return this.context !== null;
  }

  // Call from a click: browsers give sound only after one.
  async start(sampleRate) {
    if (this.isOn) return;
    if (!window.AudioWorklet) throw new Error("listening needs localhost or https");
    const context = new AudioContext({ sampleRate, latencyHint: "interactive" });
    this.context = context;
    try {
      await context.audioWorklet.addModule("worklet.js");
      this.node = new AudioWorkletNode(context, "rfm-player", { numberOfInputs: 0, outputChannelCount: [1] });
      this.node.port.onmessage = ({ data }) => this.hear(data);
      this.scope = new AnalyserNode(context, { fftSize: 1024 });
      this.node.connect(this.scope).connect(context.destination);
      await context.resume();
      this.link.listen(true);
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  async stop() {
    if (!this.isOn) return;
    this.link.listen(false);
    const context = this.context;
    this.context = this.node = this.scope = null;
    await context.close();
  }

  take({ start, samples }) {
    if (!this.node) return;
    const copy = samples.slice().buffer; // aligned, as a Float32Array must be
    this.node.port.postMessage({ start, samples: new Float32Array(copy) }, [copy]);
  }

  hear(data) {
    if (data.captured) this.captures.shift()?.(data.captured);
    else this.dispatchEvent(new CustomEvent("report", { detail: data }));
  }

  // The next `count` samples that are heard: {samples, start (position in the stream), breaks (gaps in between)}.
  capture(count) {
    return new Promise((resolve) => {
      this.captures.push(resolve);
      this.node.port.postMessage({ capture: count });
    });
  }
}
