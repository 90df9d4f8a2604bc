import { bars, lines } from "./charts.js";

const KEY = "recsys_api_key";
const TIERS = ["ranked", "personal", "i2i", "similar", "popular_in_category", "popular", "available", "candidate", "nothing", "fold_in", "session", "editorial", "popular_sampled"];
const byId = (id) => document.getElementById(id);

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
const short = (value) => value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
const DIGITS = { minimumSignificantDigits: 3, maximumSignificantDigits: 3 };
const digits = (value) => value.toLocaleString("en", value ? DIGITS : {});
const share = (value) => value === null ? "–" : digits(100 * value) + " %";
const ms = (value) => value === null ? "–" : digits(value) + " ms";
const percent = (value) => number(100 * value) + " %"; // for axes

/** What is shown of some answers: [heading, field, format]. */
const figures = (k) => [
  ["Answers", "n_answers", number],
  ["Followed", "n_followed", number],
  [`Hit rate@${k}`, "hit_rate", share],
  [`Future hit rate@${k}`, "future_hit_rate", share],
  ["Click-through", "click_through", share],
  ["Conversion", "conversion", share],
  ["Coverage", "coverage", share],
  ["Degraded", "degraded_share", share],
  ["Mean time", "mean_ms", ms],
  ["p95", "p95_ms", ms],
  ["Longest", "max_ms", ms],
];

async function load() {
  tell("Loading …");
  const query = new URLSearchParams(["date_from", "date_to", "k"].map((id) => [id, byId(id).value]));
  const key = sessionStorage.getItem(KEY);
  let response, body;
  try {
    response = await fetch("dashboard/data?" + query, { headers: key ? { authorization: "Bearer " + key } : {} });
    body = await response.json();
  } catch {
    return tell("The service does not answer.", true);
  }
  const refused = response.status === 401 || response.status === 403;
  byId("ask_key").hidden = !refused;
  if (refused) {
    sessionStorage.removeItem(KEY);
    byId("content").hidden = true;
    byId("key").focus();
    return tell(key ? body.error : "", true);
  }
  if (!response.ok) return tell(body.error, true);
  history.replaceState(null, "", "?" + query);
  byId("content").hidden = false;
  show(body);
  tell(body.overall.n_answers ? "" : "Nothing was shown on these days.");
}

function tell(text, isError = false) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

function show(data) {
  pairs("service", data.in_service ? [
    ["Publication", `${data.in_service.publication_id}, ${age(data.in_service.age_s)} old`],
    ["Data set", data.in_service.dataset],
    ["Configuration", data.in_service.config_id ? `version ${data.in_service.config_id}` : "the defaults"],
    ["Available items", number(data.n_available)],
    ...Object.entries(data.in_service.models).map(([name, ref]) => ["Model " + name, String(ref)]),
  ] : [["Publication", "nothing is published"]]);
  pairs("tiles", [
    ...figures(data.k).map(([heading, field, format]) => [heading, format(data.overall[field])]),
    ["Answers a day", number(data.answers_per_day)],
  ]);
  table("by_surface", "Surface", data.by_surface, data.k, (row) => [row.surface]);
  table("by_model", "Tier and list", data.by_model, data.k, (row) => [
    row.tier, [row.list_version, row.rescored_by && "rescored by " + row.rescored_by].filter(Boolean).join(", "),
  ]);
  byId("bought").textContent = data.bought_event_types.join(" or ");
  plots(data);
}

function plots(data) {
  const byDay = new Map(data.by_day.map((row) => [row.day, row]));
  const days = daysBetween(data.date_from, data.date_to);
  const column = (field) => days.map((day) => byDay.get(day)?.[field] ?? null);
  const line = (name, color, field) => ({ name, color: `--c${color}`, values: column(field) });
  lines(byId("chart_hits"), days, [
    line(`hit rate@${data.k}`, 0, "hit_rate"), line(`future hit rate@${data.k}`, 2, "future_hit_rate"),
  ], percent);
  lines(byId("chart_times"), days, [
    line("mean", 0, "mean_ms"), line("p95", 1, "p95_ms"), line("longest", 5, "max_ms"),
  ], short);
  lines(byId("chart_degraded"), days, [line("degraded", 6, "degraded_share")], percent);
  const shown = TIERS.filter((tier) => data.by_day.some((row) => row.tiers[tier]));
  bars(byId("chart_tiers"), days, shown.map((tier) => ({
    name: tier.replaceAll("_", " "), color: `--c${TIERS.indexOf(tier)}`,
    values: days.map((day) => byDay.get(day)?.tiers[tier] ?? 0),
  })), short);
}

function pairs(id, entries) {
  byId(id).replaceChildren(...entries.map(([term, text]) => {
    const box = document.createElement("div");
    box.append(cell("dt", term), cell("dd", text));
    return box;
  }));
}

function table(id, heading, rows, k, names) {
  if (!rows.length) return byId(id).replaceChildren(cell("p", "no answers", "empty"));
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  head.append(...[heading, ...figures(k).map(([text]) => text)].map((text) => cell("th", text)));
  const body = made.createTBody();
  for (const row of rows) {
    const [name, version] = names(row);
    const first = cell("th", name.replaceAll("_", " "));
    first.scope = "row";
    if (version) first.append(Object.assign(cell("span", version, "version"), { title: version }));
    body.insertRow().append(first, ...figures(k).map(([, field, format]) => cell("td", format(row[field]))));
  }
  byId(id).replaceChildren(made);
}

function cell(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function age(seconds) {
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  return seconds < 172800 ? number(seconds / 3600) + " h" : number(seconds / 86400) + " days";
}

function daysBetween(first, last) {
  const days = [];
  for (let at = Date.parse(first); at <= Date.parse(last); at += 86400000) days.push(isoDay(at));
  return days;
}

function isoDay(at) {
  return new Date(at).toISOString().slice(0, 10);
}

byId("range").addEventListener("submit", (event) => { event.preventDefault(); load(); });
byId("ask_key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key").value = "";
  load();
});
const query = new URLSearchParams(location.search);
byId("date_to").value = query.get("date_to") ?? isoDay(Date.now());
byId("date_from").value = query.get("date_from") ?? isoDay(Date.now() - 6 * 86400000);
byId("k").value = query.get("k") ?? 10;
load();
