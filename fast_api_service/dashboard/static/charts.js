// Lines and stacked bars over days, as SVG of the width of their place; drawn anew when that changes.

const HEIGHT = 190, LEFT = 46, RIGHT = 10, TOP = 12, BOTTOM = 24;

/** days: YYYY-MM-DD, ascending. series: [{name, color, values}], values as days, null for none.
 *  format: number → text. max: the top of the axis, where it is known. */
export function lines(place, days, series, format) {
  chart(place, days, series, format, top(series.flatMap((one) => one.values)), (svg, x, y) => {
    for (const one of series) {
      let path = "", drawing = false;
      one.values.forEach((value, i) => {
        if (value === null) { drawing = false; return; }
        path += `${drawing ? "L" : "M"}${x(i)} ${y(value)}`;
        drawing = true;
      });
      add(svg, "path", { d: path, fill: "none", stroke: one.color, "stroke-width": 2, "stroke-linejoin": "round" });
      one.values.forEach((value, i) => {
        if (value === null) return;
        const dot = add(svg, "circle", { cx: x(i), cy: y(value), r: days.length > 40 ? 2 : 3, fill: one.color });
        add(dot, "title", {}, `${days[i]}: ${one.name} ${format(value)}`);
      });
    }
  });
}

/** The same, one bar a day, its series on top of each other. */
export function bars(place, days, series, format) {
  const sums = days.map((_, i) => series.reduce((sum, one) => sum + (one.values[i] ?? 0), 0));
  chart(place, days, series, format, top(sums), (svg, x, y, step) => {
    const width = Math.max(1, Math.min(40, step * 0.7));
    days.forEach((day, i) => {
      let below = 0;
      for (const one of series) {
        const value = one.values[i] ?? 0;
        if (!value) continue;
        const from = y(below + value);
        const bar = add(svg, "rect", { x: x(i) - width / 2, y: from, width, height: y(below) - from, fill: one.color });
        add(bar, "title", {}, `${day}: ${one.name} ${format(value)}`);
        below += value;
      }
    });
  });
}

function chart(place, days, series, format, max, draw) {
  place.observer?.disconnect();
  place.observer = new ResizeObserver(() => {
    const width = place.clientWidth;
    if (place.drawnFor === width || !width) return;
    place.drawnFor = width;
    place.replaceChildren(frame(width, days, series, format, max, draw), legend(series));
  });
  place.drawnFor = 0;
  place.observer.observe(place);
}

function frame(width, days, series, format, max, draw) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" }))
    svg.setAttribute(name, value);
  svg.setAttribute("aria-label", `${series.map((one) => one.name).join(", ")}, ${days[0]} to ${days.at(-1)}`);
  const step = (width - LEFT - RIGHT) / days.length;
  const x = (i) => LEFT + step * (i + 0.5);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / max);
  for (const part of [0, 0.5, 1]) {
    add(svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(max * part), y2: y(max * part) });
    add(svg, "text", { x: LEFT - 6, y: y(max * part) + 4, "text-anchor": "end" }, format(max * part));
  }
  const every = Math.ceil(56 / step);
  days.forEach((day, i) => {
    if ((days.length - 1 - i) % every === 0 && x(i) > LEFT + 14 && x(i) < width - 14)
      add(svg, "text", { x: x(i), y: HEIGHT - 6, "text-anchor": "middle" }, day.slice(5));
  });
  draw(svg, x, y, step);
  return svg;
}

function legend(series) {
  const list = document.createElement("div");
  list.className = "legend";
  for (const one of series) {
    const entry = document.createElement("span"), mark = document.createElement("i");
    mark.style.background = one.color;
    entry.append(mark, one.name);
    list.append(entry);
  }
  return list;
}

/** A round number that holds all values: 1, 2 or 5 times a power of ten. */
function top(values) {
  const most = Math.max(0, ...values.filter((value) => value !== null));
  if (!most) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((times) => times * power).find((bound) => bound >= most * 0.999999);
}

function add(parent, tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
