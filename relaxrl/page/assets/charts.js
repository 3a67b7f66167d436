"use strict";
// Charts as SVG, drawn anew at each width, so that text keeps its size on any window.
const Charts = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 4", "2 3"];
  const all = [];
  const hidden = new Set(); // keys of series that the reader has switched off, in all charts

  function make(tag, attributes, parent) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (parent) parent.append(node);
    return node;
  }

  function element(tag, properties, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  function number(value) {
    return written(value).replace("-", "−");
  }

  function written(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    if (Number.isInteger(value)) return String(value);
    return String(Number(value.toPrecision(3)));
  }

  const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  function tickText(value) {
    const size = Math.abs(value);
    const power = Math.log10(size);
    if (size !== 0 && (size < 1e-3 || size >= 1e5) && Math.abs(power - Math.round(power)) < 1e-9) {
      return "10" + [...String(Math.round(power))].map((sign) => SUPERSCRIPTS[sign]).join("");
    }
    if (size >= 1e4 && size < 1e7) return Number((value / 1000).toPrecision(4)) + "k";
    return String(Number(value.toPrecision(6)));
  }

  function linearTicks(low, high, wanted) {
    const rough = (high - low) / Math.max(wanted, 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.999) || 10 * power;
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k++) ticks.push(Number((k * step).toPrecision(12)));
    return ticks;
  }

  function logTicks(low, high, wanted) {
    for (const parts of [[1, 2, 5], [1, 3], [1]]) {
      const ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const part of parts) {
          const tick = Number((part * 10 ** power).toPrecision(3));
          if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
        }
      }
      if (ticks.length <= wanted + 2 && ticks.length >= 2) return ticks;
    }
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const stride = Math.max(1, Math.ceil((last - first + 1) / wanted));
    const ticks = [];
    for (let power = first; power <= last; power += stride) ticks.push(10 ** power);
    return ticks.length > 1 ? ticks : linearTicks(low, high, Math.min(wanted, 3)).filter((tick) => tick > 0);
  }

  // The part of an axis that the data need, with a margin.
  function range(axis, values) {
    const usable = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
    let low = usable.length ? Math.min(...usable) : (axis.log ? 0.1 : 0);
    let high = usable.length ? Math.max(...usable) : 1;
    if (axis.min !== undefined) low = axis.min;
    if (axis.max !== undefined) high = axis.max;
    if (axis.log) {
      if (high / low < 1.5) [low, high] = [low / 1.3, high * 1.3];
      const margin = Math.log(high / low) * 0.04;
      return [axis.min === undefined ? low / Math.exp(margin) : low, axis.max === undefined ? high * Math.exp(margin) : high];
    }
    if (high - low < 1e-12 + 1e-6 * Math.abs(high)) [low, high] = [low - (axis.min === undefined ? Math.abs(low) * 0.1 + 0.1 : 0), high + Math.abs(high) * 0.1 + 0.1];
    const margin = (high - low) * 0.05;
    return [axis.min === undefined ? low - margin : low, axis.max === undefined ? high + margin : high];
  }

  function color(series) { return series.color ? `var(--${series.color})` : "var(--accent)"; }

  function marker(kind, x, y, size, attributes, parent) {
    const shapes = {
      square: () => make("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes }, parent),
      diamond: () => make("path", { d: `M${x} ${y - 1.3 * size}L${x + 1.3 * size} ${y}L${x} ${y + 1.3 * size}L${x - 1.3 * size} ${y}Z`, ...attributes }, parent),
      circle: () => make("circle", { cx: x, cy: y, r: size, ...attributes }, parent),
    };
    return (shapes[kind] || shapes.circle)();
  }

  function swatch(series) {
    const svg = make("svg", { width: 26, height: 12, "aria-hidden": "true" });
    if (series.type !== "points") make("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: color(series), "stroke-width": series.width || 2, "stroke-dasharray": DASHES[series.dash || 0] }, svg);
    if (series.type === "points" || series.marker) marker(series.marker, 13, 6, 4, { fill: color(series) }, svg);
    return svg;
  }

  function quantile(sorted, share) {
    const place = share * (sorted.length - 1), below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
  }

  // spec: { x: {label, log, min, max, integer}, y: {...same, categories}, series: [...], lines: [{x|y, label}], height, legend }
  // series: { key, name, color, dash, width, marker, type: line|step|points|box|interval, points: [[x, y, ...]], band: [[x, low, high]], tips: [] }
  function plot(host, spec) {
    const chart = { host, spec, cursor: null };
    chart.draw = () => draw(chart);
    all.push(chart);
    if (!host.chartObserver) {
      host.chartObserver = new ResizeObserver(() => { if (host.chart && host.clientWidth !== host.chart.width) host.chart.draw(); });
      host.chartObserver.observe(host);
    } else {
      all.splice(all.indexOf(host.chart), 1);
    }
    host.chart = chart;
    chart.draw();
    return chart;
  }

  function legend(spec) {
    const box = element("div", { className: "legend" });
    const seen = new Set();
    for (const series of spec.series) {
      if (!series.name || seen.has(series.key || series.name) || series.legend === false) continue;
      seen.add(series.key || series.name);
      if (!series.key) { box.append(element("span", { className: "chip fixed" }, swatch(series), series.name)); continue; }
      const chip = element("button", { type: "button", className: "chip", title: "show or hide in all charts" }, swatch(series), series.name);
      chip.setAttribute("aria-pressed", String(!hidden.has(series.key)));
      chip.addEventListener("click", () => toggle(series.key));
      box.append(chip);
    }
    return box;
  }

  function toggle(key) {
    if (!hidden.delete(key)) hidden.add(key);
    redraw();
  }

  function redraw() { for (const chart of all) chart.draw(); }

  function draw(chart) {
    const { host, spec } = chart;
    const width = Math.max(host.clientWidth, 220), categories = spec.y.categories;
    chart.width = host.clientWidth;
    const series = spec.series.filter((each) => !hidden.has(each.key));
    const shown = categories ? categories.filter((each) => !hidden.has(each.key)) : null;
    const height = categories ? 62 + 34 * Math.max(shown.length, 1) : spec.height || 300;
    const xs = [], ys = [];
    for (const each of series) {
      for (const point of each.points || []) {
        if (each.type === "interval") xs.push(point[0], point[1], point[2]);
        else { xs.push(point[0]); if (!categories) ys.push(point[1]); }
      }
      for (const point of each.band || []) { xs.push(point[0]); ys.push(point[1], point[2]); }
    }
    for (const line of spec.lines || []) { if (line.x !== undefined) xs.push(line.x); else if (line.include !== false) ys.push(line.y); }
    const [x0, x1] = range(spec.x, xs), [y0, y1] = categories ? [0, 1] : range(spec.y, ys);
    const yTicks = categories ? [] : (spec.y.log ? logTicks : linearTicks)(y0, y1, Math.max(3, Math.round(height / 55))).filter((tick) => !spec.y.integer || Number.isInteger(tick));
    const labels = categories ? shown.map((each) => each.name) : yTicks.map(tickText);
    const longest = Math.max(...labels.map((label) => label.length), 1);
    const left = Math.min(Math.ceil(longest * (categories ? 7.9 : 7.3)) + (categories ? 12 : 30), Math.round(width * 0.42));
    const box = { left, right: width - 12, top: 10, bottom: height - 44 };
    const span = (value, low, high, log) => (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const X = (value) => box.left + (box.right - box.left) * span(value, x0, x1, spec.x.log);
    const Y = (value) => box.bottom - (box.bottom - box.top) * span(value, y0, y1, spec.y.log);
    const rowY = (key) => box.top + (shown.findIndex((each) => each.key === key) + 0.5) * ((box.bottom - box.top) / Math.max(shown.length, 1));

    const svg = make("svg", { class: "drawn", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${spec.y.label || ""} against ${spec.x.label}` });
    const xTicks = (spec.x.log ? logTicks : linearTicks)(x0, x1, Math.max(2, Math.floor((box.right - box.left) / 70))).filter((tick) => !spec.x.integer || Number.isInteger(tick));
    for (const tick of xTicks) {
      make("line", { x1: X(tick), x2: X(tick), y1: box.top, y2: box.bottom, stroke: "var(--grid)" }, svg);
      make("text", { x: X(tick), y: box.bottom + 17, "text-anchor": "middle", class: "quiet" }, svg).textContent = tickText(tick);
    }
    yTicks.forEach((tick, k) => {
      make("line", { x1: box.left, x2: box.right, y1: Y(tick), y2: Y(tick), stroke: "var(--grid)" }, svg);
      make("text", { x: box.left - 6, y: Y(tick) + 4.5, "text-anchor": "end", class: "quiet" }, svg).textContent = labels[k];
    });
    if (categories) for (const each of shown) {
      const fits = Math.floor((left - 12) / 7.8);
      const label = make("text", { x: box.left - 8, y: rowY(each.key) + 4.5, "text-anchor": "end" }, svg);
      label.textContent = each.name.length > fits ? each.name.slice(0, fits - 1) + "…" : each.name;
      make("title", {}, label).textContent = each.name;
    }
    make("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "var(--quiet)" }, svg);
    make("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, svg).textContent = fitted(spec.x.label, box.right - box.left + 60);
    if (!categories && spec.y.label) make("text", { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg).textContent = fitted(spec.y.label, height - 20);

    const over = make("g", {}); // labels that stay legible above curves
    for (const line of spec.lines || []) {
      const vertical = line.x !== undefined;
      const at = vertical ? X(line.x) : Y(line.y);
      if (!Number.isFinite(at) || at < (vertical ? box.left : box.top) - 1 || at > (vertical ? box.right : box.bottom) + 1) continue;
      const ends = vertical ? { x1: at, x2: at, y1: box.top, y2: box.bottom } : { x1: box.left, x2: box.right, y1: at, y2: at };
      make("line", { ...ends, stroke: "var(--quiet)", "stroke-width": 1.3, "stroke-dasharray": "3 3" }, svg);
      if (line.label && !vertical) make("text", { x: box.left + 5, y: at - 5, class: "over" }, over).textContent = line.label;
    }
    const clip = "clip" + all.indexOf(chart) + "-" + Math.random().toString(36).slice(2, 8);
    make("rect", { x: box.left - 5, y: box.top - 5, width: box.right - box.left + 10, height: box.bottom - box.top + 10 }, make("clipPath", { id: clip }, svg));
    const area = make("g", { "clip-path": `url(#${clip})` }, svg);
    const spots = []; // where the pointer finds something
    const good = (x, y) => Number.isFinite(x) && Number.isFinite(y);
    for (const each of series) {
      if (each.band && each.band.length) {
        const upper = each.band.map(([x, , high]) => [X(x), Y(high)]), lower = each.band.map(([x, low]) => [X(x), Y(low)]).reverse();
        const outline = (points) => points.filter(([x, y]) => good(x, y));
        const path = each.type === "step" ? [...stairs(outline(upper)), ...stairs(outline(lower.reverse())).reverse()] : [...outline(upper), ...outline(lower)];
        if (path.length) make("path", { d: "M" + path.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") + "Z", fill: color(each), opacity: 0.15 }, area);
      }
    }
    for (const each of series) {
      const tip = (k) => (each.tips ? each.tips[k] : null);
      if (each.type === "box") drawBox(each, area, spots, X, rowY(each.key));
      else if (each.type === "interval") drawInterval(each, area, spots, X, rowY(each.category || each.key));
      else {
        const places = (each.points || []).map(([x, y]) => [X(x), Y(y)]);
        if (each.type !== "points") {
          const parts = [[]];
          for (const place of places) { if (good(...place)) parts[parts.length - 1].push(place); else if (parts[parts.length - 1].length) parts.push([]); }
          for (const part of parts.filter((each) => each.length)) {
            const path = each.type === "step" ? stairs(part) : part;
            make("path", { d: "M" + path.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L"), fill: "none", stroke: color(each), "stroke-width": each.width || 2, "stroke-dasharray": DASHES[each.dash || 0], "stroke-linejoin": "round" }, area);
          }
        }
        places.forEach(([x, y], k) => {
          if (!good(x, y)) return;
          if (each.type === "points" || each.marker) marker(each.marker, x, y, each.size || 3.2, { fill: color(each), opacity: each.opacity || 1 }, area);
          const point = each.points[k];
          if (each.type !== "step" || k % 3 === 0) spots.push([x, y, tip(k) || `${each.name || ""}\n${spec.x.short || spec.x.label}: ${number(point[0])}\n${spec.y.short || spec.y.label}: ${number(point[1])}`]);
        });
      }
    }
    svg.append(over);
    const cursor = make("line", { y1: box.top, y2: box.bottom, stroke: "var(--accent)", "stroke-width": 2, visibility: "hidden" }, svg);
    chart.point = (x) => {
      chart.cursor = x;
      const ok = x !== null && good(X(x), 0);
      cursor.setAttribute("visibility", ok ? "visible" : "hidden");
      if (ok) { cursor.setAttribute("x1", X(x)); cursor.setAttribute("x2", X(x)); }
    };
    chart.point(chart.cursor);
    listen(svg, spots, width);
    host.replaceChildren(...(spec.legend === false || categories ? [] : [legend(spec)]), svg);
  }

  function fitted(text, room) {
    const fits = Math.max(Math.floor(room / 6.6), 8);
    return text.length > fits ? text.slice(0, fits - 1) + "…" : text;
  }

  function stairs(points) {
    const path = [];
    points.forEach(([x, y], k) => { if (k) path.push([x, points[k - 1][1]]); path.push([x, y]); });
    return path;
  }

  function drawBox(each, area, spots, X, y) {
    const values = each.points.map((point) => point[0]).filter(Number.isFinite).sort((a, b) => a - b);
    if (!values.length) return;
    const [low, first, middle, third, high] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => X(quantile(values, share)));
    each.points.forEach(([value], k) => {
      const place = y + (((k * 0.618034) % 1) - 0.5) * 18;
      make("circle", { cx: X(value), cy: place, r: 2.6, fill: color(each), opacity: 0.4 }, area);
      spots.push([X(value), place, each.tips[k]]);
    });
    make("line", { x1: low, x2: high, y1: y, y2: y, stroke: color(each), "stroke-width": 1.6 }, area);
    make("rect", { x: first, y: y - 8, width: Math.max(third - first, 1), height: 16, rx: 2, fill: color(each), "fill-opacity": 0.22, stroke: color(each), "stroke-width": 1.6 }, area);
    make("line", { x1: middle, x2: middle, y1: y - 10, y2: y + 10, stroke: color(each), "stroke-width": 3.5 }, area);
  }

  function drawInterval(each, area, spots, X, row) {
    const [value, low, high] = each.points[0];
    const y = row + (each.shift || 0);
    make("line", { x1: X(low), x2: X(high), y1: y, y2: y, stroke: color(each), "stroke-width": 2.2 }, area);
    for (const end of [low, high]) make("line", { x1: X(end), x2: X(end), y1: y - 4, y2: y + 4, stroke: color(each), "stroke-width": 2.2 }, area);
    marker(each.marker, X(value), y, 5, { fill: each.open ? "var(--card)" : color(each), stroke: color(each), "stroke-width": 2 }, area);
    spots.push([X(value), y, `${each.name}\n${number(value)}  [${number(low)}, ${number(high)}]`]);
  }

  function listen(svg, spots, width) {
    const tip = document.getElementById("tip");
    svg.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect(), scale = width / frame.width;
      const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
      let best = null, distance = 24 ** 2;
      for (const spot of spots) {
        const away = (spot[0] - x) ** 2 + (spot[1] - y) ** 2;
        if (away < distance) [best, distance] = [spot, away];
      }
      tip.hidden = !best;
      if (!best) return;
      tip.textContent = best[2];
      tip.style.left = Math.max(4, Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)) + "px";
      tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  return { plot, hide: (keys) => keys.forEach((key) => hidden.add(key)), number, element, redraw };
})();
