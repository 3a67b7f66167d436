"use strict";
// Relaxations in three dimensions, drawn by 3Dmol.js and played evaluation by evaluation.
const Viewer = (() => {
  const COLORS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999"];
  const PATHS = 100; // atoms whose paths are shown at most
  const STEADY = 3; // frames of a film that play at the slowest speed

  // A film: { symbols: [[symbol, count], ...] in order, start: [x, y, z, ...], cells: [[9 numbers], ...], evaluations: [...],
  //           moves: base64 of int16, unit: Å, pbc }
  function unpack(film) {
    const bytes = Uint8Array.from(atob(film.moves), (sign) => sign.charCodeAt(0));
    const moves = new Int16Array(bytes.buffer);
    const symbols = film.symbols.flatMap(([symbol, count]) => Array(count).fill(symbol));
    const size = film.start.length;
    const frames = film.evaluations.map((_, k) => film.start.map((start, i) => start + film.unit * moves[k * size + i]));
    return { symbols, frames, cells: film.cells, evaluations: film.evaluations };
  }

  // Colours of the elements of one structure: the same for an element all over the page, unless two would be alike.
  function palette(symbols, known) {
    const colors = new Map(), taken = new Set();
    for (const symbol of [...new Set(symbols)].sort((a, b) => known.indexOf(a) - known.indexOf(b))) {
      let k = Math.max(known.indexOf(symbol), 0) % COLORS.length;
      for (let tried = 0; taken.has(k) && tried < COLORS.length; tried++) k = (k + 1) % COLORS.length;
      taken.add(k);
      colors.set(symbol, COLORS[k]);
    }
    return colors;
  }

  // The atoms that are farthest from where they were: paths of more would be slow to draw.
  function farthest(now, before) {
    const away = (k) => Math.hypot(now[3 * k] - before[3 * k], now[3 * k + 1] - before[3 * k + 1], now[3 * k + 2] - before[3 * k + 2]);
    const atoms = Array.from({ length: now.length / 3 }, (_, k) => [k, away(k)]);
    return atoms.sort(([, a], [, b]) => b - a).slice(0, PATHS).map(([k]) => k);
  }

  const corner = (cell, a, b, c) => ({ x: a * cell[0] + b * cell[3] + c * cell[6], y: a * cell[1] + b * cell[4] + c * cell[7], z: a * cell[2] + b * cell[5] + c * cell[8] });

  function create(stage, options) {
    const state = { film: null, frame: 0, playing: null, magnify: 1, ghosts: false, drawn: 0 };
    let viewer = null;
    const background = () => getComputedStyle(document.documentElement).getPropertyValue("--card").trim() || "white";
    const note = Object.assign(document.createElement("div"), { className: "empty" });
    const say = (text) => { note.textContent = text; stage.append(note); };

    function open() {
      if (viewer) return true;
      const trial = document.createElement("canvas");
      if (!trial.getContext("webgl2") && !trial.getContext("webgl")) {
        say("This browser draws no 3-D graphics: WebGL is off or missing.");
        return false;
      }
      try {
        const host = document.createElement("div");
        host.style.cssText = "position:absolute;inset:0";
        stage.append(host);
        viewer = $3Dmol.createViewer(host, { backgroundColor: background(), antialias: true, disableFog: true });
        // A page is to scroll where the wheel is turned over a structure in passing.
        host.addEventListener("wheel", (event) => { if (!event.ctrlKey && !event.shiftKey) event.stopImmediatePropagation(); }, { capture: true });
        new ResizeObserver(() => viewer && viewer.resize()).observe(stage);
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { viewer.setBackgroundColor(background()); draw(); });
        return true;
      } catch (error) {
        viewer = null;
        say("3-D graphics failed: " + (error.message || error));
        return false;
      }
    }

    // Positions of a frame; motion is magnified about where the relaxation ends.
    function positions(frame) {
      const now = state.film.frames[frame], last = state.film.frames[state.film.frames.length - 1];
      return state.magnify === 1 ? now : now.map((value, i) => last[i] + state.magnify * (value - last[i]));
    }

    function draw() {
      if (!viewer || !state.film) return;
      const { film, frame } = state;
      const colors = palette(film.symbols, options.elements), radii = options.radii;
      const now = positions(frame), before = positions(0);
      viewer.removeAllModels();
      viewer.removeAllShapes();
      const atoms = film.symbols.map((symbol, k) => ({ elem: symbol, x: now[3 * k], y: now[3 * k + 1], z: now[3 * k + 2], serial: k, bonds: [], bondOrder: [] }));
      const model = viewer.addModel();
      model.addAtoms(atoms);
      for (const [symbol, tint] of colors) viewer.setStyle({ elem: symbol }, { sphere: { radius: 0.55 * (radii[symbol] || 1.2), color: tint } });
      if (state.ghosts) for (const k of farthest(now, before)) {
        const symbol = film.symbols[k], from = { x: before[3 * k], y: before[3 * k + 1], z: before[3 * k + 2] }, to = atoms[k];
        viewer.addSphere({ center: from, radius: 0.2 * (radii[symbol] || 1.2), color: "gray", alpha: 0.75 });
        if (Math.hypot(from.x - to.x, from.y - to.y, from.z - to.z) > 0.05) viewer.addCylinder({ start: from, end: { x: to.x, y: to.y, z: to.z }, radius: 0.06, color: "gray", fromCap: 1, toCap: 1 });
      }
      const cell = film.cells[Math.min(frame, film.cells.length - 1)];
      if (cell && cell.some((value) => Math.abs(value) > 1e-6)) {
        for (const [a, b, c] of [[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) {
          for (const [p, q, r] of [[1 - a, b, c], [a, 1 - b, c], [a, b, 1 - c]]) viewer.addCylinder({ start: corner(cell, a, b, c), end: corner(cell, p, q, r), radius: 0.035, color: "gray", fromCap: 1, toCap: 1 });
        }
      }
      viewer.render();
      state.drawn += 1;
      state.shown = now;
    }

    function show(frame) {
      if (!state.film) return;
      state.frame = Math.max(0, Math.min(frame, state.film.frames.length - 1));
      draw();
      options.onFrame(state.film.evaluations[state.frame], state.frame, state.film.frames.length);
    }

    function stop() {
      clearInterval(state.playing);
      state.playing = null;
      options.onPlay(false);
    }

    function play() {
      if (!state.film) return;
      if (state.playing) { stop(); return; }
      if (state.frame >= state.film.frames.length - 1) show(0);
      const pause = Math.max(90, Math.min(700, 4000 / Math.max(state.film.frames.length, STEADY)));
      options.onPlay(true);
      state.playing = setInterval(() => {
        if (state.frame >= state.film.frames.length - 1) { stop(); return; }
        show(state.frame + 1);
      }, pause);
    }

    function load(film) {
      stop();
      state.film = null;
      note.remove();
      if (!film) {
        if (viewer) { viewer.removeAllModels(); viewer.removeAllShapes(); viewer.render(); }
        say(options.missing);
        return;
      }
      if (!open()) return;
      state.film = unpack(film);
      state.frame = 0;
      draw();
      viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
      viewer.rotate(-72, "x");
      viewer.rotate(18, "y");
      viewer.zoomTo();
      show(0);
    }

    return {
      state, load, show, play, stop,
      colors: () => palette(state.film ? state.film.symbols : [], options.elements),
      magnify: (factor) => { state.magnify = factor; draw(); },
      ghosts: (on) => { state.ghosts = on; draw(); },
      picture: () => (viewer ? viewer.pngURI() : null),
    };
  }
  return { create };
})();
