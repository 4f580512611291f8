"use strict";
// A map on a canvas: longitude to the right, latitude up, both in degrees. No tiles, so no network.

const STEPS = [60, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05];
const CLOSEST = 6000; // pixels a degree: a patch of 5 km is then about 270 pixels wide
const REACH = 14; // pixels around the pointer in which a point is found

class WorldMap {
  constructor(canvas, land, on) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.land = outlines(land);
    this.on = on;
    this.points = [];
    this.chosen = null;
    this.view = { x: 0, y: 15, scale: 3 };
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Points: {x, y, color, index}, in the order in which they are drawn.
  show(points) {
    this.points = points;
    this.draw();
  }

  choose(point) {
    this.chosen = point;
    if (point) {
      const at = this.place(point);
      const [w, h] = this.size();
      if (at[0] < 20 || at[1] < 20 || at[0] > w - 20 || at[1] > h - 20) Object.assign(this.view, { x: point.x, y: point.y });
    }
    this.keep();
    this.draw();
  }

  fit(points = this.points) {
    const [w, h] = this.size();
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const [west, east] = points.length ? range(xs) : [-180, 180];
    const [south, north] = points.length ? range(ys) : [-60, 80];
    const room = Math.min((w - 80) / Math.max(east - west, 8), (h - 90) / Math.max(north - south, 8));
    this.view = { x: (west + east) / 2, y: (south + north) / 2, scale: room };
    this.keep();
    this.draw();
  }

  zoom(factor, at = this.size().map((edge) => edge / 2)) {
    const before = this.degrees(at);
    this.view.scale *= factor;
    this.keep();
    const after = this.degrees(at);
    this.view.x += before[0] - after[0];
    this.view.y += before[1] - after[1];
    this.keep();
    this.draw();
  }

  // In pixels of the page; kept, since to ask the page for it, once a point, takes longer than to draw the points.
  size() {
    return (this.edges ||= [this.canvas.clientWidth || 1, this.canvas.clientHeight || 1]);
  }

  keep() {
    const [w, h] = this.size(), v = this.view;
    v.scale = Math.min(Math.max(v.scale, Math.min(w / 372, h / 150)), CLOSEST);
    const wide = Math.max(0, 183 - w / 2 / v.scale), high = Math.max(0, 90 - h / 2 / v.scale);
    v.x = Math.min(Math.max(v.x, -wide), wide);
    v.y = Math.min(Math.max(v.y, -high), high);
  }

  place(point) {
    const [w, h] = this.size(), v = this.view;
    return [w / 2 + (point.x - v.x) * v.scale, h / 2 - (point.y - v.y) * v.scale];
  }

  degrees([px, py]) {
    const [w, h] = this.size(), v = this.view;
    return [v.x + (px - w / 2) / v.scale, v.y - (py - h / 2) / v.scale];
  }

  resize() {
    this.edges = null;
    const ratio = devicePixelRatio || 1, [w, h] = this.size();
    this.canvas.width = Math.round(w * ratio);
    this.canvas.height = Math.round(h * ratio);
    this.keep();
    this.paint();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.waiting = null;
    const c = this.context, [w, h] = this.size(), v = this.view, ratio = this.canvas.width / w;
    const style = getComputedStyle(this.canvas), tone = (name) => style.getPropertyValue(name).trim();
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = tone("--page");
    c.fillRect(0, 0, w, h);
    c.save();
    c.setTransform(ratio * v.scale, 0, 0, -ratio * v.scale, ratio * (w / 2 - v.x * v.scale), ratio * (h / 2 + v.y * v.scale));
    c.fillStyle = tone("--sea");
    c.fillRect(-180, -90, 360, 180);
    c.fillStyle = tone("--land");
    c.strokeStyle = tone("--coast");
    c.lineWidth = 0.8 / v.scale;
    c.lineJoin = "round";
    c.fill(this.land, "evenodd");
    c.stroke(this.land);
    c.restore();
    this.graticule(c, w, h, tone);
    this.dots(c, w, h, tone);
  }

  graticule(c, w, h, tone) {
    const v = this.view, step = STEPS.findLast((s) => s * v.scale >= 58) || STEPS[0];
    const [west, north] = this.degrees([0, 0]), [east, south] = this.degrees([w, h]);
    c.strokeStyle = tone("--grid");
    c.lineWidth = 0.6;
    c.fillStyle = tone("--quiet");
    c.font = "11px system-ui, sans-serif";
    c.beginPath();
    const [left, top] = this.place({ x: -180, y: 90 }), [right, bottom] = this.place({ x: 180, y: -90 });
    const named = [];
    for (let x = Math.ceil(Math.max(west, -180) / step) * step; x <= Math.min(east, 180); x += step) {
      const [px] = this.place({ x, y: 0 });
      c.moveTo(px, Math.max(0, top));
      c.lineTo(px, Math.min(h, bottom));
      if (px > 24 && px < w - 60) named.push([degree(x, "E", "W"), px, h - 8, "center"]);
    }
    for (let y = Math.ceil(Math.max(south, -90) / step) * step; y <= Math.min(north, 90); y += step) {
      const [, py] = this.place({ x: 0, y });
      c.moveTo(Math.max(0, left), py);
      c.lineTo(Math.min(w, right), py);
      if (py > 124 && py < h - 30 && Math.abs(y) < 90) named.push([degree(y, "N", "S"), w - 8, py - 4, "right"]);
    }
    c.stroke();
    for (const [text, x, y, align] of named) {
      c.textAlign = align;
      c.fillText(text, x, y);
    }
  }

  dots(c, w, h, tone) {
    const radius = Math.min(7, (this.points.length > 3000 ? 2.4 : this.points.length > 400 ? 3.6 : 5) + Math.log10(Math.max(1, this.view.scale / 8)));
    const groups = new Map();
    for (const point of this.points) {
      const [x, y] = this.place(point);
      if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
      if (!groups.has(point.color)) groups.set(point.color, new Path2D());
      const path = groups.get(point.color);
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 7);
    }
    c.lineWidth = radius < 3.2 ? 0.5 : 0.8;
    c.strokeStyle = tone("--rim");
    for (const [color, path] of groups) {
      c.fillStyle = color;
      c.fill(path);
      c.stroke(path);
    }
    if (!this.chosen) return;
    const [x, y] = this.place(this.chosen);
    for (const [color, width] of [[tone("--card"), 5.5], [tone("--accent"), 2.5]]) {
      c.strokeStyle = color;
      c.lineWidth = width;
      c.beginPath();
      c.arc(x, y, radius + 5, 0, 7);
      c.stroke();
    }
    c.fillStyle = this.chosen.color;
    c.strokeStyle = tone("--rim");
    c.lineWidth = 0.8;
    c.beginPath();
    c.arc(x, y, radius + 0.6, 0, 7);
    c.fill();
    c.stroke();
  }

  near([px, py], reach = REACH) {
    let best = null, least = reach * reach;
    for (const point of this.points) {
      const [x, y] = this.place(point), far = (x - px) ** 2 + (y - py) ** 2;
      if (far <= least) [best, least] = [point, far];
    }
    return best;
  }

  // The nearest point in a direction: what lies aside counts as farther away.
  towards(dx, dy) {
    if (!this.chosen) return this.near(this.size().map((edge) => edge / 2), Infinity);
    const from = this.place(this.chosen);
    let best = null, least = Infinity;
    for (const point of this.points) {
      const at = this.place(point), x = at[0] - from[0], y = at[1] - from[1];
      const along = x * dx + y * dy, aside = Math.abs(x * dy - y * dx);
      if (along > 0.5 && along >= aside * 0.5 && along + 2 * aside < least) [best, least] = [point, along + 2 * aside];
    }
    return best;
  }

  listen() {
    const canvas = this.canvas;
    let held = null, moved = false;
    const at = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("pointerdown", (event) => {
      held = at(event);
      moved = false;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (!held) return this.hover([x, y]);
      if (!moved && Math.hypot(x - held[0], y - held[1]) < 4) return;
      moved = true;
      this.view.x -= (x - held[0]) / this.view.scale;
      this.view.y += (y - held[1]) / this.view.scale;
      held = [x, y];
      this.keep();
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const found = held && !moved && this.near(at(event));
      held = null;
      if (found) this.on.pick(found);
    });
    canvas.addEventListener("pointercancel", () => (held = null));
    canvas.addEventListener("pointerleave", () => this.on.hover(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  hover(at) {
    const found = this.near(at);
    this.canvas.classList.toggle("over", Boolean(found));
    this.on.hover(found, at);
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) {
      const found = this.towards(...ways[event.key]);
      if (found) this.on.pick(found);
    } else if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }
}

// Rings are stored as differences between corners, in units of a fraction of a degree.
function outlines({ unit, rings }) {
  const path = new Path2D();
  for (const ring of rings) {
    let x = 0, y = 0;
    for (let i = 0; i < ring.length; i += 2) {
      x += ring[i];
      y += ring[i + 1];
      i ? path.lineTo(x * unit, y * unit) : path.moveTo(x * unit, y * unit);
    }
    path.closePath();
  }
  return path;
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function degree(value, positive, negative, digits = 2) {
  const rounded = Number(Math.abs(value).toFixed(digits));
  return `${rounded}°${rounded === 0 ? "" : value > 0 ? positive : negative}`;
}
