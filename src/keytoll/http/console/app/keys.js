// The keys of a person or of an organization.

import { money, share } from "./amounts.js";
import { get, patch, remove } from "./api.js";
import { Heading } from "./heading.js";
import { html, useEffect, useSession, useState } from "./html.js";
import { Icon } from "./icons.js";
import { EditKey } from "./key-edit.js";
import { NewKey } from "./key-new.js";
import { RotateKey } from "./key-rotate.js";
import { Confirm, Empty, Loaded, Pager, Select, Table, Tag, useLoad, usePages } from "./parts.js";
import { useQuery } from "./route.js";
import { Expiry, Time, ZoneDay } from "./times.js";

const PAGE = 25;
const SORTS = [
  ["", "Newest first"],
  ["created_at", "Oldest first"],
  ["name", "Name"],
  ["expires_at", "Expires soonest"],
  ["-last_used_at", "Last used"],
];
const STATUSES = [
  ["", "Any status"],
  ["active", "Active"],
  ["disabled", "Disabled"],
  ["expired", "Expired"],
  ["spent", "Spent"],
];
const QUOTAS = [
  ["", "Any quota"],
  ["unlimited", "Unlimited"],
  ["monthly", "Monthly"],
  ["total", "Total"],
];
const DIALOGS = { edit: EditKey, rotate: RotateKey, disable: DisableKey, delete: DeleteKey };

/** The list, with what can be done to its keys by whoever manages them. */
export function Keys({ scope, title }) {
  const [{ q = "", status = "", quota = "", sort = "" }, setQuery] = useQuery();
  const pages = usePages([q, status, quota, sort]);
  const [open, setOpen] = useState(null);
  const query = { q, status, quota, sort: sort || "-created_at", after: pages.after, limit: PAGE };
  const list = useLoad((signal) => get(`/${scope.owner}/keys`, query, signal), [scope.owner, JSON.stringify(query)]);
  const close = () => setOpen(null);
  const Opened = open && DIALOGS[open.what];
  const filtered = Boolean(q || status || quota);
  return html`
    <${Heading} scope=${scope} title=${title} lead=${leadOf(scope)}>
      ${scope.manages && html`<button type="button" class="primary" onClick=${() => setOpen({ what: "new" })}><${Icon} name="add" />New API Key</button>`}
    <//>
    <div class="filters" role="search" aria-label="Filter the keys">
      <${Search} value=${q} onChange=${(text) => setQuery({ q: text })} />
      <${Select} label="Status" value=${status} choices=${STATUSES} onChange=${(value) => setQuery({ status: value })} />
      <${Select} label="Quota" value=${quota} choices=${QUOTAS} onChange=${(value) => setQuery({ quota: value })} />
      <${Select} label="Sort by" value=${sort} choices=${SORTS} onChange=${(value) => setQuery({ sort: value })} />
    </div>
    <${Loaded} of=${list} empty=${filtered ? html`<${NoneFound} clear=${() => setQuery({ q: "", status: "", quota: "" })} />` : html`<${NoKeys} scope=${scope} />`}>
      ${(page) => html`
        <${KeyTable} scope=${scope} keys=${page.data} busy=${list.busy} onOpen=${setOpen} onChanged=${list.reload} />
        <${Pager} pages=${pages} next=${page.next} />
      `}
    <//>
    ${open?.what === "new" && html`<${NewKey} scope=${scope} onClose=${close} onMade=${list.reload} />`}
    ${Opened && html`<${Opened} api_key=${open.key} onClose=${close} onDone=${list.reload} />`}
  `;
}

const leadOf = (scope) =>
  scope.kind === "account"
    ? "What these keys use is charged to you."
    : `What these keys use is charged to ${scope.name}.${scope.manages ? "" : " Its admins manage them."}`;

/** A text field that passes on what is typed once the typing pauses. */
function Search({ value, onChange }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text.trim() === value) return undefined;
    const timer = setTimeout(() => onChange(text.trim()), 250);
    return () => clearTimeout(timer);
  }, [text]);
  return html`
    <label class="search">
      <span class="unseen">Search by name</span><${Icon} name="search" />
      <input type="search" placeholder="Search by name" value=${text} onInput=${(event) => setText(event.target.value)} />
    </label>
  `;
}

function KeyTable({ scope, keys, busy, onOpen, onChanged }) {
  const { about } = useSession();
  const zone = about.billing_time_zone;
  const columns = [
    { name: "Name", cell: (key) => html`<${Name} api_key=${key} />`, kind: "name" },
    { name: "API Key", cell: (key) => html`<code class="masked">${key.masked_key}</code>` },
    { name: "Usage Quota", cell: (key) => html`<${Quota} api_key=${key} about=${about} />`, kind: "quota" },
    { name: "Expiration", cell: (key) => (key.expires_at ? html`<${Expiry} at=${key.expires_at} zone=${zone} />` : "Never") },
    { name: "Created At", cell: (key) => html`<${Time} at=${key.created_at} zone=${zone} dateOnly />` },
  ];
  if (scope.manages) {
    const cell = (key) => html`<${Actions} api_key=${key} onOpen=${onOpen} onChanged=${onChanged} />`;
    columns.push({ name: "Actions", cell, kind: "actions" });
  }
  return html`<${Table} caption=${`API keys of ${scope.name}`} columns=${columns} rows=${keys} rowKey=${(key) => key.id} busy=${busy} />`;
}

function Name({ api_key: key }) {
  const limits = [
    key.allowed_models?.length && `only ${key.allowed_models.join(", ")}`,
    key.allowed_networks?.length && `from ${key.allowed_networks.join(", ")}`,
  ].filter(Boolean);
  return html`
    <b>${key.name}</b> <${Status} api_key=${key} />
    ${limits.length > 0 && html`<small>${limits.join(" · ")}</small>`}
  `;
}

function Status({ api_key: key }) {
  if (key.disabled) return html`<${Tag}>Disabled<//>`;
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return html`<${Tag} kind="bad">Expired<//>`;
  if (key.remaining !== null && /^0(\.0*)?$/.test(key.remaining)) return html`<${Tag} kind="bad">Spent<//>`;
  if (key.old_valid_until && Date.parse(key.old_valid_until) > Date.now()) return html`<${Tag} kind="warn">Two secrets<//>`;
  return null;
}

/** What is used of the limit, in words and as a bar. */
function Quota({ api_key: key, about }) {
  const { limit, kind } = key.quota;
  const used = money(key.used, about.currency);
  if (limit === null) return html`<span class="amount"><b>${used}</b> / Unlimited</span>`;
  const zone = about.billing_time_zone;
  const note = kind === "monthly" ? html`monthly, resets <${ZoneDay} at=${key.resets_at} zone=${zone} />` : "in total";
  return html`
    <span class="amount"><b>${used}</b> / ${money(limit, about.currency)}</span>
    <${Bar} part=${share(key.used, limit)} />
    <small>${note}</small>
  `;
}

const Bar = ({ part }) => html`
  <svg class=${`bar ${part >= 1 ? "full" : part >= 0.8 ? "high" : ""}`} aria-hidden="true" focusable="false">
    <rect width="100%" height="100%" rx="3" />
    <rect class="part" width=${`${part * 100}%`} height="100%" rx="3" />
  </svg>
`;

function Actions({ api_key: key, onOpen, onChanged }) {
  const { say } = useSession();
  const enable = async () => {
    try {
      await patch(`/keys/${key.id}`, { disabled: false });
      say(`${key.name} is enabled again.`);
    } catch (error) {
      say(error.message);
    }
    onChanged();
  };
  const open = (what) => () => onOpen({ what, key });
  return html`
    <div class="actions">
      <${Action} icon="edit" label="Edit" of=${key} onClick=${open("edit")} />
      <${Action} icon="rotate" label="Rotate" of=${key} onClick=${open("rotate")} />
      ${key.disabled
        ? html`<${Action} icon="resume" label="Enable" of=${key} onClick=${enable} />`
        : html`<${Action} icon="pause" label="Disable" of=${key} onClick=${open("disable")} />`}
      <${Action} icon="trash" label="Delete" of=${key} onClick=${open("delete")} />
    </div>
  `;
}

const Action = ({ icon, label, of, onClick }) =>
  html`<button type="button" class="quiet bare" title=${label} aria-label=${`${label} ${of.name}`} onClick=${onClick}><${Icon} name=${icon} /></button>`;

function DisableKey({ api_key: key, onClose, onDone }) {
  const { say } = useSession();
  const disable = async () => {
    await patch(`/keys/${key.id}`, { disabled: true });
    say(`${key.name} is disabled.`);
    onClose();
    onDone();
  };
  return html`
    <${Confirm} title="Disable this key?" action="Disable" onClose=${onClose} onConfirm=${disable}>
      <p><b>${key.name}</b> <code class="masked">${key.masked_key}</code></p>
      <p>Its requests are refused at once, until you enable it again. Requests that are running finish and are charged.</p>
    <//>
  `;
}

function DeleteKey({ api_key: key, onClose, onDone }) {
  const { say } = useSession();
  const destroy = async () => {
    await remove(`/keys/${key.id}`);
    say(`${key.name} is deleted.`);
    onClose();
    onDone();
  };
  return html`
    <${Confirm} title="Delete this key?" action="Delete key" danger onClose=${onClose} onConfirm=${destroy}>
      <p><b>${key.name}</b> <code class="masked">${key.masked_key}</code></p>
      <p>The next request with it is refused. There is no way back: give your programs another key first.</p>
      <p>Requests that are already running finish and are charged. What it has spent stays in the charges.</p>
    <//>
  `;
}

const NoKeys = ({ scope }) => html`
  <${Empty} icon="key" title="No keys yet">
    <p>
      ${scope.manages
        ? "A key lets a program call models through this gateway. Make one for each program, so that you can limit or delete it by itself."
        : `The admins of ${scope.name} have not made any.`}
    </p>
    ${scope.manages && html`<p><a href="#/help">How keys work</a></p>`}
  <//>
`;

const NoneFound = ({ clear }) => html`
  <${Empty} icon="search" title="No key fits">
    <p>No key has this name, status and quota.</p>
    <button type="button" onClick=${clear}>Show all keys</button>
  <//>
`;

