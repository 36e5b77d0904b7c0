// A film in a large player: its shots as a track below, the keyboard, downloads, and a way to make it again.

const WATCH_STEP = 5; // seconds of an arrow key
const GIF_SECONDS = 6;

class FilmPlayer {
  // `again` gets the job whole, to change it and render it again.
  constructor(root, again) {
    Object.assign(this, { root, again });
  }

  async open(job) {
    const film = `v1/videos/${job.id}/content`;
    const whole = job.status === "completed";
    const video = make("video", { src: `${pageUrl(film)}${whole ? "" : `?frames=${job.frames_done}`}`, poster: `${pageUrl(film)}?variant=poster&frames=${job.frames_done}`, controls: true, loop: whole, muted: true, playsInline: true, ariaLabel: `Film: ${job.name}` });
    const shots = make("ol", { className: "rv-track", ariaLabel: "Shots" });
    const told = make("p", { className: "rv-hint", ariaLive: "polite" });
    const gif = make("a", { className: "rv-button", download: "" }, make("span", { textContent: `GIF of ${GIF_SECONDS} s` }));
    gif.title = "From the moment that is shown";
    gif.onclick = () => (gif.href = `${pageUrl(film)}?${new URLSearchParams({ variant: "gif", since: video.currentTime.toFixed(2), seconds: GIF_SECONDS })}`);
    gif.href = `${pageUrl(film)}?variant=gif`;
    const download = make("a", { className: "rv-button", href: pageUrl(film), download: "" }, make("span", { textContent: whole ? "Download" : "Download so far" }));
    const again = make("button", { type: "button" }, make("span", { textContent: "Render again as …" }));
    again.title = "Its script and settings into the form, to be rendered with another preset, model, size or length";
    const close = make("button", { type: "button" }, make("span", { textContent: "Close" }));
    const dialog = make("dialog", { className: "rv-watch", ariaLabel: job.name });
    for (const [button, name] of [[gif, "camera"], [download, "save"], [again, "copy"], [close, "close"]]) setIcon(button, name);
    again.onclick = async () => {
      dialog.close();
      await this.again(await api(`/${job.id}`));
    };
    close.onclick = () => dialog.close();
    dialog.append(make("h2", { textContent: job.name }), video, shots, told, make("div", { className: "rv-bar" }, download, gif, again, make("i"), close, make("span", { className: "rv-hint", textContent: "Space plays, arrows go 5 s and from shot to shot, . and , a frame, F fills the screen" })));
    dialog.onkeydown = (event) => this.key(event, video, dialog);
    dialog.onclose = () => {
      video.pause();
      dialog.remove();
    };
    this.root.append(dialog);
    dialog.showModal();
    video.focus();
    video.play().catch(() => {});
    const rows = await api(`/${job.id}/chunks`).catch(() => null);
    if (rows?.data.length) this.track(rows, video, shots, told);
  }

  // A recording, saved seconds or a picture of a live film.
  show({ name, kind, url, poster }) {
    const seen = kind === "picture" ? make("img", { src: pageUrl(url), alt: name }) : make("video", { src: pageUrl(url), poster: pageUrl(poster), controls: true, loop: true, muted: true, ariaLabel: `Film: ${name}` });
    const download = make("a", { className: "rv-button", href: pageUrl(url), download: "" }, make("span", { textContent: "Download" }));
    const close = make("button", { type: "button" }, make("span", { textContent: "Close" }));
    setIcon(download, "save");
    setIcon(close, "close");
    const dialog = make("dialog", { className: "rv-watch", ariaLabel: name }, make("h2", { textContent: name }), seen, make("div", { className: "rv-bar" }, download, make("i"), close));
    this.shots = [];
    if (kind !== "picture") dialog.onkeydown = (event) => this.key(event, seen, dialog);
    close.onclick = () => dialog.close();
    dialog.onclose = () => dialog.remove();
    this.root.append(dialog);
    dialog.showModal();
    seen.play?.().catch(() => {});
  }

  // Where each shot begins on the film's clock: the first frame of its first chunk.
  track({ shots, data, fps }, video, list, told) {
    const end = (data.at(-1).frame + data.at(-1).shown) / fps;
    const made = shots.filter(({ chunk }) => chunk < data.length).map(({ chunk, prompt }) => ({ prompt, begin: data[chunk].frame / fps }));
    this.shots = made;
    made.forEach(({ prompt, begin }, i) => {
      const length = (made[i + 1]?.begin ?? end) - begin;
      const button = make("button", { type: "button", textContent: prompt, title: `${clock(begin)}: ${prompt}`, onclick: () => (video.currentTime = begin) });
      const item = make("li", {}, button);
      item.style.flex = `${length} 1 0`;
      item.style.setProperty("--h", shotHue(i));
      list.append(item);
    });
    const show = () => {
      const at = made.findLastIndex(({ begin }) => begin <= video.currentTime + 0.01);
      [...list.children].forEach((item, i) => item.firstChild.setAttribute("aria-current", i === at));
      const words = at < 0 ? "" : `Shot ${at + 1} of ${made.length}: ${made[at].prompt}`;
      if (told.textContent !== words) told.textContent = words;
    };
    video.ontimeupdate = show;
    show();
  }

  key(event, video, dialog) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { shots = [] } = this;
    const to = (second) => (video.currentTime = Math.max(0, Math.min(video.duration || 0, second)));
    const onButton = event.target.closest("button, a");
    const at = shots.findLastIndex(({ begin }) => begin <= video.currentTime + 0.01);
    const acts = {
      ArrowLeft: () => to(video.currentTime - WATCH_STEP),
      ArrowRight: () => to(video.currentTime + WATCH_STEP),
      ArrowUp: () => to(shots[Math.max(0, at - 1)]?.begin ?? 0),
      ArrowDown: () => to(shots[Math.min(shots.length - 1, at + 1)]?.begin ?? 0),
      Home: () => to(0),
      End: () => to(video.duration),
      ",": () => to(video.currentTime - 1 / 16),
      ".": () => to(video.currentTime + 1 / 16),
      f: () => (document.fullscreenElement ? document.exitFullscreen() : video.requestFullscreen()),
      ...(onButton ? {} : { " ": () => (video.paused ? video.play() : video.pause()) }),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }
}
