'use strict';
// The slice viewer of a participant report, and the buttons that copy. Without scripts the page
// shows still pictures instead.

document.documentElement.classList.add('scripted');

const PLANES = [
  { name: 'axial', across: 0, up: 1, through: 2 },
  { name: 'coronal', across: 0, up: 2, through: 1 },
  { name: 'sagittal', across: 1, up: 2, through: 0 },
];
const FLICKER_MS = 700;
// Lightness rises from end to end, as in the still pictures.
const DIFFERENCE_STOPS = [[18, 56, 196], [47, 98, 200], [119, 119, 119], [240, 163, 48], [255, 240, 184]];
const UNCERTAINTY_STOPS = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];

/** 256 RGB colours between stops. */
function ramp(stops) {
  const table = new Uint8Array(768);
  for (let level = 0; level < 256; level++) {
    const at = (level / 255) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * level + c] = stops[i][c] + (at - i) * (stops[i + 1][c] - stops[i][c]);
    }
  }
  return table;
}

const GREYS = ramp([[0, 0, 0], [255, 255, 255]]);
const DIFFERENCE = ramp(DIFFERENCE_STOPS);
const UNCERTAINTY = ramp(UNCERTAINTY_STOPS);

/** Read a sheet of axial slices: levels with x fastest, then y, then z. */
async function unpack(src, data) {
  const image = new Image();
  image.src = src;
  await image.decode();
  const [nx, ny, nz] = data.shape;
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const levels = new Uint8Array(nx * ny * nz);
  for (let z = 0; z < nz; z++) {
    const left = (z % data.columns) * nx;
    const top = Math.floor(z / data.columns) * ny;
    const pixels = context.getImageData(left, top, nx, ny).data;
    for (let i = 0; i < nx * ny; i++) levels[z * nx * ny + i] = pixels[4 * i];
  }
  return levels;
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(root.querySelector('script').textContent);
    this.levels = {};
    this.cursor = this.data.start.slice();
    this.shown = { left: this.data.left, middle: 'synthetic', right: this.data.right };
    this.flicker = null;
  }

  async start() {
    const names = Object.keys(this.data.volumes);
    const found = await Promise.all(names.map((name) => unpack(this.data.volumes[name].src, this.data)));
    names.forEach((name, i) => { this.levels[name] = found[i]; });
    this.mask = await unpack(this.data.mask, this.data);
    this.canvases = [...this.root.querySelectorAll('canvas')].map((canvas) => this.prepare(canvas));
    this.connect();
    this.draw();
    this.root.dataset.ready = 'yes';
  }

  find(role) { return this.root.querySelector(`[data-role="${role}"]`); }

  prepare(canvas) {
    const plane = PLANES[Number(canvas.dataset.plane)];
    const { shape } = this.data;
    const [width, height] = [shape[plane.across], shape[plane.up]];
    const small = document.createElement('canvas');
    small.width = width;
    small.height = height;
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    return { canvas, plane, small, column: canvas.dataset.column };
  }

  connect() {
    for (const view of this.canvases) {
      const { canvas } = view;
      canvas.addEventListener('pointerdown', (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.point(view, event);
      });
      canvas.addEventListener('pointermove', (event) => { if (event.buttons) this.point(view, event); });
      canvas.addEventListener('wheel', (event) => {
        if (document.activeElement !== canvas) return; // else the page scrolls
        event.preventDefault();
        this.move(view.plane.through, -Math.sign(event.deltaY));
      }, { passive: false });
      canvas.addEventListener('keydown', (event) => this.key(view, event));
    }
    for (let axis = 0; axis < 3; axis++) {
      this.find(`slice${axis}`).addEventListener('input', (event) => {
        this.cursor[axis] = Number(event.target.value);
        this.draw();
      });
    }
    for (const role of ['level', 'width', 'fade']) this.find(role).addEventListener('input', () => this.draw());
    for (const role of ['outline', 'cross']) this.find(role).addEventListener('change', () => this.draw());
    for (const column of ['left', 'right']) {
      this.find(column).addEventListener('change', (event) => {
        this.shown[column] = event.target.value;
        this.draw();
      });
    }
    this.find('planes').addEventListener('change', (event) => { this.root.dataset.planes = event.target.value; });
    this.find('flicker').addEventListener('click', () => this.toggleFlicker());
    this.find('reset').addEventListener('click', () => this.reset());
    this.root.addEventListener('keydown', (event) => {
      if (event.key.toLowerCase() === 'f' && !event.ctrlKey && !event.metaKey && event.target.tagName !== 'SELECT') {
        this.toggleFlicker();
      }
    });
  }

  reset() {
    this.cursor = this.data.start.slice();
    this.find('level').value = 50;
    this.find('width').value = 100;
    this.find('fade').value = 0;
    this.draw();
  }

  point({ canvas, plane }, event) {
    const box = canvas.getBoundingClientRect();
    const { shape } = this.data;
    const across = Math.floor(((event.clientX - box.left) / box.width) * shape[plane.across]);
    const up = Math.floor((1 - (event.clientY - box.top) / box.height) * shape[plane.up]);
    this.cursor[plane.across] = Math.min(Math.max(across, 0), shape[plane.across] - 1);
    this.cursor[plane.up] = Math.min(Math.max(up, 0), shape[plane.up] - 1);
    this.draw();
  }

  move(axis, by) {
    const to = this.cursor[axis] + by;
    this.cursor[axis] = Math.min(Math.max(to, 0), this.data.shape[axis] - 1);
    this.draw();
  }

  key({ plane }, event) {
    const moves = {
      ArrowLeft: [plane.across, -1], ArrowRight: [plane.across, 1],
      ArrowUp: [plane.up, 1], ArrowDown: [plane.up, -1],
      PageUp: [plane.through, 1], PageDown: [plane.through, -1],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.move(...moves[event.key]);
  }

  toggleFlicker() {
    const button = this.find('flicker');
    if (this.flicker) {
      clearInterval(this.flicker);
      this.flicker = null;
      this.shown.middle = 'synthetic';
    } else {
      this.flicker = setInterval(() => {
        this.shown.middle = this.shown.middle === 'synthetic' ? this.shown.left : 'synthetic';
        this.draw();
      }, FLICKER_MS);
    }
    button.setAttribute('aria-pressed', String(Boolean(this.flicker)));
    this.draw();
  }

  index(position) {
    const [nx, ny] = this.data.shape;
    return position[0] + nx * (position[1] + ny * position[2]);
  }

  value(name, index) { return (this.levels[name][index] / 255) * this.data.volumes[name].top; }

  difference(index) {
    if (!this.mask[index] || !this.levels.acquired[index]) return 0;
    return (this.value('synthetic', index) - this.value('acquired', index)) / this.data.mean;
  }

  /** For each level of a volume, its place between black (0) and white (255). */
  window(name) {
    const { top, window: [low, high] } = this.data.volumes[name];
    const share = Number(this.find('width').value) / 100;
    const middle = low + (high - low) * (1 - Number(this.find('level').value) / 100);
    const width = Math.max((high - low) * share, 1e-6);
    const table = new Uint8ClampedArray(256);
    for (let i = 0; i < 256; i++) table[i] = ((((i / 255) * top - middle) / width) + 0.5) * 255;
    return table;
  }

  label(name) {
    if (name === 'difference') return 'Synthetic − acquired';
    return this.data.volumes[name].label;
  }

  draw() {
    const windows = {};
    for (const name of Object.keys(this.levels)) windows[name] = this.window(name);
    const fade = Number(this.find('fade').value) / 100;
    for (const view of this.canvases) this.paint(view, windows, fade);
    for (const column of ['left', 'middle', 'right']) {
      for (const place of this.root.querySelectorAll(`[data-label="${column}"]`)) {
        place.textContent = this.label(this.shown[column]);
      }
    }
    this.tell();
  }

  paint({ canvas, plane, small, column }, windows, fade) {
    const name = this.shown[column];
    const { width, height } = small;
    const context = small.getContext('2d');
    const picture = context.createImageData(width, height);
    const at = this.cursor.slice();
    const outline = this.find('outline').checked;
    for (let row = 0; row < height; row++) {
      at[plane.up] = height - 1 - row;
      for (let x = 0; x < width; x++) {
        at[plane.across] = x;
        this.colour(picture.data, 4 * (row * width + x), name, this.index(at), windows, column === 'middle' ? fade : 0);
      }
    }
    context.putImageData(picture, 0, 0);
    const large = canvas.getContext('2d');
    large.imageSmoothingQuality = 'high';
    large.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (outline) this.outline(large, plane, width, height);
    if (this.find('cross').checked) this.cross(large, plane, width, height);
  }

  colour(pixels, at, name, index, windows, fade) {
    let table = GREYS;
    let level;
    if (name === 'difference') {
      table = DIFFERENCE;
      level = Math.min(Math.max(Math.round(127.5 + this.difference(index) / this.data.limit * 127.5), 0), 255);
      if (!this.mask[index]) level = 127;
    } else {
      level = windows[name][this.levels[name][index]];
      if (name === 'std') table = UNCERTAINTY;
    }
    const over = fade && this.levels.std ? windows.std[this.levels.std[index]] : 0;
    const alpha = over ? fade * Math.min(1, over / 128) : 0;
    for (let c = 0; c < 3; c++) {
      pixels[at + c] = (1 - alpha) * table[3 * level + c] + alpha * UNCERTAINTY[3 * over + c];
    }
    pixels[at + 3] = 255;
  }

  outline(context, plane, width, height) {
    const at = this.cursor.slice();
    const inside = (x, y) => {
      at[plane.across] = x;
      at[plane.up] = y;
      return x >= 0 && y >= 0 && x < width && y < height && this.mask[this.index(at)] > 0;
    };
    context.strokeStyle = '#ffd400';
    context.lineWidth = 1.5;
    context.beginPath();
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inside(x, y)) continue;
        const [left, top] = [2 * x, 2 * (height - 1 - y)];
        if (!inside(x - 1, y)) { context.moveTo(left, top); context.lineTo(left, top + 2); }
        if (!inside(x + 1, y)) { context.moveTo(left + 2, top); context.lineTo(left + 2, top + 2); }
        if (!inside(x, y + 1)) { context.moveTo(left, top); context.lineTo(left + 2, top); }
        if (!inside(x, y - 1)) { context.moveTo(left, top + 2); context.lineTo(left + 2, top + 2); }
      }
    }
    context.stroke();
  }

  cross(context, plane, width, height) {
    const x = 2 * this.cursor[plane.across] + 1;
    const y = 2 * (height - 1 - this.cursor[plane.up]) + 1;
    const gap = 14;
    for (const [style, line] of [['rgba(0,0,0,.7)', 3], ['#7fe3ff', 1.2]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.beginPath();
      context.moveTo(0, y); context.lineTo(x - gap, y);
      context.moveTo(x + gap, y); context.lineTo(2 * width, y);
      context.moveTo(x, 0); context.lineTo(x, y - gap);
      context.moveTo(x, y + gap); context.lineTo(x, 2 * height);
      context.stroke();
    }
  }

  /** Say where the cursor is, and what each image holds there. */
  tell() {
    const { origin, edge } = this.data;
    const mm = this.cursor.map((voxel, axis) => origin[axis] + voxel * edge);
    const signed = (number) => `${number < 0 ? '−' : '+'}${Math.abs(number).toFixed(0)}`;
    for (let axis = 0; axis < 3; axis++) {
      const slider = this.find(`slice${axis}`);
      slider.value = this.cursor[axis];
      slider.setAttribute('aria-valuetext', `${signed(mm[axis])} mm`);
      this.find(`mm${axis}`).textContent = `${signed(mm[axis])} mm`;
    }
    const index = this.index(this.cursor);
    const parts = [`x ${signed(mm[0])}, y ${signed(mm[1])}, z ${signed(mm[2])} mm`];
    for (const [name, volume] of Object.entries(this.data.volumes)) {
      if (name === 'std') continue;
      parts.push(`${volume.label} ${this.value(name, index).toFixed(2)}`);
    }
    if (this.levels.std) parts.push(`uncertainty ±${this.value('std', index).toFixed(2)}`);
    if (this.levels.acquired) parts.push(`difference ${signed(100 * this.difference(index))} %`);
    this.find('readout').textContent = parts.join(' · ');
  }
}

for (const pictures of document.querySelectorAll('details.stills')) pictures.open = false;

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watch.unobserve(entry.target);
    new Viewer(entry.target).start();
  }
}, { rootMargin: '400px' });
for (const root of document.querySelectorAll('.viewer')) watch.observe(root);

for (const button of document.querySelectorAll('button[data-copy]')) {
  button.addEventListener('click', async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // Some browsers keep the clipboard from files: select the text, then copy as by keyboard.
      getSelection().selectAllChildren(source);
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
  });
}
