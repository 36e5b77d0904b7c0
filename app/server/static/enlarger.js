// Enlarging the picture on the graphics card: finer edges than the browser's own smoothing, and no cost for the processor.

// Catmull and Rom 1974 between pixels, then a little more contrast where a neighbourhood has an edge, never beyond its own
// lightest and darkest pixel, so that no edge gets a halo.
const ENLARGE_VERTEX = `
attribute vec2 corner;
varying vec2 at;
void main() { at = 0.5 + 0.5 * vec2(corner.x, -corner.y); gl_Position = vec4(corner, 0.0, 1.0); }`;
const ENLARGE_FRAGMENT = `
precision highp float;
uniform sampler2D picture;
uniform vec2 size;
varying vec2 at;
vec4 weights(float t) {
  return vec4(t * (-0.5 + t * (1.0 - 0.5 * t)), 1.0 + t * t * (1.5 * t - 2.5), t * (0.5 + t * (2.0 - 1.5 * t)), t * t * (0.5 * t - 0.5));
}
void main() {
  vec2 place = at * size - 0.5;
  vec2 whole = floor(place);
  vec4 across = weights(place.x - whole.x), down = weights(place.y - whole.y);
  vec3 sum = vec3(0.0), low = vec3(1.0), high = vec3(0.0), mean = vec3(0.0);
  for (int y = 0; y < 4; y++) for (int x = 0; x < 4; x++) {
    vec3 pixel = texture2D(picture, (whole + vec2(float(x), float(y)) - 0.5) / size).rgb;
    sum += pixel * across[x] * down[y];
    mean += pixel / 16.0;
    if (x > 0 && x < 3 && y > 0 && y < 3) { low = min(low, pixel); high = max(high, pixel); }
  }
  gl_FragColor = vec4(clamp(sum + 0.6 * (sum - mean), low, high), 1.0);
}`;
const ENLARGE_KEY = "rivulet.enlarge"; // "off": the picture as it comes; "always": also where no graphics card is

class Enlarger {
  constructor(source, canvas) {
    Object.assign(this, { source, canvas, on: false });
    this.gl = canvas.getContext("webgl", { alpha: false, antialias: false, depth: false, failIfMajorPerformanceCaveat: true });
    if (this.gl && (this.played() || !this.prepare())) this.gl = null;
    this.turn(localStorage.getItem(ENLARGE_KEY) !== "off");
    canvas.addEventListener("webglcontextlost", () => {
      this.gl = null;
      this.turn(false);
    });
  }

  get possible() {
    return this.gl !== null;
  }

  turn(on) {
    this.on = on && this.possible;
    this.canvas.hidden = !this.on;
    if (this.on) this.draw();
  }

  choose(on) {
    localStorage.setItem(ENLARGE_KEY, on ? "on" : "off");
    this.turn(on);
  }

  // A program that only plays a graphics card would take the processor from the film.
  played() {
    const { gl } = this;
    const asked = gl.getExtension("WEBGL_debug_renderer_info");
    const name = String(gl.getParameter(asked ? asked.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    return /swiftshader|llvmpipe|software|basic render/i.test(name) && localStorage.getItem(ENLARGE_KEY) !== "always";
  }

  prepare() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, ENLARGE_VERTEX], [gl.FRAGMENT_SHADER, ENLARGE_FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return false;
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    this.size = gl.getUniformLocation(program, "size");
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    return true;
  }

  draw() {
    if (!this.on) return;
    const { gl, source, canvas } = this;
    const fit = Math.min(canvas.clientWidth / source.width, canvas.clientHeight / source.height) * devicePixelRatio;
    const [width, height] = [source.width, source.height].map((side) => Math.round(side * fit));
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
    gl.uniform2f(this.size, source.width, source.height);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}
