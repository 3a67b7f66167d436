"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { element, number } = Charts;
  const find = (id) => document.getElementById(id);
  const methods = data.methods; // [{ name, color, dash, width, shown }]
  const look = (m) => ({ key: "m" + m, name: methods[m].name, color: methods[m].color, dash: methods[m].dash, width: methods[m].width });
  Charts.hide(methods.map((method, m) => [method, "m" + m]).filter(([method]) => !method.shown).map(([, key]) => key));
  const rows = methods.map((method, m) => ({ key: "m" + m, name: method.name }));

  // The charts of one set of structures, or of all.
  function drawSet(index) {
    const set = data.sets[index];
    const chosen = data.structures.map((structure, s) => [structure, s]).filter(([structure]) => set.all || structure.set === set.name);
    const host = (id) => find(id).querySelector(".plot");
    Charts.plot(host("ratios"), {
      x: { label: "force evaluations / those of BFGS", log: true }, y: { categories: rows }, lines: [{ x: 1 }],
      series: methods.flatMap((_, m) => [
        { ...look(m), name: `${methods[m].name}, geometric mean`, type: "interval", category: "m" + m, points: [set.ratios[m].mean], shift: -6 },
        { ...look(m), name: `${methods[m].name}, interquartile mean`, type: "interval", category: "m" + m, points: [set.ratios[m].iqm], marker: "diamond", open: true, shift: 6 },
      ]),
    });
    Charts.plot(host("profile"), {
      x: { label: "factor τ of the fewest evaluations", short: "τ", log: true, min: 1 }, y: { label: "share of runs solved within τ × best", short: "share", min: 0, max: 1.02 },
      series: set.profiles.map((profile, m) => ({ ...look(m), type: "step", points: profile.map(([share], k) => [set.factors[k], share]), band: profile.map(([, low, high], k) => [set.factors[k], low, high]) })),
    });
    Charts.plot(host("distribution"), {
      x: { label: `force evaluations to ${data.fmax} eV/Å`, log: true }, y: { categories: rows },
      series: methods.map((_, m) => ({ ...look(m), type: "box", points: chosen.map(([structure]) => [structure.counts[m]]), tips: chosen.map(([structure]) => `${structure.id}, ${structure.formula}\n${methods[m].name}: ${structure.counts[m]}${structure.failed[m] ? " (failed)" : ""}`) })),
    });
    Charts.plot(host("progress"), {
      x: { label: "force evaluations", log: true, min: 1 }, y: { label: "lowest fmax so far, eV/Å", short: "fmax", log: true }, lines: [{ y: data.fmax, label: `${data.fmax} eV/Å` }],
      series: set.progress.map((curve, m) => ({ ...look(m), type: "line", points: curve.map(([n, middle]) => [n, middle]), band: curve.map(([n, , low, high]) => [n, low, high]) })),
    });
    Charts.plot(host("sizes"), {
      x: { label: "number of atoms", log: true }, y: { label: "evaluations / those of BFGS", short: "ratio", log: true }, lines: [{ y: 1, label: "BFGS" }],
      series: methods.flatMap((method, m) => (method.reference ? [] : [
        { ...look(m), type: "points", opacity: 0.55, legend: false, points: chosen.map(([structure]) => [structure.natoms, structure.counts[m] / structure.counts[data.reference]]), tips: chosen.map(([structure]) => `${structure.id}, ${structure.formula}, ${structure.natoms} atoms\n${method.name}: ${number(structure.counts[m] / structure.counts[data.reference])}`) },
        { ...look(m), type: "line", marker: "square", points: means(chosen, m) },
      ])),
    });
  }

  function means(chosen, m) {
    const groups = new Map();
    for (const [structure] of chosen) {
      const logs = groups.get(structure.natoms) || [];
      logs.push(Math.log(structure.counts[m] / structure.counts[data.reference]));
      groups.set(structure.natoms, logs);
    }
    return [...groups].sort(([a], [b]) => a - b).map(([natoms, logs]) => [natoms, Math.exp(logs.reduce((sum, value) => sum + value, 0) / logs.length)]);
  }

  // One structure: the curves of all methods, and the relaxation of one of them.
  const table = find("structures");
  const choice = find("method"), slider = find("frame"), playButton = find("play");
  let current = null, curves = [];
  const viewer = Viewer.create(find("stage"), {
    elements: data.elements, radii: data.radii,
    missing: data.films_missing,
    onFrame: (evaluation, frame, frames) => {
      slider.max = frames - 1;
      slider.value = frame;
      const m = Number(choice.value), trace = data.structures[current].traces;
      const words = [`evaluation ${evaluation} of ${data.structures[current].spent[m]}`];
      if (trace && trace[m]) {
        words.push(`fmax ${number(trace[m].fmax[evaluation - 1])} eV/Å`);
        const energy = trace[m].energy[evaluation - 1];
        if (energy !== null && energy !== undefined) words.push(`${energy > 0 ? "+" : ""}${number(energy)} meV/atom from the start`);
      }
      find("moment").textContent = words.join(" · ");
      for (const chart of curves) chart.point(evaluation);
    },
    onPlay: (on) => { playButton.textContent = on ? "❚❚ Pause" : "▶ Play"; playButton.setAttribute("aria-pressed", String(on)); },
  });

  function choose(s, scroll) {
    current = s;
    const structure = data.structures[s];
    for (const row of table.tBodies[0].rows) row.classList.toggle("chosen", Number(row.dataset.structure) === s);
    find("chosen").textContent = `${structure.id}: ${structure.formula}, ${structure.natoms} atoms`;
    find("endings").textContent = methods.map((method, m) => (structure.failed[m] ? `${method.name}: ${structure.reasons[m]}` : null)).filter(Boolean).join(" · ");
    const traces = structure.traces;
    const series = (pick) => (traces || []).map((trace, m) => (trace ? { ...look(m), type: "line", marker: "circle", size: 2.4, points: pick(trace).map((value, k) => [k + 1, value]) } : null)).filter(Boolean);
    // Energies count from the lowest that any method has reached.
    const lowest = Math.min(...(traces || []).flatMap((trace) => (trace ? trace.energy.filter(Number.isFinite) : [])));
    const x = { label: "force evaluation", log: true, min: 0.9, short: "evaluation" };
    curves = [
      Charts.plot(find("trace"), { height: 235, x, y: { label: "fmax, eV/Å", short: "fmax", log: true }, lines: [{ y: data.fmax, label: `${data.fmax} eV/Å` }], series: series((trace) => trace.fmax) }),
      Charts.plot(find("energy"), { height: 200, legend: false, x, y: { label: "E − lowest, meV/atom", short: "E − lowest", log: true, min: 0.01 }, series: series((trace) => trace.energy.map((value) => (value === null ? null : Math.max(value - lowest, 0.01)))) }),
    ];
    find("curves").hidden = !traces;
    find("untraced").hidden = Boolean(traces);
    const films = structure.films || {};
    const filmed = methods.map((_, m) => m).filter((m) => films[m]);
    choice.replaceChildren(...filmed.map((m) => element("option", { value: m, textContent: methods[m].name })));
    play(filmed[0]);
    if (scroll) find("one").scrollIntoView({ behavior: "smooth", block: "start" });
  }

  function play(m) {
    const films = data.structures[current].films || {};
    viewer.load(films[m]);
    find("player").hidden = !viewer.state.film;
    find("elements").replaceChildren(...[...viewer.colors()].map(([symbol, tint]) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = tint;
      return element("span", { className: "chip fixed" }, dot, symbol);
    }));
  }

  choice.addEventListener("change", () => play(Number(choice.value)));
  playButton.addEventListener("click", () => viewer.play());
  find("before").addEventListener("click", () => { viewer.stop(); viewer.show(0); });
  find("after").addEventListener("click", () => { viewer.stop(); viewer.show(1e9); });
  slider.addEventListener("input", () => { viewer.stop(); viewer.show(Number(slider.value)); });
  find("magnify").addEventListener("change", (event) => viewer.magnify(Number(event.target.value)));
  find("ghosts").addEventListener("change", (event) => viewer.ghosts(event.target.checked));
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.structure), true);
  });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));

  // The neighbour in the table, as it is sorted and filtered.
  function step(by) {
    const visible = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => Number(row.dataset.structure));
    if (!visible.length) return;
    choose(visible[(visible.indexOf(current) + by + visible.length) % visible.length], false);
  }

  Tables.sortable(table);
  Tables.searchable(table, find("search"), find("found"));
  const sets = find("set");
  if (sets) sets.addEventListener("change", () => drawSet(Number(sets.value)));
  drawSet(data.sets.length - 1);
  choose(0, false);
  window.relaxrlReport = { viewer, data, choose }; // for those who script the page
})();
