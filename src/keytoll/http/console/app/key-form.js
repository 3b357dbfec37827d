// The fields of a key, for making and for editing one.

import { amountProblem, symbol } from "./amounts.js";
import { html, useSession, useState } from "./html.js";
import { Choice, Field } from "./parts.js";
import { endOf, lastDay, today } from "./times.js";

/** What a form for a new key starts with. */
export const NEW = { name: "", quota: "unlimited", limit: "", expires: "never", day: "", models: "", networks: "" };

/** What a form for a key that exists starts with. */
export const formOf = (key, zone) => ({
  name: key.name,
  quota: key.quota.kind,
  limit: key.quota.limit ?? "",
  expires: key.expires_at ? "on" : "never",
  day: key.expires_at ? lastDay(key.expires_at, zone) : "",
  models: (key.allowed_models ?? []).join(", "),
  networks: (key.allowed_networks ?? []).join(", "),
});

/** What the API is asked for. */
export const bodyOf = (form, zone) => ({
  name: form.name.trim(),
  quota: { kind: form.quota, limit: form.quota === "unlimited" ? null : form.limit.trim() },
  expires_at: form.expires === "never" ? null : endOf(form.day, zone),
  allowed_models: listed(form.models),
  allowed_networks: listed(form.networks),
});

/** What the API is asked to change: the fields that differ from how the form began. */
export function changesOf(form, begun, zone) {
  const [now, before] = [bodyOf(form, zone), bodyOf(begun, zone)];
  const changed = Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]));
  return Object.fromEntries(changed);
}

/** What is wrong with the form, by the API's names of its fields; what it can't see, the API tells. */
export function problemsOf(form, zone) {
  const limit = form.quota === "unlimited" ? null : amountProblem(form.limit.trim());
  return without({
    name: form.name.trim() ? null : "Enter a name, such as production.",
    "quota.limit": limit,
    expires_at: form.expires === "never" ? null : dayProblem(form.day, zone),
  });
}

/** The problem that an answer tells, by the field at fault. */
export const problemsIn = (error) => (error?.param ? { [error.param]: capital(error.beside) } : {});

/** Whether an answer's problem stands beside its field, so that it need not be told above all fields. */
export const isBeside = (error) => FIELDS.includes(error?.param);

const FIELDS = ["name", "quota.limit", "expires_at", "allowed_models", "allowed_networks"];

/** The fields. `problems` are those of `problemsOf` and `problemsIn`. */
export function KeyFields({ form, onChange, problems }) {
  const { about } = useSession();
  const set = (name) => (value) => onChange({ ...form, [name]: value });
  const input = (name, more) => (attributes) =>
    html`<input ...${attributes} ...${more} value=${form[name]} onInput=${(event) => set(name)(event.target.value)} />`;
  return html`
    <${Field} label="Name" hint="What it is for, such as production or testing." problem=${problems.name}
      control=${input("name", { type: "text", maxlength: 100, required: true, autocomplete: "off", autofocus: true })} />
    <${Choice} row legend="Usage quota" value=${form.quota} choices=${QUOTAS} onChange=${set("quota")} />
    ${form.quota !== "unlimited" &&
    html`<${Field} label=${`Limit in ${about.currency} (${symbol(about.currency)})`} hint="A limit of 0 blocks the key."
      problem=${problems["quota.limit"]} control=${input("limit", { type: "text", inputmode: "decimal", autocomplete: "off" })} />`}
    <${Choice} row legend="Expiration" value=${form.expires} choices=${EXPIRIES} onChange=${set("expires")} />
    ${form.expires === "on" &&
    html`<${Field} label="Last day" hint=${`It works to the end of this day in ${about.billing_time_zone}.`} problem=${problems.expires_at}
      control=${input("day", { type: "date", min: today(about.billing_time_zone) })} />`}
    <${More} problems=${problems} filled=${form.models || form.networks}>
      <${Field} label="Models" hint="The only ones it may use, with commas between. Empty: every model." problem=${problems.allowed_models}
        control=${input("models", { type: "text", placeholder: "Qwen2.5-72B-Instruct, bge-m3", autocomplete: "off", spellcheck: false })} />
      <${Field} label="Networks" hint="The only addresses it may be used from, with commas between. Empty: anywhere." problem=${problems.allowed_networks}
        control=${input("networks", { type: "text", placeholder: "10.0.0.0/8, 2001:db8::/32", autocomplete: "off", spellcheck: false })} />
    <//>
  `;
}

const QUOTAS = [
  ["unlimited", "Unlimited", "No limit on what it spends"],
  ["monthly", "Monthly quota", "Starts anew with each calendar month"],
  ["total", "Total quota", "For the whole life of the key"],
];
const EXPIRIES = [
  ["never", "Never expires"],
  ["on", "On a date"],
];

/** Fields that few keys need; open where they hold something or something is wrong with them. */
function More({ problems, filled, children }) {
  const [begun] = useState(Boolean(filled));
  const open = begun || Boolean(problems.allowed_models || problems.allowed_networks);
  return html`<details class="more" open=${open}><summary>More: models and networks</summary>${children}</details>`;
}

function dayProblem(day, zone) {
  if (!day) return "Choose a date.";
  return day < today(zone) ? "Choose today or a later day." : null;
}

const listed = (text) => {
  const items = text.split(/[\s,]+/).filter(Boolean);
  return items.length ? items : null;
};
const without = (problems) => Object.fromEntries(Object.entries(problems).filter(([, problem]) => problem));
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
