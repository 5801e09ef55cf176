"use strict";
/* Small charts, drawn as SVG in units of pixels. */
(() => {
  const { svg, numbers } = atlas;
  const NARROW = 320;

  /* The width of a chart that has the page to itself. */
  atlas.room = () => document.getElementById("content").clientWidth - 48;

  const text = (x, y, anchor, content) =>
    svg("text", { x, y, "text-anchor": anchor, class: "axis" }, content);

  const drawing = (width, height, label, ...children) =>
    svg(
      "svg",
      {
        width,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": label,
        class: "chart",
      },
      ...children,
    );

  /* Bars of values side by side. `labels` stand below: [share of the width, anchor, text]. */
  atlas.bars = (
    values,
    { label, labels = [], titles, width = NARROW, height = 84, ticks = [] },
  ) => {
    const largest = Math.max(...values, 0) || 1;
    const step = width / values.length;
    const gap = Math.min(2, step / 4);
    const bars = Array.from(values, (value, n) => {
      const size = value > 0 ? Math.max(1, (value / largest) * (height - 4)) : 0;
      const place = { x: n * step + gap / 2, width: step - gap, y: height - size, height: size };
      return svg(
        "rect",
        { ...place, class: "bar-fill" },
        titles ? svg("title", null, titles(n)) : null,
      );
    });
    const marks = ticks.map((share) =>
      svg("line", {
        x1: share * width,
        x2: share * width,
        y1: height,
        y2: height + 4,
        class: "rule",
      }),
    );
    const base = svg("line", { x1: 0, x2: width, y1: height, y2: height, class: "rule" });
    const below = labels.map(([share, anchor, content]) =>
      text(share * width, height + 15, anchor, content),
    );
    return drawing(width, height + 20, label, ...bars, base, ...marks, ...below);
  };

  /* Dots, and lines through values, over a common x from 0 to 1. */
  atlas.lines = (series, { label, labels = [], width = NARROW, height = 120, from = 0, to }) => {
    const all = series.flatMap(({ points }) => points.map(([, y]) => y)).filter(Number.isFinite);
    const high = to ?? (Math.max(...all, 0) || 1);
    const x = (share) => 3 + share * (width - 6);
    const y = (value) => 14 + (1 - (value - from) / (high - from || 1)) * (height - 18);
    const drawn = series.map(({ points, kind }) => {
      const known = points.filter(([, value]) => Number.isFinite(value));
      if (kind === "dots")
        return known.map(([px, py]) =>
          svg("circle", { cx: x(px), cy: y(py), r: 1.4, class: "dot" }),
        );
      const path = known.map(
        ([px, py], n) => `${n ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`,
      );
      return svg("path", { d: path.join(""), class: "line" });
    });
    const base = svg("line", { x1: 0, x2: width, y1: height - 4, y2: height - 4, class: "rule" });
    const top = svg("line", { x1: 0, x2: width, y1: 14, y2: 14, class: "rule faint" });
    const below = labels.map(([share, anchor, content]) =>
      text(share * width, height + 11, anchor, content),
    );
    const scale = text(0, 10, "start", numbers.brief(high));
    return drawing(width, height + 16, label, top, base, ...drawn.flat(), scale, ...below);
  };

  /* How the tokens of two latents overlap, to scale: only the first, both, only the second. */
  atlas.overlap = (onlyI, both, onlyJ, label) => {
    const width = atlas.room();
    const sum = onlyI + both + onlyJ || 1;
    let x = 0;
    const parts = [onlyI, both, onlyJ].map((n, place) => {
      const size = (n / sum) * width;
      const part = svg("rect", {
        x,
        y: 0,
        width: size,
        height: 14,
        class: ["only-i", "both", "only-j"][place],
      });
      x += size;
      return part;
    });
    return drawing(width, 14, label, ...parts);
  };
})();
