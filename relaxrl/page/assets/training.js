"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  function draw(host) {
    const chart = data.charts[host.dataset.chart];
    Charts.plot(host.querySelector(".plot"), {
      x: data.x, y: chart.y, lines: chart.lines, height: chart.height,
      series: chart.series.map((series) => ({ ...series, type: series.type || "line", marker: series.points.length <= 60 ? "circle" : undefined, size: 2.6 })),
    });
  }

  for (const host of document.querySelectorAll("[data-chart]")) {
    const fold = host.closest("details");
    if (fold) fold.addEventListener("toggle", () => { if (fold.open) draw(host); }); // of no size while it is closed
    else draw(host);
  }
  const table = document.getElementById("config");
  Tables.sortable(table);
  Tables.searchable(table, document.getElementById("search"), document.getElementById("found"));
  window.relaxrlReport = { data };
})();
