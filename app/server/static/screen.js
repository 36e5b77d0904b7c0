// The picture: decodes the newest frame, draws it with the display's clock, and says so to the server.
// Around it the same picture glows, far out of focus, where a black bar would stand.

const FPS_SPAN = 2000; // ms over which "fps" counts what was drawn
const GLOW_EVERY = 400; // ms between two looks of the glow: a light that flickers draws the eye from the picture
const GLOW_SPOTS = 6; // it knows so many spots across and down

class Screen {
  constructor({ canvas, glow, fine }, { ack, onDrawn }) {
    Object.assign(this, { canvas, glow, ack, onDrawn, drawn: [], skipped: 0, decoding: false, link: 0, glowed: -Infinity });
    this.context = canvas.getContext("2d", { alpha: false });
    this.enlarger = new Enlarger(canvas, fine);
    this.spots = Object.assign(document.createElement("canvas"), { width: GLOW_SPOTS, height: GLOW_SPOTS });
    this.forget();
    document.addEventListener("visibilitychange", () => this.show());
  }

  // A new socket counts its frames and epochs anew.
  forget() {
    this.ready?.bitmap.close();
    Object.assign(this, { waiting: null, ready: null, epoch: null, last: null, link: this.link + 1 });
  }

  size(width, height) {
    Object.assign(this.canvas, { width, height });
  }

  // Epochs count modulo 2**16: later is what lies less than half of the circle ahead.
  stale(frame) {
    return this.epoch !== null && ((frame.epoch - this.epoch) & 0xffff) > 0x7fff;
  }

  async offer(frame) {
    if (this.stale(frame)) return;
    this.epoch = frame.epoch;
    if (this.waiting) this.skipped += 1;
    this.waiting = { ...frame, link: this.link };
    if (this.decoding) return;
    this.decoding = true;
    while (this.waiting) {
      const next = this.waiting;
      this.waiting = null;
      try {
        const bitmap = await createImageBitmap(new Blob([next.payload], { type: "image/jpeg" }));
        if (next.link !== this.link) {
          bitmap.close(); // decoded while the socket was opened anew
          continue;
        }
        this.ready?.bitmap.close();
        if (this.ready) this.skipped += 1;
        this.ready = { ...next, bitmap };
        this.show();
      } catch {
        this.skipped += 1; // a damaged picture: the next one is whole
        this.ack(next.seq);
      }
    }
    this.decoding = false;
  }

  // In a hidden tab the browser holds this back, so nothing is acknowledged and the server stops sending.
  show() {
    if (this.asked || !this.ready || document.hidden) return;
    this.asked = requestAnimationFrame((now) => {
      this.asked = 0;
      const frame = this.ready;
      this.ready = null;
      if (!frame) return;
      if (!this.stale(frame)) this.draw(frame, now);
      frame.bitmap.close();
      this.ack(frame.seq);
    });
  }

  draw(frame, now) {
    this.context.drawImage(frame.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    this.enlarger.draw();
    if (now - this.glowed > GLOW_EVERY) this.light(frame.bitmap, now);
    this.last = { seq: frame.seq, frame: frame.frame, t: frame.t, epoch: frame.epoch, made: frame.made, at: now, source: frame.source };
    this.drawn.push(this.last);
    while (this.drawn[0].at < now - FPS_SPAN) this.drawn.shift();
    this.onDrawn(this.last);
  }

  // Shrunk to a few spots and stretched again: a blur that costs nothing.
  light(bitmap, now) {
    this.glowed = now;
    for (const [canvas, picture] of [[this.spots, bitmap], [this.glow, this.spots]]) {
      const context = canvas.getContext("2d", { alpha: false });
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    }
  }

  fps() {
    const now = performance.now();
    return (this.drawn.filter(({ at }) => at > now - FPS_SPAN).length * 1000) / FPS_SPAN;
  }

  // When the first frame from `number` on was drawn after `since`, as far as that is remembered.
  when(number, since) {
    return this.drawn.find(({ frame, at, epoch }) => frame >= number && at >= since && epoch === this.epoch)?.at;
  }
}
