// A picture or the end of a clip as the film's beginning: its pictures go up one after the other, and the film begins
// anew with them under the words that are in force.

const BEGIN_QUALITY = 0.95; // of the JPEG; what begins a film is seen for long
const BEGIN_PATIENCE = 12_000; // ms for the server to take a picture, and for a browser to show one of a clip

class Beginner {
  constructor(live) {
    Object.assign(this, { live, turn: 0, number: null, hear: null });
    const { card } = live.camera;
    this.said = card.querySelector("#rv-begin-said");
    const chosen = card.querySelector("#rv-begin input");
    chosen.onchange = () => {
      if (chosen.files.length) this.begin(chosen.files[0]);
      chosen.value = "";
    };
    card.querySelector("#rv-begin-end").onclick = () => live.camera.source.opened?.file && this.begin(live.camera.source.opened.file);
    live.on_session_beginning = (event) => event.number === this.number && this.hear?.(event);
    const taken = live.on_session_picture;
    live.on_session_picture = (event) => {
      taken(event);
      if (event.source === this.number) this.hear?.(event);
    };
  }

  async begin(file) {
    const { live } = this;
    if (!live.driver) {
      live.problem({ message: "Only who drives this film can begin it anew. Ask for the controls first." });
      return;
    }
    const turn = (this.turn += 1);
    const still = file.type.startsWith("image/");
    this.say(still ? `Beginning with ${file.name} …` : `Reading the last pictures of ${file.name} …`);
    try {
      const pictures = still ? [await this.still(file)] : await this.last(file, () => turn === this.turn);
      if (turn === this.turn) await this.send(file.name, still ? "image" : "clip", pictures, () => turn === this.turn);
      if (turn === this.turn) this.say("");
    } catch (error) {
      if (turn === this.turn) this.say(error.message, true);
    }
  }

  say(text, bad = false) {
    this.said.textContent = text;
    this.said.dataset.bad = bad;
  }

  async still(file) {
    try {
      const whole = await createImageBitmap(file);
      return await this.jpeg(whole, whole.width, whole.height);
    } catch {
      throw new Error(`This browser cannot read ${file.name} as a picture. Choose a PNG, a JPEG or a WebP.`);
    }
  }

  // As many as the film's memory holds, at the film's rate.
  async last(file, wanted) {
    const { fps, beginning_frames: most } = this.live.hello;
    const video = make("video", { muted: true, playsInline: true, preload: "auto" });
    const url = URL.createObjectURL(file);
    const refused = new Error(`This browser cannot play ${file.name}. Choose an MP4 (H.264) or a WebM.`);
    const until = (event) =>
      new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(refused), BEGIN_PATIENCE);
        const end = (act) => () => {
          clearTimeout(late);
          act();
        };
        video.addEventListener(event, end(resolve), { once: true });
        video.addEventListener("error", end(() => reject(refused)), { once: true });
      });
    try {
      const known = until("loadeddata");
      video.src = url;
      await known;
      if (!Number.isFinite(video.duration)) {
        const found = until("seeked"); // of a recording without a length the browser finds its end like this
        video.currentTime = 1e9;
        await found;
      }
      const end = Number.isFinite(video.duration) ? video.duration : video.currentTime;
      const count = Math.max(1, Math.min(most, Math.floor(end * fps)));
      const pictures = [];
      for (let i = count; i > 0 && wanted(); i -= 1) {
        const seeked = until("seeked");
        video.currentTime = Math.max(0, end - (i - 0.5) / fps);
        await seeked;
        pictures.push(await this.jpeg(video, video.videoWidth, video.videoHeight));
      }
      return pictures;
    } finally {
      video.removeAttribute("src");
      URL.revokeObjectURL(url);
    }
  }

  // Cropped in its middle to the film's shape, and of its size.
  async jpeg(picture, w, h) {
    const { width, height } = this.live.hello;
    const by = Math.min(w / width, h / height);
    const [cw, ch] = [by * width, by * height];
    const bitmap = await createImageBitmap(picture, (w - cw) / 2, (h - ch) / 2, cw, ch, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return (await canvas.convertToBlob({ type: "image/jpeg", quality: BEGIN_QUALITY })).arrayBuffer();
  }

  async send(name, kind, pictures, wanted) {
    const { live } = this;
    this.number = Math.floor(Math.random() * 2 ** 32);
    live.branches.leaves(`${name} begins the film.`);
    if (!live.send({ type: "session.beginning", kind, number: this.number, count: pictures.length, name: name.slice(0, 200) })) throw new Error("There is no connection to the server. Try again when there is.");
    for (let i = 0; i < pictures.length && wanted(); i += 1) {
      const answer = this.answer(({ seq, begun }) => seq === i + 1 || begun !== undefined);
      const header = new DataView(new ArrayBuffer(PICTURE_BYTES));
      header.setUint16(0, MAGIC, true);
      header.setUint8(2, VERSION);
      header.setUint32(4, this.number, true);
      header.setUint32(8, i + 1, true);
      live.link.socket.send(new Blob([header.buffer, pictures[i]]));
      const { begun, message } = await answer;
      if (begun === false) throw new Error(message);
    }
  }

  answer(fits) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("The server takes no picture. Reload the page, and try again.")), BEGIN_PATIENCE);
      this.hear = (event) => {
        if (!fits(event)) return;
        clearTimeout(late);
        this.hear = null;
        resolve(event);
      };
    });
  }
}
