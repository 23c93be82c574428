"use strict";
// A colour and a shape for each method: either alone tells them apart. Quantised models have a dot in their method's own.
const marks = (() => {
  const known = {
    teacher: ["--c7", "star"], slimsam: ["--c0", "circle"], mobilesam: ["--c1", "square"], tinysam: ["--c2", "diamond"],
    scratch: ["--c3", "triangle-up"], ptq: ["--c4", "pentagon"],
  };
  const others = [["--c5", "triangle-down"], ["--c6", "cross"], ["--c0", "hexagram"], ["--c1", "hourglass"], ["--c2", "bowtie"]];
  const unnamed = ["--c6", "hexagon"];
  const shapes = {
    circle: "M6 1a5 5 0 1 0 .01 0z", square: "M1.5 1.5h9v9h-9z", diamond: "M6 0l6 6-6 6-6-6z", "triangle-up": "M6 1l6 10H0z",
    "triangle-down": "M6 11L0 1h12z", pentagon: "M6 0l6 4.6-2.3 7H2.3L0 4.6z", hexagon: "M6 0l5.4 3v6L6 12 .6 9V3z",
    star: "M6 0l1.6 4.2 4.4.2-3.4 2.8 1.1 4.4L6 9.2l-3.7 2.4 1.1-4.4L0 4.4l4.4-.2z", cross: "M4 0h4v4h4v4H8v4H4V8H0V4h4z",
  };
  const bases = [...new Set(board.items("runs").map((item) => (item.method ?? "").split("+")[0]))].sort();
  const unknown = bases.filter((name) => name && !(name in known) && !name.startsWith("filled_"));
  const of = (method) => {
    const [base, ...then] = (method ?? "").split("+");
    const [colour, shape] = known[base] ?? (base ? others[unknown.indexOf(base) % others.length] : null) ?? unnamed;
    return { colour, shape, dot: then.includes("ptq") };
  };
  const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const symbol = (item) => {
    const { shape, dot } = of(item.method);
    return shape + (item.source === "published" ? "-open" : "") + (dot ? "-dot" : "");
  };
  function swatch(item) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "-1 -1 14 14");
    svg.setAttribute("aria-hidden", "true");
    if ((item.method ?? "").startsWith("filled_") || item.status === "failed") return svg;
    const { colour, shape, dot } = of(item.method);
    const draw = (path, style) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
      element.setAttribute("d", path);
      element.setAttribute("style", style);
      svg.append(element);
    };
    const hollow = item.source === "published";
    draw(shapes[shape] ?? shapes.circle, `fill: ${hollow ? "none" : `var(${colour})`}; stroke: var(${colour}); stroke-width: 1.6`);
    if (dot) draw("M6 4.4a1.8 1.8 0 1 0 .01 0z", `fill: ${hollow ? `var(${colour})` : "var(--ground)"}`);
    return svg;
  }
  return { of, paint, symbol, swatch };
})();
