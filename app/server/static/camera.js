// A camera, a screen or a file in front, the film behind it: pictures go up the same socket as binary messages, the
// newest wins, and each frame that comes back says of which picture it was made, so that the delay is a measured one.

const PICTURE_BYTES = 20; // as app/live/picture_header.py
const UPLOADS = 2; // pictures that may be on their way without having been decoded
const UPLOAD_QUEUE = 64 * 1024; // bytes in the socket above which a picture is left out
const SLEEP = 5000; // ms of a hidden tab after which a camera is let go
const KEPT_PICTURES = 96; // small copies of what was sent, to stand beside the frames made of them
const DELAYS = 64; // frames over which the delay is told

// Runs in a worker: turns a picture into a JPEG, and a small copy to compare with.
const ENCODER = `
let canvas;
onmessage = async ({ data: { bitmap, header, mirror, quality } }) => {
  const { width, height } = bitmap;
  if (canvas?.width !== width || canvas?.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false });
  context.setTransform(mirror ? -1 : 1, 0, 0, 1, mirror ? width : 0, 0);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const payload = await (await canvas.convertToBlob({ type: "image/jpeg", quality })).arrayBuffer();
  const message = new Uint8Array(header.byteLength + payload.byteLength);
  message.set(new Uint8Array(header));
  message.set(new Uint8Array(payload), header.byteLength);
  const copy = canvas.transferToImageBitmap();
  postMessage({ message: message.buffer, copy }, [message.buffer, copy]);
};
`;

const SOURCE_CARD = `
  <h3>Made of</h3>
  <div class="rv-sources" role="group" aria-label="What the film is made of">
    <button type="button" data-source="none" aria-pressed="true">Words</button>
    <button type="button" data-source="camera" aria-pressed="false">Camera</button>
    <button type="button" data-source="screen" aria-pressed="false">Screen</button>
    <label class="rv-button" data-source="file">File<input type="file" accept="video/*" aria-label="A video file of yours"></label>
  </div>
  <p class="rv-hint" id="rv-source-said" role="status"></p>
  <div id="rv-insecure" hidden>
    <p class="rv-hint">Browsers give cameras to secure pages only. Any of these helps:</p>
    <ol>
      <li>Open the page on the machine it runs on, or through a tunnel: <code id="rv-tunnel"></code>, then <code>http://127.0.0.1</code>.</li>
      <li>Start it with https: <code>rivulet web --ssl_certfile cert.pem --ssl_keyfile key.pem</code>, or behind a proxy that has it.</li>
      <li>In Chrome, for a test: <code>chrome://flags/#unsafely-treat-insecure-origin-as-secure</code> with <code id="rv-origin"></code>.</li>
    </ol>
  </div>
  <div id="rv-source-on" hidden>
    <label id="rv-devices" hidden>Camera <select aria-label="Which camera"></select></label>
    <label class="rv-slide" title="How much of the picture is given up to the words">Strength <input type="range" id="rv-strength" min="0.3" max="1" step="0.05"><output for="rv-strength"></output></label>
    <label class="rv-slide" title="How much of the picture's detail enters; less leaves flat shapes">Hold <input type="range" id="rv-hold" min="0" max="1" step="0.05" aria-label="Hold structure"><output for="rv-hold"></output></label>
    <label class="rv-slide" title="Wipe between what goes in and what comes out">A/B <input type="range" id="rv-wipe" min="0" max="1" step="0.01" value="0" aria-label="Wipe between the source and the film"><output for="rv-wipe"></output></label>
    <label class="rv-slide" title="Steps are taken away until a picture is no older than this when it is made over">Delay <select id="rv-latency" aria-label="Hold the delay under"><option value="">as it comes</option><option value="0.4">0.4 s</option><option value="0.6">0.6 s</option><option value="0.8">0.8 s</option><option value="1">1 s</option><option value="1.5">1.5 s</option></select></label>
    <label class="rv-check"><input type="checkbox" id="rv-mirror"> mirror</label>
    <label class="rv-check" title="Off unless you tick it, and off again with the next source"><input type="checkbox" id="rv-keep"> record what goes in, so that this film can be made again</label>
    <label class="rv-check" id="rv-looping" hidden><input type="checkbox" id="rv-loop" checked> begin the file again at its end</label>
    <dl class="rv-readouts">
      <div title="From the moment a picture was taken, as the browser tells it, to the drawing of the frame made of it; the camera's own delay and the display's are not in it"><dt>To screen</dt><dd id="rv-delay">–</dd></div>
      <div title="The share of noise a picture enters with: less where more moves"><dt>Noise</dt><dd id="rv-noise">–</dd></div>
      <div title="Chunks that showed nothing new and were not made"><dt>Still</dt><dd id="rv-skips">–</dd></div>
      <div title="Pictures a second that are sent"><dt>Sent</dt><dd id="rv-sent">–</dd></div>
    </dl>
    <p class="rv-hint" id="rv-traded" role="status"></p>
  </div>
  <p class="rv-hint" id="rv-kept"></p>
  <div class="rv-begins">
    <label class="rv-button" id="rv-begin" title="The film begins anew: with a picture, or with the last pictures of a clip, and goes on from there under your words. They are kept beside its log.">Begin with …<input type="file" accept="image/*,video/*" aria-label="A picture or a clip that the film begins with"></label>
    <button type="button" id="rv-begin-end" hidden title="The film begins anew with the last pictures of this file">Begin with its end</button>
  </div>
  <p class="rv-hint" id="rv-begin-said" role="status"></p>`;
const KEPT = {
  false: "Pictures go to this server and no further. They are not recorded, so a film of them cannot be made again.",
  true: "Pictures go to this server and no further. It records them beside this film's log, so that the film can be made again.",
};

class Camera {
  constructor(live) {
    Object.assign(this, { live, number: 0, seq: 0, taken: 0, busy: false, sentAt: -Infinity, copies: new Map(), delays: [], sends: [] });
    this.before = make("canvas", { id: "rv-before", hidden: true, ariaHidden: "true" });
    live.$("stage").insertBefore(this.before, live.$("waiting"));
    this.card = make("section", { className: "rv-card rv-source", id: "rv-source", innerHTML: SOURCE_CARD });
    live.root.querySelector(".rv-side .rv-card").before(this.card);
    this.source = new Source({
      open: (kind, detail) => this.open(kind, detail),
      close: (opened) => this.close(opened),
      changed: () => this.changed(),
    });
    this.wire();
    this.hear();
    this.restore();
    setInterval(() => this.figures(), 500);
  }

  $(id) {
    return this.card.querySelector(`#rv-${id}`);
  }

  // Controls -------------------------------------------------------------------------------------------------------

  wire() {
    for (const button of this.card.querySelectorAll("button[data-source]")) button.onclick = () => this.source.choose(button.dataset.source);
    const file = this.card.querySelector('[data-source="file"] input');
    file.onchange = () => {
      if (file.files.length) this.file(file.files[0]);
      file.value = "";
    };
    for (const [name, text] of [["strength", String], ["hold", String], ["wipe", (value) => `${Math.round(100 * value)} %`]]) {
      const input = this.$(name);
      input.oninput = () => (input.parentElement.querySelector("output").textContent = text(input.valueAsNumber));
      input.onchange = () => this.say();
    }
    this.$("wipe").addEventListener("input", () => this.wipe());
    this.$("latency").onchange = () => this.say();
    this.$("mirror").onchange = () => this.keep();
    this.$("keep").onchange = () => this.say();
    this.$("loop").onchange = () => {
      if (this.source.opened) this.source.opened.video.loop = this.$("loop").checked;
    };
    this.devices = this.$("devices").querySelector("select");
    this.devices.onchange = () => this.source.choose("camera", this.devices.value);
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.list());
    this.$("tunnel").textContent = `ssh -L ${location.port || 80}:127.0.0.1:${location.port || 80} ${location.hostname}`;
    this.$("origin").textContent = location.origin;
    // A camera that goes on behind a tab that nobody sees is what people fear: it is let go, and says so.
    const sleep = () => this.source.opened && this.source.ended(this.source.opened, "It was let go because this tab slept. Click to begin again.");
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.drowsy);
      if (document.hidden) this.drowsy = setTimeout(sleep, SLEEP);
    });
    document.addEventListener("freeze", sleep);
    addEventListener("pagehide", () => this.source.choose("none"));
  }

  restore() {
    const { strength = 0.7, hold = 1, latency = "", mirror = true } = memory.all().camera ?? {};
    Object.assign(this.$("strength"), { value: strength });
    Object.assign(this.$("hold"), { value: hold });
    this.$("latency").value = latency;
    this.$("mirror").checked = mirror;
    for (const name of ["strength", "hold", "wipe"]) this.$(name).oninput();
    this.changed();
  }

  keep() {
    memory.keep({ camera: { strength: this.$("strength").valueAsNumber, hold: this.$("hold").valueAsNumber, latency: this.$("latency").value, mirror: this.$("mirror").checked } });
  }

  // Of a film that was dropped, `refusal` is why it does not bring its prompts back: said where it is no video either.
  async file(file, refusal) {
    await this.source.choose("file", file);
    if (refusal && this.source.kind === "file" && this.source.phase === "failed") this.live.problem({ message: refusal });
  }

  // The source -----------------------------------------------------------------------------------------------------

  async open(kind, detail) {
    const media = navigator.mediaDevices;
    if (kind !== "file" && (!isSecureContext || !media)) throw Object.assign(new Error(), { name: "InsecureError" });
    const video = make("video", { muted: true, playsInline: true });
    const opened = { kind, video, name: detail?.name ?? "", file: kind === "file" ? detail : null };
    if (kind === "file") {
      video.src = opened.url = URL.createObjectURL(detail);
      video.loop = this.$("loop").checked;
      video.onended = () => this.source.ended(opened, "The file is over. Drop it again, or let it begin again at its end.");
    } else {
      const { fps } = this.live.hello;
      const about = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: Math.max(fps, 24) } };
      const asked = kind === "screen" ? media.getDisplayMedia({ video: { frameRate: fps }, audio: false }) : media.getUserMedia({ video: detail ? { ...about, deviceId: { exact: detail } } : about, audio: false });
      opened.stream = await asked;
      video.srcObject = opened.stream;
      const [track] = opened.stream.getVideoTracks();
      opened.device = track.getSettings().deviceId;
      const gone = kind === "camera" ? "The camera was unplugged or taken away. Plug it in, and click Camera." : "The screen is not shared any more. Click Screen to share it again.";
      track.onended = () => this.source.ended(opened, gone);
    }
    try {
      await video.play();
    } catch (error) {
      this.close(opened);
      throw kind === "file" ? Object.assign(new Error(), { name: "FileError", file: detail.name }) : error;
    }
    return opened;
  }

  close({ stream, video, url }) {
    for (const track of stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    video.onended = null;
    video.pause();
    video.srcObject = null;
    video.removeAttribute("src");
    if (url) URL.revokeObjectURL(url);
  }

  async list() {
    if (this.source.kind !== "camera" || !navigator.mediaDevices) return;
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    const { opened } = this.source;
    this.devices.replaceChildren(...cameras.map(({ deviceId, label }, i) => make("option", { value: deviceId, textContent: label || `Camera ${i + 1}` })));
    if (opened) this.devices.value = opened.device;
    this.$("devices").hidden = cameras.length < 2 || this.source.kind !== "camera";
  }

  // Every change of the machine ends here: the page says what is, and the server is told.
  changed() {
    const { kind, phase, problem, opened } = this.source;
    const on = phase === "on";
    for (const button of this.card.querySelectorAll("[data-source]")) {
      const pressed = button.dataset.source === (phase === "failed" ? "none" : kind);
      if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", pressed);
      button.dataset.on = pressed;
    }
    const names = { camera: "The camera is on.", screen: "The screen is shared.", file: opened?.name };
    this.$("source-said").textContent = problem ?? (phase === "opening" ? "Opening …" : on ? names[kind] : "");
    this.$("source-said").dataset.bad = Boolean(problem);
    this.$("insecure").hidden = isSecureContext || phase !== "failed" || kind === "file";
    this.$("source-on").hidden = !on;
    this.$("looping").hidden = kind !== "file";
    this.$("begin-end").hidden = !on || kind !== "file";
    this.records(false);
    this.$("devices").hidden = true;
    this.card.dataset.phase = phase;
    if (on) {
      this.$("mirror").checked = kind === "camera" && (memory.all().camera?.mirror ?? true);
      this.list();
      this.begin();
    } else if (phase !== "opening") this.stop();
  }

  // The server -----------------------------------------------------------------------------------------------------

  hear() {
    const { live } = this;
    const hello = live.on_hello.bind(live);
    live.on_hello = (event) => {
      hello(event);
      this.told = false;
      this.before.width = event.width;
      this.before.height = event.height;
      if (this.source.phase === "on") this.begin(); // a new socket, or a server that knows nothing of it
    };
    live.on_session_source = (event) => this.heard(event);
    live.on_session_picture = ({ source, seq }) => {
      if (source === this.number) this.taken = Math.max(this.taken, seq);
    };
    live.on_session_source_figures = (event) => (this.newest = event);
    const drawn = live.drawn.bind(live);
    live.drawn = (frame) => {
      drawn(frame);
      this.drawn(frame);
    };
  }

  // What the page says of it is what the server does.
  records(on) {
    this.$("keep").checked = on;
    this.$("kept").textContent = KEPT[on];
  }

  heard({ kind, number, message, record }) {
    if (kind !== "none" && number === this.number) this.records(record);
    if (kind === "none" && number === this.number && this.source.phase === "on") this.source.ended(this.source.opened, message);
  }

  begin() {
    this.number = Math.floor(Math.random() * 2 ** 32);
    // Numbers go on: frames of the source before are still on their way, and are not to be taken for this one's.
    Object.assign(this, { taken: this.seq, since: this.seq, busy: false, delays: [], sends: [], newest: null });
    this.forget();
    this.figures();
    this.encoder ??= this.worker();
    this.say();
    const { opened } = this.source;
    if (opened.looking) return;
    opened.looking = true;
    const look = (now, about) => {
      if (this.source.opened !== opened) return;
      opened.video.requestVideoFrameCallback(look);
      this.offer(opened, now, about);
    };
    opened.video.requestVideoFrameCallback(look);
  }

  stop() {
    this.encoder?.terminate();
    this.encoder = null;
    this.forget();
    this.before.hidden = true;
    if (this.told) this.live.link.send({ type: "session.source", kind: "none" });
    this.told = false;
  }

  say() {
    this.keep();
    if (this.source.phase !== "on") return;
    const latency = this.$("latency").valueAsNumber || Number(this.$("latency").value) || null;
    this.told = this.live.link.send({ type: "session.source", kind: this.source.kind, number: this.number, strength: this.$("strength").valueAsNumber, hold: this.$("hold").valueAsNumber, latency, record: this.$("keep").checked });
  }

  // Pictures up ----------------------------------------------------------------------------------------------------

  worker() {
    const url = URL.createObjectURL(new Blob([ENCODER], { type: "text/javascript" }));
    const worker = new Worker(url);
    URL.revokeObjectURL(url);
    worker.onmessage = ({ data }) => worker === this.encoder && this.encoded(data);
    return worker;
  }

  // The newest picture, if there is room for one: what is left out now is never sent later.
  async offer(opened, now, about) {
    const { live, encoder } = this;
    const { fps, width, height } = live.hello;
    const socket = live.link.socket;
    const room = this.seq - this.taken < UPLOADS && socket?.readyState === WebSocket.OPEN && socket.bufferedAmount < UPLOAD_QUEUE;
    if (this.busy || !this.told || !room || live.state !== "playing" || now - this.sentAt < 900 / (1.25 * fps)) return;
    const { videoWidth: w, videoHeight: h } = opened.video;
    if (!w || !h) return;
    this.busy = true;
    this.sentAt = now;
    const by = Math.min(w / width, h / height); // crop what stands out, in the middle
    const [cw, ch] = [by * width, by * height];
    try {
      const bitmap = await createImageBitmap(opened.video, (w - cw) / 2, (h - ch) / 2, cw, ch, { resizeWidth: width, resizeHeight: height });
      if (encoder !== this.encoder) {
        bitmap.close();
        return;
      }
      const header = new DataView(new ArrayBuffer(PICTURE_BYTES));
      header.setUint16(0, MAGIC, true);
      header.setUint8(2, VERSION);
      header.setUint32(4, this.number, true);
      header.setUint32(8, this.seq + 1, true);
      header.setFloat64(12, (about.captureTime ?? now) / 1000, true);
      encoder.postMessage({ bitmap, header: header.buffer, mirror: this.$("mirror").checked, quality: 0.85 }, [bitmap, header.buffer]);
    } catch {
      this.busy = false; // the source went away meanwhile
    }
  }

  encoded({ message, copy }) {
    this.busy = false;
    const number = new DataView(message).getUint32(4, true);
    if (number !== this.number || !this.told || this.live.link.socket?.readyState !== WebSocket.OPEN) {
      copy.close();
      return;
    }
    this.live.link.socket.send(message);
    this.seq += 1;
    this.sends.push(performance.now());
    this.copies.set(this.seq, copy);
    for (const seq of this.copies.keys()) {
      if (seq > this.seq - KEPT_PICTURES) break;
      this.copies.get(seq).close();
      this.copies.delete(seq);
    }
  }

  forget() {
    for (const copy of this.copies.values()) copy.close();
    this.copies.clear();
  }

  // Frames back ----------------------------------------------------------------------------------------------------

  drawn({ source }) {
    if (!source || source.seq <= this.since || this.source.phase !== "on") {
      this.before.hidden = true;
      return;
    }
    this.delays.push(performance.now() - 1000 * source.captured);
    this.delays.splice(0, this.delays.length - DELAYS);
    this.shown = source.seq;
    this.wipe();
  }

  // On the left the very picture that the frame on screen was made of.
  wipe() {
    const part = this.$("wipe").valueAsNumber;
    const copy = this.copies.get(this.shown);
    this.before.hidden = !part || !copy;
    if (!part || !copy) return;
    const { width, height } = this.before;
    const context = this.before.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.drawImage(copy, 0, 0, part * copy.width, copy.height, 0, 0, part * width, height);
    context.fillStyle = "#fff";
    context.fillRect(part * width - 1, 0, 1, height);
  }

  figures() {
    if (this.source.phase !== "on") return;
    const sorted = [...this.delays].sort((a, b) => a - b);
    const now = performance.now();
    this.sends = this.sends.filter((at) => at > now - 2000);
    const told = this.newest;
    this.$("delay").textContent = sorted.length ? `${Math.round(sorted[sorted.length >> 1])} ms` : "–";
    this.$("sent").textContent = `${(this.sends.length / 2).toFixed(0)} / s`;
    this.$("noise").textContent = told?.share ? told.share.toFixed(2) : "–";
    this.$("skips").textContent = told ? `${Math.round(100 * told.skips)} %` : "–";
    const sentence = told?.said ? `${told.said[0].toUpperCase()}${told.said.slice(1)}.` : "";
    if (this.$("traded").textContent !== sentence) this.$("traded").textContent = sentence;
  }
}
