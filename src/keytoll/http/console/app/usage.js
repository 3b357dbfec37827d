// What was spent, over time and by what.

import { count, money, nano, share, sum } from "./amounts.js";
import { get } from "./api.js";
import { Chart } from "./chart.js";
import { Heading } from "./heading.js";
import { html, useMemo, useSession } from "./html.js";
import { Empty, Field, Loaded, Select, Table, useLoad } from "./parts.js";
import { useQuery } from "./route.js";
import { day, daysBetween, daysLater, monthStart, today } from "./times.js";

const MOST_SERIES = 6;
const MOST_DAYS = 366;
const PERIODS = [
  ["", "This month"],
  ["last-month", "Last month"],
  ["30-days", "Last 30 days"],
  ["90-days", "Last 90 days"],
  ["own", "From … to …"],
];
const STACKS = [
  ["", "By key"],
  ["model", "By model"],
];
const VIEWS = [
  ["", "Chart"],
  ["table", "Table"],
];

/** The page. What it shows is chosen in the address. */
export function Usage({ scope, title }) {
  const zone = useSession().about.billing_time_zone;
  const [query, setQuery] = useQuery();
  const { since, until, problem } = rangeOf(query, zone);
  const by = query.by === "model" ? "model" : "key";
  const load = useLoad((signal) => (problem ? new Promise(() => {}) : usage(scope, { since, until, by }, signal)), [scope.owner, since, until, by]);
  return html`
    <${Heading} scope=${scope} title=${title} lead=${`Days and months as in ${zone}.`} />
    <div class="filters" role="search" aria-label="Choose the period">
      <${Select} label="Period" value=${query.period ?? ""} choices=${PERIODS} onChange=${(period) => setQuery({ period, since, until })} />
      ${query.period === "own" && html`<${Dates} since=${since} until=${until} problem=${problem} onChange=${setQuery} />`}
      <${Select} label="Stack" value=${query.by ?? ""} choices=${STACKS} onChange=${(value) => setQuery({ by: value })} />
      <${Select} label="Show as" value=${query.view ?? ""} choices=${VIEWS} onChange=${(view) => setQuery({ view })} />
    </div>
    ${!problem &&
    html`
      <${Loaded} of=${load} isEmpty=${({ total }) => total.requests === 0} empty=${html`<${Nothing} since=${since} until=${until} />`}>
        ${(found) => html`<${Found} found=${found} view=${query.view} />`}
      <//>
    `}
  `;
}

async function usage(scope, { since, until, by }, signal) {
  const ask = (group_by) => get(`/${scope.owner}/usage`, { since, until, group_by }, signal);
  const [daily, items] = await Promise.all([ask(`day,${by}`), ask(by)]);
  return { daily: daily.data, items: items.data, total: items.total, by, since, until };
}

function Dates({ since, until, problem, onChange }) {
  const input = (name, value) => (attributes) =>
    html`<input ...${attributes} type="date" value=${value} onChange=${(event) => onChange({ [name]: event.target.value })} />`;
  return html`
    <${Field} label="From" control=${input("since", since)} />
    <${Field} label="To" problem=${problem} control=${input("until", until)} />
  `;
}

function Found({ found, view }) {
  const { by } = found; // what was loaded, which the address may be ahead of
  const { about } = useSession();
  const { currency } = about;
  const items = useMemo(() => rowsOf(found.items, by), [found]);
  return html`
    <${Sums} total=${found.total} currency=${currency} />
    <section class="panel" aria-label="Spending by day">
      <h2>Spending by day</h2>
      ${view === "table"
        ? html`<${DayTable} found=${found} by=${by} currency=${currency} />`
        : html`<${DayChart} found=${found} items=${items} by=${by} currency=${currency} />`}
    </section>
    <section class="panel" aria-label=${`Spending by ${by}`}>
      <h2>${by === "key" ? "By key" : "By model"}</h2>
      <${ItemTable} items=${items} by=${by} currency=${currency} />
    </section>
  `;
}

const Sums = ({ total, currency }) => html`
  <dl class="sums">
    <div class="first"><dt>Spent</dt><dd>${money(total.amount, currency)}</dd></div>
    <div><dt>Requests</dt><dd>${count(total.requests)}</dd></div>
    <div><dt>Tokens in</dt><dd>${count(tokensIn(total))}</dd></div>
    <div><dt>Tokens out</dt><dd>${count(tokensOut(total))}</dd></div>
  </dl>
`;

function DayChart({ found, items, by, currency }) {
  const days = daysBetween(found.since, found.until);
  const series = seriesOf(found.daily, items, days, by);
  const totals = days.map((_, at) => sum(series.map(({ amounts }) => amounts[at])));
  const range = `${day(found.since)} to ${day(found.until)}`;
  const label = `Spending for each day from ${range}, ${money(found.total.amount, currency)} in all. Show it as a table to read each day.`;
  return html`<${Chart} label=${label} days=${days} series=${series} totals=${totals} currency=${currency} />`;
}

function DayTable({ found, by, currency }) {
  const columns = [
    { name: "Day", cell: (row) => day(row.day) },
    { name: by === "key" ? "Key" : "Model", cell: (row) => nameOf(row, by) },
    { name: "Requests", kind: "number", cell: (row) => count(row.requests) },
    { name: "Tokens in", kind: "number", cell: (row) => count(tokensIn(row)) },
    { name: "Tokens out", kind: "number", cell: (row) => count(tokensOut(row)) },
    { name: "Amount", kind: "number", cell: (row) => money(row.amount, currency) },
  ];
  const rows = [...found.daily].sort((a, b) => b.day.localeCompare(a.day) || nameOf(a, by).localeCompare(nameOf(b, by)));
  return html`<${Table} caption="Spending by day" columns=${columns} rows=${rows} rowKey=${(row) => `${row.day} ${idOf(row, by)}`} />`;
}

function ItemTable({ items, by, currency }) {
  const most = items[0]?.amount ?? "0";
  const columns = [
    { name: by === "key" ? "Key" : "Model", kind: "name", cell: (row) => html`<${Swatch} index=${row.index} />${row.name}` },
    { name: "Requests", kind: "number", cell: (row) => count(row.requests) },
    { name: "Tokens in", kind: "number", cell: (row) => count(tokensIn(row)) },
    { name: "Cached", kind: "number", cell: (row) => count(row.cached_input_tokens) },
    { name: "Tokens out", kind: "number", cell: (row) => count(tokensOut(row)) },
    { name: "Amount", kind: "number", cell: (row) => money(row.amount, currency) },
    { name: "Share of the most", kind: "share", cell: (row) => html`<${ShareBar} row=${row} most=${most} />` },
  ];
  return html`<${Table} caption=${`Spending by ${by}`} columns=${columns} rows=${items} rowKey=${(row) => row.id} />`;
}

const Swatch = ({ index }) =>
  html`<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect class=${`series-${index}`} width="10" height="10" rx="2.5" /></svg>`;

const ShareBar = ({ row, most }) => html`
  <svg class="bar" aria-hidden="true" focusable="false">
    <rect class=${`series-${row.index}`} width=${nano(most) > 0n ? `${share(row.amount, most) * 100}%` : "0"} height="100%" rx="3" />
  </svg>
`;

const Nothing = ({ since, until }) => html`
  <${Empty} icon="usage" title="Nothing spent">
    <p>No request was charged from ${day(since)} to ${day(until)}.</p>
  <//>
`;

// -------------------------------------------------------------------------------------------------------------- sums

/** Keys or models with their sums, the dearest first. The first few have a colour of their own. */
function rowsOf(items, by) {
  const rows = items.map((item) => ({ ...item, id: idOf(item, by), name: nameOf(item, by) }));
  rows.sort((a, b) => (nano(b.amount) > nano(a.amount) ? 1 : nano(b.amount) < nano(a.amount) ? -1 : a.name.localeCompare(b.name)));
  return rows.map((row, at) => ({ ...row, index: Math.min(at, MOST_SERIES) }));
}

/** A series for each of the dearest, and one for all others together. */
function seriesOf(daily, items, days, by) {
  const named = items.slice(0, MOST_SERIES).map(({ id, name, index }) => ({ name, index, ids: new Set([id]) }));
  const others = new Set(items.slice(MOST_SERIES).map(({ id }) => id));
  const groups = others.size ? [...named, { name: `${others.size} others`, index: MOST_SERIES, ids: others }] : named;
  return groups.map(({ name, index, ids }) => ({ name, index, amounts: amountsOf(daily.filter((row) => ids.has(idOf(row, by))), days) }));
}

function amountsOf(rows, days) {
  const found = Map.groupBy(rows, (row) => row.day);
  return days.map((each) => sum((found.get(each) ?? []).map(({ amount }) => amount)));
}

const idOf = (row, by) => (by === "key" ? row.key_id : row.model);
const nameOf = (row, by) => (by === "key" ? (row.key_name ?? `deleted key ${row.key_id.slice(-6)}`) : row.model);
const tokensIn = (row) => row.input_tokens + row.cached_input_tokens + row.cache_write_tokens + row.audio_input_tokens;
const tokensOut = (row) => row.output_tokens + row.audio_output_tokens;

function rangeOf({ period = "", since, until }, zone) {
  const now = today(zone);
  if (period === "last-month") return { since: monthStart(now, -1), until: daysLater(monthStart(now), -1) };
  if (period === "30-days") return { since: daysLater(now, -29), until: now };
  if (period === "90-days") return { since: daysLater(now, -89), until: now };
  if (period !== "own") return { since: monthStart(now), until: now };
  return { since, until, problem: rangeProblem(since, until) };
}

function rangeProblem(since, until) {
  if (!isDay(since) || !isDay(until)) return "Choose both days.";
  if (since > until) return "Choose a day that is not before the first.";
  return daysBetween(since, until).length > MOST_DAYS ? `Choose at most ${MOST_DAYS} days.` : null;
}

const isDay = (text) => /^\d{4}-\d\d-\d\d$/.test(text ?? "");
