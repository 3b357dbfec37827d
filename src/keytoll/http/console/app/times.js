// Times are shown as the reader's clock has them. Days, months and expiry dates are the billing zone's.

import { html } from "./html.js";

const DAY_MS = 86_400_000;

/** An instant in the reader's zone; hovering tells it in the billing zone. */
export function Time({ at, zone, dateOnly = false }) {
  const style = dateOnly ? { dateStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
  return html`<time datetime=${at} title=${inZone(at, zone)}>${shown(at, style)}</time>`;
}

/** The instant a key expires: as a date where it is the end of a day in the billing zone. */
export function Expiry({ at, zone }) {
  if (!isMidnight(at, zone)) return html`<${Time} at=${at} zone=${zone} />`;
  const last = shown(new Date(Date.parse(at) - 1), { dateStyle: "medium", timeZone: zone });
  return html`<time datetime=${at} title=${`to the end of the day: ${inZone(at, zone)}`}>${last}</time>`;
}

/** The day of the billing zone that begins or goes on at an instant. */
export const ZoneDay = ({ at, zone }) =>
  html`<time datetime=${at} title=${inZone(at, zone)}>${shown(at, { dateStyle: "medium", timeZone: zone })}</time>`;

/** An instant as a sentence would tell it, in the billing zone. */
export const inZone = (at, zone) => `${shown(at, { dateStyle: "medium", timeStyle: "long", timeZone: zone })} (${zone})`;

/** A calendar day (`2026-11-05`), shown as the reader writes days. */
export const day = (text, style = { dateStyle: "medium" }) => shown(`${text}T00:00:00Z`, { ...style, timeZone: "UTC" });

/** Today in the billing zone, as `2026-11-05`. */
export const today = (zone) => dayOf(Date.now(), zone);

/** The day of an instant in the billing zone; the last one for the midnight that ends it. */
export const lastDay = (at, zone) => dayOf(Date.parse(at) - 1, zone);

/** The day that is so many days later. */
export const daysLater = (text, days) => new Date(Date.parse(`${text}T00:00:00Z`) + days * DAY_MS).toISOString().slice(0, 10);

/** Every day from one to another, both included. */
export function daysBetween(since, until) {
  const number = Math.round((Date.parse(until) - Date.parse(since)) / DAY_MS) + 1;
  return Array.from({ length: Math.max(0, number) }, (_, index) => daysLater(since, index));
}

/** The first instant of a day in the billing zone, in RFC 3339. */
export function startOf(text, zone) {
  const wanted = Date.parse(`${text}T00:00:00Z`);
  // The zone's offset depends on the instant that is looked for, so the first guess is corrected once.
  const guess = wanted - offsetMs(wanted, zone);
  return new Date(wanted - offsetMs(guess, zone)).toISOString().replace(".000Z", "Z");
}

/** The instant at which a day ends in the billing zone. */
export const endOf = (text, zone) => startOf(daysLater(text, 1), zone);

/** The first day of the month that is `months` later than a day's. */
export function monthStart(text, months = 0) {
  const [year, month] = text.split("-").map(Number);
  return new Date(Date.UTC(year, month - 1 + months, 1)).toISOString().slice(0, 10);
}

function shown(at, style) {
  return new Intl.DateTimeFormat(undefined, style).format(at instanceof Date ? at : new Date(at));
}

function dayOf(ms, zone) {
  const { year, month, day: number } = parts(ms, zone);
  return `${year}-${month}-${number}`;
}

function isMidnight(at, zone) {
  const { hour, minute, second } = parts(Date.parse(at), zone);
  return `${hour}${minute}${second}` === "000000";
}

function offsetMs(ms, zone) {
  const { year, month, day: number, hour, minute, second } = parts(ms, zone);
  return Date.UTC(year, month - 1, number, hour, minute, second) - Math.floor(ms / 1000) * 1000;
}

function parts(ms, zone) {
  const style = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const format = new Intl.DateTimeFormat("en-US-u-ca-iso8601", { ...style, hourCycle: "h23", timeZone: zone });
  return Object.fromEntries(format.formatToParts(ms).map(({ type, value }) => [type, value]));
}
