// The rows of the ledger.

import { count, money } from "./amounts.js";
import { all, fetched, get } from "./api.js";
import { Heading } from "./heading.js";
import { html, useSession, useState } from "./html.js";
import { Icon } from "./icons.js";
import { Explanation } from "./charge.js";
import { Empty, Loaded, Pager, Problem, Select, Table, Tag, useChange, useLoad, usePages } from "./parts.js";
import { useQuery } from "./route.js";
import { endOf, startOf, Time } from "./times.js";

const PAGE = 50;
const MOST_ROWS = 100_000;
const TOO_MANY = "More than 100,000 charges fit, which is too much for a browser: choose fewer days, or run keytoll charges export.";

/** The list with its filters; each row can be explained. */
export function Charges({ scope, title }) {
  const { about } = useSession();
  const [query, setQuery] = useQuery();
  const asked = askedOf(query, about.billing_time_zone);
  const pages = usePages(asked);
  const [explained, setExplained] = useState(null);
  const list = useLoad(
    (signal) => get(`/${scope.owner}/charges`, { ...asked, after: pages.after, limit: PAGE }, signal),
    [scope.owner, JSON.stringify(asked), pages.after],
  );
  const filtered = Object.values(asked).some(Boolean);
  return html`
    <${Heading} scope=${scope} title=${title} lead="Each request that was let through, and what it cost.">
      <${Download} scope=${scope} asked=${asked} />
    <//>
    <${Filters} scope=${scope} query=${query} onChange=${setQuery} />
    <${Loaded} of=${list} empty=${html`<${None} filtered=${filtered} />`}>
      ${(page) => html`
        <${ChargeTable} charges=${page.data} busy=${list.busy} about=${about} onExplain=${setExplained} />
        <${Pager} pages=${pages} next=${page.next} />
      `}
    <//>
    ${explained && html`<${Explanation} charge=${explained} onClose=${() => setExplained(null)} />`}
  `;
}

const askedOf = ({ key = "", model = "", since, until }, zone) => ({
  key_id: key,
  model,
  since: since ? startOf(since, zone) : "",
  until: until ? endOf(until, zone) : "",
});

function Filters({ scope, query, onChange }) {
  const keys = useLoad(() => all(`/${scope.owner}/keys`, {}, { most: 1000 }), [scope.owner]);
  const choices = [["", "All keys"], ...(keys.data ?? []).map(({ id, name }) => [id, name])];
  if (query.key && !choices.some(([id]) => id === query.key)) choices.push([query.key, `deleted key ${query.key.slice(-6)}`]);
  const date = (name, label) => html`
    <label class="select"><span>${label}</span>
      <input type="date" value=${query[name] ?? ""} onChange=${(event) => onChange({ [name]: event.target.value })} />
    </label>
  `;
  return html`
    <div class="filters" role="search" aria-label="Filter the charges">
      <${Select} label="Key" value=${query.key ?? ""} choices=${choices} onChange=${(key) => onChange({ key })} />
      <label class="select"><span>Model</span>
        <input type="text" placeholder="Any model" value=${query.model ?? ""} spellcheck=${false}
          onChange=${(event) => onChange({ model: event.target.value.trim() })} />
      </label>
      ${date("since", "From")} ${date("until", "To")}
    </div>
  `;
}

function ChargeTable({ charges, busy, about, onExplain }) {
  const { currency, billing_time_zone: zone } = about;
  const columns = [
    { name: "Time", cell: (row) => html`<${Time} at=${row.admitted_at} zone=${zone} />` },
    { name: "Key", cell: (row) => row.key_name ?? html`<span class="hint">deleted key ${row.key_id.slice(-6)}</span>` },
    { name: "Model", kind: "name", cell: (row) => html`<span class="model">${row.model}</span><small>${row.endpoint}</small>` },
    { name: "Tokens in", kind: "number", cell: (row) => count(row.input_tokens + row.cached_input_tokens + row.cache_write_tokens + row.audio_input_tokens) },
    { name: "Tokens out", kind: "number", cell: (row) => count(row.output_tokens + row.audio_output_tokens) },
    { name: "Measured", cell: (row) => html`<${Measured} row=${row} />` },
    { name: "Amount", kind: "number", cell: (row) => html`<b>${money(row.amount, currency)}</b>` },
    { name: "Explain", kind: "actions", cell: (row) => html`<button type="button" class="quiet" aria-label=${`Explain the charge of ${money(row.amount, currency)}`} onClick=${() => onExplain(row)}>Explain</button>` },
  ];
  return html`<${Table} caption="Charges, newest first" columns=${columns} rows=${charges} rowKey=${(row) => row.id} busy=${busy} />`;
}

function Measured({ row }) {
  if (row.kind === "correction") return html`<${Tag} kind="warn">Correction<//>`;
  if (row.status >= 400) return html`<${Tag} kind="bad">Error ${row.status}<//>`;
  if (row.measured === "estimated") return html`<${Tag} kind="warn">Estimated<//>`;
  return row.measured === "reported" ? "Reported" : "None";
}

/** All rows that the filters let through, as a CSV file. */
function Download({ scope, asked }) {
  const [rows, setRows] = useState(null);
  const { busy, error, run } = useChange();
  const download = () =>
    run(async () => {
      const pages = await csvPages(`/${scope.owner}/charges`, asked, setRows).finally(() => setRows(null));
      save(new Blob(pages, { type: "text/csv" }), `charges-${scope.name}.csv`);
    });
  return html`
    <div>
      <button type="button" aria-disabled=${busy} onClick=${download}><${Icon} name="download" />${busy ? `Reading … ${count(rows ?? 0)}` : "Download CSV"}</button>
      <${Problem} error=${error} />
    </div>
  `;
}

/** The pages of the file: all but the first without their heading. Each names the next one in its Link. */
async function csvPages(path, asked, told) {
  const pages = [];
  let after = null;
  let rows = 0;
  do {
    const response = await fetched("GET", path, { query: { ...asked, after, limit: 1000, format: "csv" }, accept: "text/csv" });
    const text = await response.text();
    pages.push(pages.length ? text.slice(text.indexOf("\n") + 1) : text);
    told((rows += 1000));
    after = nextOf(response);
    // Half a file would look like a whole one.
    if (after && rows >= MOST_ROWS) throw new Error(TOO_MANY);
  } while (after);
  return pages;
}

function nextOf(response) {
  const [, url] = /<([^>]*)>; *rel="next"/.exec(response.headers.get("link") ?? "") ?? [];
  return url ? new URL(url, location.href).searchParams.get("after") : null;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const None = ({ filtered }) => html`
  <${Empty} icon="charges" title=${filtered ? "No charge fits" : "No charges yet"}>
    <p>${filtered ? "No request was charged to this key and model in these days." : "A request shows up here within a second of its end."}</p>
  <//>
`;
