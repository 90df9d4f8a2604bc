// Lines and stacked bars over days, by uPlot (vendor/). The legend tells the values of the day under the pointer, else
// of the last one.
/* global uPlot */

const HEIGHT = 190, DAY = 86400000, FONT = "11px system-ui, sans-serif";

/** days: YYYY-MM-DD, ascending. series: [{name, color, values}], color a CSS variable, values as days, null for none.
 *  format: number → text. */
export function lines(place, days, series, format) {
  const points = { show: true, size: days.length > 40 ? 4 : 6 };
  const look = (color) => ({ width: 2, points: { ...points, fill: color } });
  chart(place, days, series, series.map((one) => one.values), format, look);
}

/** The same, one bar a day, its series on top of each other: each is drawn from zero, the highest first. */
export function bars(place, days, series, format) {
  const sums = days.map(() => 0);
  const upTo = series.map((one) => one.values.map((value, i) => sums[i] += value ?? 0));
  const bar = { width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 40] }) };
  chart(place, days, [...series].reverse(), upTo.reverse(), format, (color) => ({ ...bar, fill: color }));
}

function chart(place, days, series, data, format, look) {
  place.end?.();
  const color = (name) => () => getComputedStyle(place).getPropertyValue(name); // light or dark, whenever it is drawn
  const at = days.map((one) => Date.parse(one));
  const value = (one) => one === null ? "–" : format(one);
  const axis = { stroke: color("--quiet"), font: FONT, ticks: { show: false } };
  const plot = new uPlot({
    width: place.clientWidth, height: HEIGHT, ms: 1,
    padding: [12, 10, null, null],
    tzDate: (one) => uPlot.tzDate(new Date(one), "Etc/UTC"),
    legend: { markers: { width: 0, fill: (_, i) => i ? `var(${series[i - 1].color})` : "none" } },
    cursor: { y: false, drag: { x: false }, points: { show: false } },
    scales: {
      x: { range: () => [at[0] - DAY / 2, at.at(-1) + DAY / 2] },
      y: { range: (_, least, most) => [0, most ? uPlot.rangeNum(0, most, 0.1, true)[1] : 1] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 56, size: 28, gap: 8, incrs: [1, 2, 7, 14, 28].map((n) => n * DAY),
        values: (_, shown) => shown.map((one) => new Date(one).toISOString().slice(5, 10)) },
      { ...axis, grid: { stroke: color("--line"), width: 1 }, size: 50, values: (_, values) => values.map(format) },
    ],
    series: [{ label: "day", value: (_, __, ___, i) => days[i ?? days.length - 1] }, ...series.map((one) => ({
      label: one.name, stroke: color(one.color), ...look(color(one.color)),
      value: (_, __, ___, i) => value(one.values[i ?? days.length - 1]),
    }))],
  }, [at, ...data], place);
  plot.ctx.canvas.ariaLabel = `${series.map((one) => one.name).join(", ")}, ${days[0]} to ${days.at(-1)}`;
  plot.ctx.canvas.role = "img";
  const resized = new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT }));
  resized.observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)"), redraw = () => plot.redraw();
  dark.addEventListener("change", redraw);
  place.end = () => { resized.disconnect(); dark.removeEventListener("change", redraw); plot.destroy(); };
}
