// The socket: reads what the server says, comes back after a break, and keeps what a reload must not lose.
// All files of this folder share one scope; app/server/page.py joins them.

const HEADER_BYTES = 32;
const MAGIC = 0x5652; // as app/live/messages.py
const VERSION = 1;
const KEY = "rivulet.session";

function readFrame(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < HEADER_BYTES || view.getUint16(0, true) !== MAGIC || view.getUint8(2) !== VERSION) return null;
  const ofPicture = view.getUint8(4) & 2; // then its last 12 bytes say of which
  const end = view.byteLength - (ofPicture ? 12 : 0);
  return {
    codec: view.getUint8(3),
    source: ofPicture ? { captured: view.getFloat64(end, true), seq: view.getUint32(end + 8, true) } : null,
    epoch: view.getUint16(6, true),
    seq: view.getUint32(8, true),
    frame: view.getUint32(12, true),
    t: view.getFloat64(16, true),
    made: view.getFloat64(24, true),
    payload: new Uint8Array(buffer, HEADER_BYTES, end - HEADER_BYTES),
  };
}

function pageUrl(path) {
  return new URL(path, document.baseURI); // Gradio's <base> is the root of the page, also behind a sub-path
}

// What the person last chose, for this tab: `session` and `token` take the film up again, the rest is sent anew
// after a reconnect, because the server may have been started again without it.
const memory = {
  all() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY)) || {};
    } catch {
      return {};
    }
  },
  keep(changes) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ ...this.all(), ...changes }));
    } catch {
      // A browser that forbids storage loses the session at a reload and nothing else.
    }
  },
};

// This tab's name: a page that comes back before its old socket was found dead takes its own place again.
function clientName() {
  const { client = Math.random().toString(36).slice(2) } = memory.all();
  memory.keep({ client });
  return client;
}

class Link {
  constructor({ onFrame, onEvent, onState }) {
    const asked = new URLSearchParams(location.search);
    const invited = asked.has("session") ? Object.fromEntries(asked) : null; // by a link from somebody else's page
    Object.assign(this, { onFrame, onEvent, onState, invited, tries: 0, over: false });
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.open());
    addEventListener("online", () => this.again());
  }

  open() {
    clearTimeout(this.timer);
    this.over = false;
    const url = pageUrl("v1/realtime/video");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const { session, token } = this.invited ?? memory.all();
    url.search = new URLSearchParams({ client: clientName(), ...(session && token && { session, token }) });
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      if (typeof data === "string") {
        const event = JSON.parse(data);
        if (event.type === "hello") this.tries = 0;
        this.onEvent(event);
      } else {
        const frame = readFrame(data);
        if (frame) this.onFrame(frame);
      }
    };
    socket.onclose = () => socket === this.socket && !this.over && this.later();
    this.onState("opening");
  }

  later() {
    this.tries += 1;
    // Half of the wait is random: a restarted server is not met by all pages at once.
    const wait = Math.min(8000, 400 * 2 ** Math.min(this.tries, 5)) * (0.5 + Math.random() / 2);
    this.timer = setTimeout(() => this.open(), wait);
    this.onState("lost", wait);
  }

  again() {
    if (!this.over && this.socket?.readyState !== WebSocket.OPEN) this.open();
  }

  close() {
    this.over = true;
    clearTimeout(this.timer);
    this.socket?.close(1000);
  }

  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
