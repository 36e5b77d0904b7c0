// What the film is made of beside words: a camera, a screen or a file; a state machine that always ends in one of them.
// phase: off -> opening -> on -> off, or failed. Whatever is chosen while something opens wins; what opens late is closed.

class Source {
  constructor({ open, close, changed }) {
    Object.assign(this, { open, close, changed, kind: "none", phase: "off", problem: null, opened: null, turn: 0 });
  }

  // A device is free before the next one is asked for: many cameras let nobody in twice.
  async choose(kind, detail) {
    const turn = (this.turn += 1);
    this.release();
    if (kind === "none") return this.is("none", "off");
    this.is(kind, "opening");
    let opened;
    try {
      opened = await this.open(kind, detail);
    } catch (error) {
      if (turn === this.turn) this.is(kind, "failed", sourceProblem(kind, error));
      return undefined;
    }
    if (turn !== this.turn) return this.close(opened);
    this.opened = opened;
    return this.is(kind, "on");
  }

  // It ended by itself: unplugged, over, stopped in the browser's own bar, or given up by the server.
  ended(opened, problem) {
    if (this.phase !== "on" || opened !== this.opened) return;
    this.turn += 1;
    this.release();
    this.is(this.kind, "failed", problem);
  }

  release() {
    if (this.opened) this.close(this.opened);
    this.opened = null;
  }

  is(kind, phase, problem = null) {
    Object.assign(this, { kind, phase, problem });
    this.changed(this);
  }
}

// One sentence, one action: of what a browser says when a source does not open.
function sourceProblem(kind, error) {
  const camera = kind === "camera";
  const told = {
    NotAllowedError: camera
      ? "This page may not use the camera. Allow it beside the address, and click Camera again."
      : "No screen or window was chosen. Click Screen again, and choose one.",
    NotFoundError: "There is no camera. Plug one in, and click Camera again.",
    OverconstrainedError: "That camera is gone. Choose another one.",
    NotReadableError: camera
      ? "The camera is busy: another program uses it. Close that, and click Camera again."
      : "The system does not let this screen be seen. Choose a window instead.",
    AbortError: "The camera did not start. Plug it in again, and click Camera again.",
    InsecureError: "This page is not secure, so the browser gives it no camera and no screen. Below are three ways out.",
    FileError: `This browser cannot play ${error.file ?? "this file"}. Drop an MP4 (H.264) or a WebM.`,
  }[error.name];
  return told ?? `It does not open (${error.name}). Choose another source.`;
}
