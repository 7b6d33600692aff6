// The jitter buffer, on the browser's audio thread. Samples come out unaltered; only where some are missing does the
// sound fade: the last value decays to 0 in 5 ms, and what follows fades in over 5 ms.

const START_SECONDS = 0.12; // queued before the sound starts, and kept when too much is queued
const MOST_SECONDS = 0.6;
const FADE_SECONDS = 0.005;
const REPORT_SECONDS = 0.1;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.fade = Math.round(FADE_SECONDS * sampleRate);
    this.counts = { gaps: 0, dropped: 0 };
    this.sinceReport = 0;
    this.last = 0; // what was heard last
    this.capture = null;
    this.clear();
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.queueUp(data.start, data.samples);
      else if (data.capture) this.capture = { samples: new Float32Array(data.capture), filled: 0, start: null, breaks: 0 };
      else if (data.clear) this.clear();
      else if (data.report) this.report();
    };
  }

  clear() {
    this.queue = []; // {start, samples}, oldest first
    this.queued = 0; // samples not yet heard
    this.offset = 0; // heard of the oldest
    this.position = null; // in the stream, of the sample due next
    this.isPlaying = false;
    this.level = this.last; // from which the sound decays
    this.decaying = this.fade; // samples of decay still to come
    this.rising = 0; // samples of the fade-in that are over
    this.hold = 0; // samples to decay before a jump is followed
  }

  queueUp(start, samples) {
    this.queue.push({ start, samples });
    this.queued += samples.length;
    if (this.queued <= MOST_SECONDS * sampleRate) return;
    const before = this.queued;
    while (this.queue.length > 1 && this.queued - this.queue[0].samples.length >= START_SECONDS * sampleRate) this.drop();
    this.counts.dropped += before - this.queued;
  }

  drop() {
    this.queued -= this.queue.shift().samples.length - this.offset;
    this.offset = 0;
  }

  process(_inputs, [[out]]) {
    for (let index = 0; index < out.length; index++) out[index] = this.last = this.next();
    this.sinceReport += out.length;
    if (this.sinceReport >= REPORT_SECONDS * sampleRate) this.report();
    return true;
  }

  report() {
    this.sinceReport = 0;
    this.port.postMessage({ ...this.counts, queued: this.queued / sampleRate, isPlaying: this.isPlaying });
  }

  next() {
    if (!this.isPlaying) {
      if (this.queued < START_SECONDS * sampleRate) return this.decay();
      this.isPlaying = true;
      this.rising = 0;
      this.position = this.queue[0].start + this.offset;
    }
    const head = this.queue[0];
    if (head === undefined) {
      this.isPlaying = false;
      this.counts.gaps++;
      return this.interrupt();
    }
    if (head.start + this.offset !== this.position) {
      this.position = head.start + this.offset;
      this.hold = this.fade;
      this.rising = 0;
      return this.interrupt();
    }
    if (this.hold > 0) {
      this.hold--;
      return this.decay();
    }
    return this.hear(head);
  }

  hear(head) {
    let sample = head.samples[this.offset];
    if (this.rising < this.fade) sample *= ++this.rising / this.fade;
    if (this.capture) this.record(sample);
    this.position++;
    this.queued--;
    if (++this.offset === head.samples.length) {
      this.queue.shift();
      this.offset = 0;
    }
    return sample;
  }

  interrupt() {
    this.decaying = this.fade;
    this.level = this.last;
    if (this.capture && this.capture.filled) this.capture.breaks++;
    return this.decay();
  }

  decay() {
    if (this.decaying === 0) return 0;
    return this.level * (--this.decaying / this.fade);
  }

  record(sample) {
    const capture = this.capture;
    capture.start ??= this.position;
    capture.samples[capture.filled++] = sample;
    if (capture.filled === capture.samples.length) {
      this.capture = null;
      this.port.postMessage({ captured: capture });
    }
  }
}

registerProcessor("rfm-player", Player);
