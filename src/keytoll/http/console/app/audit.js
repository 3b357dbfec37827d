// Who changed what.

import { get } from "./api.js";
import { Heading } from "./heading.js";
import { html, useSession } from "./html.js";
import { Empty, Loaded, Pager, Select, Table, useLoad, usePages } from "./parts.js";
import { useQuery } from "./route.js";
import { endOf, startOf, Time } from "./times.js";

const PAGE = 50;
const ACTIONS = {
  "key.create": "Key made",
  "key.edit": "Key changed",
  "key.rotate": "Key rotated",
  "key.delete": "Key deleted",
  "charges.archive": "Charges archived",
  "member.put": "Member added or changed",
  "member.remove": "Member removed",
  "access_token.reset": "Access token reset",
  "access_token.revoke": "Access token revoked",
  "user.create": "User signed up",
  "user.delete": "User deleted",
  "organization.create": "Organization made",
  "organization.delete": "Organization deleted",
};

/** The changes of an owner's things, newest first. */
export function Audit({ scope, title }) {
  const zone = useSession().about.billing_time_zone;
  const [{ action = "", since = "", until = "" }, setQuery] = useQuery();
  const asked = { owner: scope.owner, action, since: since && startOf(since, zone), until: until && endOf(until, zone) };
  const pages = usePages(asked);
  const list = useLoad(
    (signal) => get("/audit-events", { ...asked, after: pages.after, limit: PAGE }, signal),
    [JSON.stringify(asked), pages.after],
  );
  const date = (name, value, label) => html`
    <label class="select"><span>${label}</span><input type="date" value=${value} onChange=${(event) => setQuery({ [name]: event.target.value })} /></label>
  `;
  return html`
    <${Heading} scope=${scope} title=${title} lead="Every change, who made it, and from where." />
    <div class="filters" role="search" aria-label="Filter the changes">
      <${Select} label="Change" value=${action} choices=${[["", "All changes"], ...Object.entries(ACTIONS)]} onChange=${(value) => setQuery({ action: value })} />
      ${date("since", since, "From")} ${date("until", until, "To")}
    </div>
    <${Loaded} of=${list} empty=${html`<${Empty} icon="audit" title="No changes"><p>Nothing was changed that this list would tell of.</p><//>`}>
      ${(page) => html`<${EventTable} events=${page.data} busy=${list.busy} zone=${zone} /><${Pager} pages=${pages} next=${page.next} />`}
    <//>
  `;
}

function EventTable({ events, busy, zone }) {
  const columns = [
    { name: "Time", cell: (event) => html`<${Time} at=${event.at} zone=${zone} />` },
    { name: "Change", kind: "name", cell: (event) => html`<b>${ACTIONS[event.action] ?? event.action}</b><small>${event.subject_name ?? event.subject}</small>` },
    { name: "By", cell: (event) => event.actor.replace(/^users\//, "") },
    { name: "Address", cell: (event) => html`<code>${event.source}</code>` },
    { name: "Details", kind: "details", cell: (event) => html`<${Details} event=${event} />` },
  ];
  return html`<${Table} caption="Changes, newest first" columns=${columns} rows=${events} rowKey=${({ id }) => id} busy=${busy} />`;
}

function Details({ event }) {
  const rows = differences(event.before ?? {}, event.after ?? {});
  if (rows.length === 0) return html`<span class="hint">None</span>`;
  return html`
    <details>
      <summary>${rows.length === 1 ? "1 field" : `${rows.length} fields`}</summary>
      <dl class="difference">
        ${rows.map(
          ([field, before, after]) => html`
            <div key=${field}>
              <dt>${field.replaceAll("_", " ")}</dt>
              <dd>${before !== undefined && html`<del>${shown(before)}</del> `}${after !== undefined && html`<ins>${shown(after)}</ins>`}</dd>
            </div>
          `,
        )}
      </dl>
    </details>
  `;
}

/** The fields that differ, with both values; undefined where there was no picture, or nothing in it. */
function differences(before, after) {
  const fields = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return fields
    .filter((field) => JSON.stringify(before[field]) !== JSON.stringify(after[field]))
    .map((field) => [field, before[field], after[field]])
    .filter(([, was, is]) => !(was === undefined && is === null) && !(is === undefined && was === null));
}

function shown(value) {
  if (value === null) return "none";
  if (Array.isArray(value)) return value.map(shown).join(", ");
  if (typeof value === "object") return Object.values(value).filter((each) => each !== null).map(shown).join(" ");
  return String(value);
}
