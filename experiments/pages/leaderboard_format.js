"use strict";
// Figures as people read them; the exact ones stand in each cell's title and data-value.
const format = (() => {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const significant = (value, digits) => String(Number(value.toPrecision(digits)));
  const count = (value) => {
    const [size, unit] = units.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
    return significant(value / size, 4) + (unit && ` ${unit}`);
  };
  return {
    significant,
    count,
    share: (value) => value.toFixed(4),
    points: (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2),
    megabytes: (value) => (value / 1e6).toFixed(2),
    milliseconds: (value) => (value < 1000 ? significant(value, 3) : value.toFixed(0)),
    whole: (value) => value.toLocaleString("en"),
    words: String,
    // For places where a library takes text for HTML.
    escaped: (words) => String(words).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`),
  };
})();
